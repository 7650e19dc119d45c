//! Redis wire protocol: bytes to commands, replies to bytes.
