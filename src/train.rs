//! Training: objectives, optimisers, the loop and its state on disk.
//!
//! A run is a pure function of its recipe, its data and its teacher: every row of every step draws its data, noise,
//! class and times from a counter-based generator keyed by `(seed, step, row)`, and gradients of micro-batches are
//! summed in a fixed order. So a run that was stopped and resumed, on any number of threads of one kind of processor,
//! makes the same weights.

mod batch;
mod before;
mod learner;
mod objective;
mod optimiser;
mod pairs;
mod recipe;
mod report;
mod run;
mod samples;
mod schedule;
mod state;
mod trial;
mod weighting;

pub use recipe::Recipe;
pub use run::{Outcome, Run, run};
pub use trial::Trial;

#[cfg(test)]
mod tests;
