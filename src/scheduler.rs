//! Admission, queue, choice of batches, deadlines, cancellation, fan-out.
//!
//! A flow-map network takes `(s, t)` per row, so rows of any request, step count, class and guidance share one
//! forward, and every row may join or leave between two forwards. No key sorts rows into compatible batches; the only
//! thing that rows of a forward have in common is the model. And a row in flight is always one evaluation from a valid
//! image: so steps can be given up where a deadline or an overload would else cost the image.
//!
//! [`handle`] is the callers' side, [`worker`] the loop that one OS thread runs for one device; they meet at the
//! `exchange`. What is decided, the pure [`core`] decides, in which
//!
//! - `queue` says whose turn it is, by `tags`, and `progress` how far a job has come;
//! - `image` decides how many steps an image gets, `brown_out` how many it may begin with;
//! - `forecast` says what can be finished in time, from what forwards `cost`;
//! - `kept` holds the states from which finished images can be continued.

pub mod core;
pub mod cost;
pub mod handle;
pub mod limits;
pub mod worker;

mod brown_out;
mod calibrate;
#[cfg(test)]
mod checked;
mod desk;
mod exchange;
mod forecast;
mod image;
mod kept;
mod observer;
mod progress;
mod queue;
mod slot;
mod tags;
#[cfg(test)]
pub(crate) mod testing;
mod time;

/// What threads meet with; the module `checked` has a checker's in their place.
mod sync {
    pub(super) use std::sync::{Condvar, Mutex, MutexGuard};
}

pub use core::{Core, DeviceId};
pub use exchange::Clock;
pub use handle::{Board, Handle, Ticket, channel};
pub use limits::{BrownOutLimits, Headroom, Limits};
pub use progress::JobId;
pub use queue::Load;
