//! Real faults against launched binaries.
//!
//! [`cluster`] starts `meridian up` and has it cut links, kill and start regions; [`load`] writes
//! while that happens and remembers what was acknowledged and what was seen elsewhere; [`redis_port`],
//! [`http`], [`names`] and [`source`] look at a cluster as its users do. The demonstration
//! (`meridian-demo`) is told in `demo/`.

pub mod cluster;
pub mod http;
pub mod interrupt;
pub mod limits;
pub mod load;
pub mod names;
pub mod patience;
pub mod redis_port;
pub mod shop;
pub mod source;
