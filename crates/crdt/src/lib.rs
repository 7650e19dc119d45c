//! What merges, and by which law: cells, counters, expiry, objects.
