//! How the learning rate changes over a run.

use std::f64::consts::PI;

use serde::{Deserialize, Serialize};

/// A factor on the peak learning rate, by step.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum Schedule {
    /// Linear warm-up, then the peak.
    Constant {
        /// Steps of warm-up.
        warmup: u64,
    },
    /// Linear warm-up, then half a cosine down to `floor` at the last step.
    Cosine {
        /// Steps of warm-up.
        warmup: u64,
        /// The last factor.
        floor: f64,
    },
    /// Linear warm-up, then `1 / √max(1, k / hold)` at step `k` (Boffi et al., arXiv 2505.18825, Table 2).
    InverseSqrt {
        /// Steps of warm-up.
        warmup: u64,
        /// Steps before the decay begins.
        hold: u64,
    },
}

impl Schedule {
    /// The factor at `step` (from 0) of a run of `steps`.
    pub fn factor(&self, step: u64, steps: u64) -> f64 {
        let (&Self::Constant { warmup } | &Self::Cosine { warmup, .. } | &Self::InverseSqrt { warmup, .. }) = self;
        if step < warmup {
            return (step + 1) as f64 / warmup as f64;
        }
        match *self {
            Self::Constant { .. } => 1.0,
            Self::Cosine { floor, .. } => {
                let done = (step - warmup) as f64 / steps.saturating_sub(warmup).max(1) as f64;
                floor + (1.0 - floor) * 0.5 * (1.0 + (PI * done.min(1.0)).cos())
            }
            Self::InverseSqrt { hold, .. } => (step as f64 / hold as f64).max(1.0).sqrt().recip(),
        }
    }

    /// Whether a step's factor depends on how long the run is.
    pub(super) fn depends_on_steps(&self) -> bool {
        matches!(self, Self::Cosine { .. })
    }

    /// What is wrong with its numbers.
    pub(super) fn problems(&self) -> Option<String> {
        match *self {
            Self::Cosine { floor, .. } if !(0.0..=1.0).contains(&floor) => {
                Some("schedule: floor must be in [0, 1]".into())
            }
            Self::InverseSqrt { hold: 0, .. } => Some("schedule: hold must be at least 1".into()),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_schedule_warms_up_and_then_falls_to_its_end() {
        let cosine = Schedule::Cosine { warmup: 10, floor: 0.1 };
        assert!((cosine.factor(0, 110) - 0.1).abs() < 1e-12 && (cosine.factor(10, 110) - 1.0).abs() < 1e-12);
        assert!((cosine.factor(60, 110) - 0.55).abs() < 1e-12 && (cosine.factor(110, 110) - 0.1).abs() < 1e-12);
        let root = Schedule::InverseSqrt { warmup: 0, hold: 100 };
        assert!((root.factor(100, 0) - 1.0).abs() < 1e-12 && (root.factor(400, 0) - 0.5).abs() < 1e-12);
        assert!((Schedule::Constant { warmup: 4 }.factor(1, 0) - 0.5).abs() < 1e-12);
    }
}
