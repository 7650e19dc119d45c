//! The meridian command.

mod config;

fn main() {}
