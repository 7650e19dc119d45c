//! Real faults against launched binaries.
