//! What vCenter tells, parsed: a value that stands here has been understood.

pub mod datastore;
pub mod disk;
pub mod host;
pub mod read;
pub mod snapshots;
pub mod task;
pub mod vm;
