//! Admission, queue, choice of batches, deadlines, cancellation, fan-out.
//!
//! A flow-map network takes `(s, t)` per row, so rows of any request, step count, class and guidance share one
//! forward, and every row may join or leave between two forwards. [`handle`] is the side of the callers, [`worker`]
//! the loop that one OS thread runs for one device.

pub mod handle;
pub mod worker;

pub use handle::{Commands, Handle, Limits, Ticket, channel};
