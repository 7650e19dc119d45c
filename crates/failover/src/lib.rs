//! Observations to decisions: detection, quorum, epochs, DNS tables.
