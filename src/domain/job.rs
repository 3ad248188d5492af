//! A validated request for images, and what comes back for it.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::{ModelKey, Sampler, TimeGrid};
use crate::error::Error;

/// A request that has passed every check: it fits its model and cannot be wrong.
#[derive(Debug, Clone)]
pub struct Job {
    /// The client's name for the request, or one that the server made.
    pub request_id: Arc<str>,
    /// Which model.
    pub model: ModelKey,
    /// How the grid is walked.
    pub sampler: Sampler,
    /// The times that every image visits.
    pub grid: TimeGrid,
    /// Image `i` starts from the noise of `(seed, i)`.
    pub seed: u64,
    /// One class label per image; `None` is the null class.
    pub labels: Vec<Option<u32>>,
    /// Guidance scale.
    pub guidance: f32,
    /// States at the grid's first time instead of noise: one for all images, or one per image, one after the other.
    pub initial: Option<Arc<[f32]>>,
    /// When the answer is worth nothing any more.
    pub deadline: Option<Instant>,
}

/// What the scheduler says on taking a job.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Accepted {
    /// Network evaluations planned for each image (guidance not counted).
    pub evaluations: u32,
    /// Images of the same model ahead of this job's first one.
    pub queue_position: usize,
}

/// One finished image.
#[derive(Debug, Clone)]
pub struct Image {
    /// Its place in the request, from 0.
    pub index: u32,
    /// The final state, row-major, in the model's shape.
    pub state: Vec<f32>,
    /// Network evaluations that it took.
    pub evaluations: u32,
    /// From admission to its first evaluation.
    pub queued: Duration,
    /// From its first evaluation to its last.
    pub computed: Duration,
}

/// The end of a job that succeeded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Summary {
    /// Images made.
    pub images: u32,
    /// Network evaluations of all images.
    pub evaluations: u64,
    /// From admission to the last image.
    pub total: Duration,
}

/// What a job's stream carries: images in the order they finish, then one end.
#[derive(Debug)]
pub enum JobEvent {
    /// An image is finished.
    Image(Image),
    /// All are; nothing follows.
    Finished(Summary),
    /// The job ended without all of its images; nothing follows.
    Failed(Error),
}
