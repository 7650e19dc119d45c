//! One session per peer: subscribe, ship, receive, gate.
