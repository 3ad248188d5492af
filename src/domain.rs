//! Plain data of a request and of its result: what every room may know.
//!
//! Nothing here computes on tensors or speaks a protocol. Times are `f64` in `[0, 1]`, `t = 0` is noise and
//! `t = 1` is data, everywhere in the crate.

mod grid;
mod job;
mod model;
mod quality;
mod receipt;

pub use grid::{Evaluation, Rule, Sampler, TimeGrid};
pub use job::{Accepted, Image, Job, JobEvent, Preview, Priority, Source, StepsReason, Summary};
pub use model::{Guidance, ModelId, ModelInfo, ModelKey, ModelRef, TimePairs};
pub use quality::{Quality, QualityRow};
pub use receipt::{Digest, Receipt};
