//! Devices: what runs a batch of rows through a network.
//!
//! An [`Engine`] owns the weights of every loaded model and the state of every row in flight; it is driven by one OS
//! thread and never shared. The scheduler speaks to it in rows and evaluations, never in tensors.
//!
//! On a CPU the numbers of a row depend on nothing else in its batch. Other devices do not promise that: see
//! `engine.fixed_rows` in `docs/CUDA.md`.

pub mod device;
#[doc(hidden)]
pub mod scripted;

use std::sync::Arc;

use crate::domain::{Evaluation, ModelKey, NoiseKey};
use crate::error::Result;

pub use device::{DeviceEngine, Loaded};

/// Identity of a row (one image in flight), unique while the process lives.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RowId(pub u64);

impl RowId {
    /// Rows from here up are probes that measure the engine, not images.
    pub const FIRST_PROBE: Self = Self(1 << 63);
}

/// Where a row begins.
#[derive(Debug, Clone, PartialEq)]
pub enum Start {
    /// The row's noise, see `flow::noise`.
    Noise,
    /// Row `index` of the states that the client sent, one after the other; where it sent one, that one.
    State {
        /// All states of the request: one, or one per image.
        states: Arc<[f32]>,
        /// Which of them.
        index: u32,
        /// Where the states are data: the time up to which the row's noise is added.
        noised_to: Option<f64>,
    },
}

/// One evaluation of one row.
#[derive(Debug, Clone, PartialEq)]
pub struct RowStep {
    /// The row.
    pub row: RowId,
    /// Set on a row's first evaluation only; the engine then keeps its state until the row ends. A preview that shares
    /// the batch with that evaluation has it, too.
    pub start: Option<Start>,
    /// Whose noise the row begins with, and draws where its rule says so.
    pub noise: NoiseKey,
    /// What to evaluate and how the state moves.
    pub evaluation: Evaluation,
    /// Class label, `None` for the null class.
    pub label: Option<u32>,
    /// Guidance scale.
    pub guidance: f32,
    /// What becomes of the row.
    pub purpose: Purpose,
}

/// What an evaluation is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// The row moves and goes on.
    Advance,
    /// The row ends: its state is returned and forgotten.
    Finish {
        /// Whether the state before this evaluation is returned as well.
        keep: bool,
    },
    /// The row stays where it is; where this evaluation would have taken it is returned. Such a step may share a batch
    /// with one that moves the same row, and sees the row as it is before that.
    Preview,
}

/// Rows of one model that share a forward, whatever their requests, times, classes and guidance.
#[derive(Debug, Clone, PartialEq)]
pub struct Batch {
    /// The model.
    pub model: ModelKey,
    /// Its rows, each at most once but for previews.
    pub rows: Vec<RowStep>,
}

/// What became of a row in one forward.
#[derive(Debug, Clone, PartialEq)]
pub enum Outcome {
    /// It moved and is kept.
    Running,
    /// It ended; the engine has forgotten it.
    Finished {
        /// Its final state, row-major.
        state: Vec<f32>,
        /// The state before the last evaluation, where that was asked for.
        before: Option<Vec<f32>>,
    },
    /// It has not moved; this is where it would have ended.
    Preview(Vec<f32>),
    /// It failed alone, and why. The engine has forgotten it.
    Failed(String),
}

/// A device that evaluates batches.
pub trait Engine: Send {
    /// Evaluates every row of `batch` once and says, in the order of the rows, what became of each. A row's result
    /// depends on that row alone, to the bit, whatever shares the forward.
    ///
    /// # Errors
    /// - [`Error::Compute`](crate::error::Error::Compute): the forward failed; the states of all rows of the batch
    ///   are gone, other rows are kept.
    /// - [`Error::Unavailable`](crate::error::Error::Unavailable): the device is lost and no later call can succeed.
    fn step(&mut self, batch: &Batch) -> Result<Vec<Outcome>>;

    /// Forgets rows that were cancelled or expired. Unknown rows are ignored.
    fn release(&mut self, rows: &[RowId]);
}
