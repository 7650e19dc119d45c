//! What Redis commands mean: one stage from command or remote frame to record.
