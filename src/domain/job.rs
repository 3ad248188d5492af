//! A validated request for images, and what comes back for it.

use std::fmt;
use std::ops::Range;
use std::str::FromStr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::{ModelKey, Sampler, TimeGrid};
use crate::error::Error;

/// A request that has passed every check: it fits its model and cannot be wrong.
#[derive(Debug, Clone)]
pub struct Job {
    /// The client's name for the request, or one that the server made.
    pub request_id: Arc<str>,
    /// On whose account the device works; those who share a device take turns by tenant.
    pub tenant: Arc<str>,
    /// The share of the device beside other jobs of the same tenant.
    pub priority: Priority,
    /// Which model.
    pub model: ModelKey,
    /// How the grid is walked.
    pub sampler: Sampler,
    /// The times that every image visits, should nothing be given up.
    pub grid: TimeGrid,
    /// The fewest steps after which an image may be finished: `1 ..=` those of the longest image. Fewer than all only for
    /// samplers that [jump](Sampler::jumps), whose images are one jump from their end.
    pub min_steps: u32,
    /// One per image, at least one.
    pub sources: Vec<Source>,
    /// Guidance scale.
    pub guidance: f32,
    /// States at the grid's first time instead of noise.
    pub initial: Option<Initial>,
    /// When the answer is worth nothing any more.
    pub deadline: Option<Instant>,
    /// The evaluations after which previews are wanted, rising, each in `1 .. evaluations` of a plan; `None` for no
    /// previews, empty for all of them.
    pub previews: Option<Arc<[u32]>>,
}

/// Whose noise it is: all that an image draws is a function of this, its own and what samplers draw on the way.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct NoiseKey {
    /// The request's seed.
    pub seed: u64,
    /// The image's index at its first generation.
    pub index: u32,
}

impl NoiseKey {
    /// Those of images one after the other.
    #[expect(clippy::cast_possible_truncation, reason = "images of a seed are numbered by u32")]
    pub fn of(seed: u64, images: Range<usize>) -> Vec<Self> {
        images.map(|index| Self { seed, index: index as u32 }).collect()
    }
}

/// States that a job's images begin with instead of noise.
#[derive(Debug, Clone, PartialEq)]
pub struct Initial {
    /// One state for all images, or one per image, one after the other.
    pub states: Arc<[f32]>,
    /// Where the states are data: the time at which images begin, with as much of their own noise as it has.
    pub noised_to: Option<f64>,
}

/// Where one image comes from.
#[derive(Debug, Clone, PartialEq)]
pub struct Source {
    /// The image starts from the noise of `(seed, index)`.
    pub seed: u64,
    /// Index of its noise: its place in the request that made it first.
    pub index: u32,
    /// Class label; `None` is the null class.
    pub label: Option<u32>,
    /// The times that it has walked, where it goes on from an image that was finished before: at least two, the last
    /// one below the end of the grid. The image visits these, then the later times of the grid.
    pub walked: Option<Arc<[f64]>>,
}

impl Source {
    /// An image from noise.
    pub fn noise(seed: u64, index: u32, label: Option<u32>) -> Self {
        Self { seed, index, label, walked: None }
    }

    /// Its noise.
    pub fn noise_key(&self) -> NoiseKey {
        NoiseKey { seed: self.seed, index: self.index }
    }
}

/// A share of the device.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub enum Priority {
    /// A quarter of the ordinary one.
    Low,
    /// The ordinary one.
    #[default]
    Normal,
    /// Four times the ordinary one.
    High,
}

/// Why an image has the number of steps that it has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum StepsReason {
    /// They are all that were asked for.
    Asked,
    /// Another would have missed the deadline.
    Deadline,
    /// More was asked of the device than it can do.
    Overload,
    /// The server was about to stop.
    Shutdown,
}

impl FromStr for Priority {
    type Err = String;

    fn from_str(s: &str) -> Result<Self, Self::Err> {
        match s {
            "low" => Ok(Self::Low),
            "normal" => Ok(Self::Normal),
            "high" => Ok(Self::High),
            _ => Err(format!("unknown priority '{s}'; one of: low, normal, high")),
        }
    }
}

impl fmt::Display for StepsReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Asked => "asked",
            Self::Deadline => "deadline",
            Self::Overload => "overload",
            Self::Shutdown => "shutdown",
        })
    }
}

/// What the scheduler says on taking a job.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Accepted {
    /// Network evaluations planned for each image (guidance not counted).
    pub evaluations: u32,
    /// Images of the same model ahead of this job's first one.
    pub queue_position: usize,
    /// Until the last image, as predicted.
    pub predicted: Duration,
}

/// One finished image.
#[derive(Debug, Clone)]
pub struct Image {
    /// Its place in the request, from 0.
    pub index: u32,
    /// The final state, row-major, in the model's shape.
    pub state: Vec<f32>,
    /// The times that it has visited, first to last.
    pub times: Vec<f64>,
    /// Network evaluations made for it here: fewer than its times take where it went on from a state that was kept.
    pub evaluations: u32,
    /// Why it has visited these times.
    pub reason: StepsReason,
    /// From admission to its first evaluation.
    pub queued: Duration,
    /// From its first evaluation to its last.
    pub computed: Duration,
}

/// An unfinished image, finished for show.
#[derive(Debug, Clone)]
pub struct Preview {
    /// The image's place in the request, from 0.
    pub index: u32,
    /// What the image would be, finished now.
    pub state: Vec<f32>,
    /// Evaluations that the preview consists of, its own jump included.
    pub evaluations: u32,
}

/// The end of a job that succeeded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Summary {
    /// Images made.
    pub images: u32,
    /// Of these, images with all the steps that were asked for.
    pub full: u32,
    /// Network evaluations of all images, previews not counted.
    pub evaluations: u64,
    /// From admission to the last image.
    pub total: Duration,
}

/// What a job's stream carries: images in the order they finish, previews between them, then one end.
#[derive(Debug)]
pub enum JobEvent {
    /// An image is not finished, but can be shown. A newer preview may take the place of one that was not yet taken.
    Preview(Preview),
    /// An image is finished.
    Image(Image),
    /// All are; nothing follows.
    Finished(Summary),
    /// The job ended without all of its images; nothing follows.
    Failed(Error),
}
