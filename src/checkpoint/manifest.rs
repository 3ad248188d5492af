//! `config.json`: everything about a model but its weights.

use serde::{Deserialize, Serialize};

use crate::domain::{Guidance, TimePairs};

/// The only schema version that this crate writes and reads.
pub const SCHEMA_VERSION: u32 = 1;

/// The contents of `config.json`. Strict: an unknown field is an error.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// Version of this schema.
    pub schema_version: u32,
    /// One sentence for people.
    pub description: String,
    /// The network and all its numbers.
    pub architecture: Architecture,
    /// What it was trained on and how samples are laid out.
    pub data: DataSpec,
    /// Standard deviation of the noise at `t = 0`.
    pub noise_scale: f32,
    /// Always `noise_0_data_1`: written down so that nobody has to guess.
    pub time_convention: TimeConvention,
    /// How guidance is taken.
    pub guidance: Guidance,
    /// Legal time pairs.
    pub time_pairs: TimePairs,
    /// How it was made.
    pub training: TrainingRecord,
    /// Weights: number and content.
    pub weights: WeightsRecord,
}

/// A network and its numbers.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum Architecture {
    /// Multi-layer perceptron on `(x, s, t)` for points.
    Mlp {
        /// Width of the hidden layers.
        width: usize,
        /// Number of hidden layers.
        depth: usize,
    },
    /// Patch transformer with adaLN-Zero conditioning (DiT, arXiv 2212.09748) on `s`, `t - s` and the class.
    Dit {
        /// Side of a square patch, in pixels.
        patch: usize,
        /// Width of a token.
        width: usize,
        /// Number of blocks.
        depth: usize,
        /// Attention heads; divides `width`.
        heads: usize,
        /// Hidden width of a block's MLP over `width`.
        mlp_ratio: usize,
        /// Sinusoids per embedded time.
        frequencies: usize,
        /// Highest angular frequency of the time embedding, rad per unit time.
        max_frequency: f64,
    },
}

/// Layout, range and classes of the data.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DataSpec {
    /// Name of the data set.
    pub name: String,
    /// Shape of one sample: `[channels, height, width]` or `[d]`.
    pub shape: Vec<usize>,
    /// Smallest and largest value.
    pub range: [f32; 2],
    /// Class names by label; empty for an unconditional model.
    pub classes: Vec<String>,
}

/// The time convention of the weights.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum TimeConvention {
    /// `t = 0` is noise, `t = 1` is data, linear interpolant.
    #[serde(rename = "noise_0_data_1")]
    Noise0Data1,
}

/// How a checkpoint was trained.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TrainingRecord {
    /// Objective, for example `flow_matching` or `lmd`.
    pub objective: String,
    /// Optimiser steps taken.
    pub steps: u64,
    /// Samples seen.
    pub samples: u64,
    /// Decay of the exponential moving average whose weights these are.
    pub ema_decay: f64,
    /// The recipe, verbatim TOML.
    pub recipe: String,
    /// Content hash of the teacher, for a distilled model.
    pub teacher: Option<String>,
}

/// What the file of weights must be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WeightsRecord {
    /// Number of weights.
    pub parameters: u64,
    /// BLAKE3 of `model.safetensors`, in hexadecimal.
    pub blake3: String,
}
