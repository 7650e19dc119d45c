//! QUIC between regions: mutual TLS, lanes, datagrams.
