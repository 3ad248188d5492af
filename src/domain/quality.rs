//! How good a model was found to be: the part of an evaluation that travels with its checkpoint.

use serde::{Deserialize, Serialize};

use super::Sampler;

/// What one measure said of a model's samples, by how they were made. Less is better.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Quality {
    /// What measured: program, version, and whatever else makes two values comparable.
    pub evaluator: String,
    /// Name of the measure.
    pub measure: String,
    /// What exact samples, or other data, measured; no sampler can pass it.
    pub floor: Option<f64>,
    /// Samples of each row.
    pub samples: u64,
    /// The rows.
    pub rows: Vec<QualityRow>,
}

/// A way to make samples, and how good they were.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct QualityRow {
    /// How the grid was walked.
    pub sampler: Sampler,
    /// In how many uniform steps.
    pub steps: u32,
    /// Network evaluations of one sample.
    pub evaluations: u32,
    /// The measure.
    pub value: f64,
}
