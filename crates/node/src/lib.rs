//! One region as one state machine.
