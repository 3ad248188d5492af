//! Plain data of a request and of its result: what every room may know.
//!
//! Nothing here computes on tensors or speaks a protocol. Times are `f64` in `[0, 1]`, `t = 0` is noise and
//! `t = 1` is data, everywhere in the crate.

mod grid;
mod job;
mod model;
mod pairs;
mod quality;
mod receipt;
mod sampler;

pub use grid::TimeGrid;
pub use job::{Accepted, Image, Initial, Job, JobEvent, NoiseKey, Preview, Priority, Source, StepsReason, Summary};
pub use model::{Guidance, ModelId, ModelInfo, ModelKey, ModelRef};
pub use pairs::TimePairs;
pub use quality::{Quality, QualityRow};
pub use receipt::{Digest, Receipt};
pub use sampler::{Evaluation, Gamma, Renoising, Rule, Sampler};
