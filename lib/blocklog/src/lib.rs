//! The log: the blocks of a cycle on their way from source to replica, and the documents by which the halves of Hawser meet.

pub mod clock;
pub mod store;
