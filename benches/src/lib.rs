//! Side-by-side measurements against redis-server.
