//! A deterministic Raft group over the regions.
