//! Ports for the log and the checkpoint, their formats, and an in-memory implementation that models crashes.
