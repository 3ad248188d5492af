//! Networks and their blocks: implementations of the flow room's traits.

pub mod kernels;
