//! Cycles as their objects show them.

pub mod mirror;
