//! Authoritative DNS that answers with the nearest healthy region.
