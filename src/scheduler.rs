//! Admission, queue, choice of batches, deadlines, cancellation, fan-out.
//!
//! A flow-map network takes `(s, t)` per row, so rows of any request, step count, class and guidance share one
//! forward, and every row may join or leave between two forwards. No key sorts rows into compatible batches; the only
//! thing that rows of a forward have in common is the model.
//!
//! [`handle`] is the callers' side, [`worker`] the loop that one OS thread runs for one device. Between them a pure,
//! synchronous state machine decides: `core` (admission, forwards, ends), `queue` (whose turn it is), `progress` (how
//! far a job has come), `cost` (how large a forward may be).

pub mod handle;
pub mod worker;

mod calibrate;
mod core;
mod cost;
mod observer;
mod progress;
mod queue;
mod tags;
#[cfg(test)]
mod testing;

pub use handle::{Commands, Handle, Limits, Ticket, channel};
