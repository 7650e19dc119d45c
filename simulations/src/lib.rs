//! Seeded simulation of whole clusters around the production core.
