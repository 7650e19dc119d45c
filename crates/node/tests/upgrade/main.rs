//! Versions side by side, and what older ones said and left on disk: any later one must read it.

mod corpus;
mod region;
mod version_1;
mod version_4;
