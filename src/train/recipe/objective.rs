//! What a recipe asks a network to learn.
//!
//! Numbers that many objectives have: `diagonal` is the fraction of rows with `s = t`, where the velocity is learned,
//! `from_noise` the fraction of the other rows that start at `s = 0`, as every sample does, and `teacher` the folder of
//! the checkpoint of the velocity field, from whose weights the student starts.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

/// The objective of a recipe.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum ObjectiveRecipe {
    /// A velocity field by flow matching.
    FlowMatching {},
    /// A flow map by Lagrangian map distillation from a velocity field.
    Lmd {
        teacher: PathBuf,
        diagonal: f64,
        from_noise: f64,
        /// Whether the gradient is stopped at the teacher's input `X_{s,t}(I_s)`.
        stop_gradient: bool,
    },
    /// A flow map by Eulerian map distillation.
    Emd {
        teacher: PathBuf,
        diagonal: f64,
        from_noise: f64,
        /// Whether `∇X b` is a constant: the semigradient.
        stop_gradient: bool,
    },
    /// A flow map in stages, each of which doubles how far it jumps.
    Pfmm {
        teacher: PathBuf,
        diagonal: f64,
        /// Steps of a stage; the last one takes all that are left.
        stage_steps: u64,
        /// Longest jump of the first stage.
        first_window: f64,
    },
    /// The same on halving grids.
    ProgressiveDistillation {
        teacher: PathBuf,
        diagonal: f64,
        /// Steps of a stage; the last one takes all that are left.
        stage_steps: u64,
        /// The first stage jumps by `2^-levels`, the last one by 1.
        levels: u32,
    },
    /// A flow map by regression on simulated trajectories.
    Trajectories {
        teacher: PathBuf,
        diagonal: f64,
        from_noise: f64,
        /// Steps of Heun of each trajectory.
        steps: u32,
    },
    /// The map to `t = 1` from a velocity field.
    ConsistencyDistillation {
        teacher: PathBuf,
        /// Steps between noise and data.
        points: u32,
    },
    /// The map to `t = 1` without a teacher.
    ConsistencyTraining {
        /// Steps between noise and data.
        points: u32,
    },
    /// A flow map in both directions without a teacher: flow map matching.
    Fmm { diagonal: f64 },
    /// Lagrangian self-distillation.
    Lsd { diagonal: f64, from_noise: f64 },
    /// Eulerian self-distillation.
    Esd { diagonal: f64, from_noise: f64 },
    /// Progressive self-distillation by the middle of each jump.
    PsdM { diagonal: f64, from_noise: f64 },
    /// Progressive self-distillation by a point of each jump drawn evenly.
    PsdU { diagonal: f64, from_noise: f64 },
    /// The shortcut model: progressive self-distillation on the dyadic grid.
    Shortcut {
        diagonal: f64,
        /// The shortest jump is `2^-levels`; it is learned from two of Euler's steps.
        levels: u32,
    },
    /// MeanFlow.
    MeanFlow {
        diagonal: f64,
        from_noise: f64,
        /// Exponent of the adaptive weight `(|residual|² + offset)^-power`; 0 for none.
        power: f64,
        /// What keeps the weight finite.
        offset: f64,
    },
}

impl ObjectiveRecipe {
    /// The folder of the teacher's checkpoint.
    pub fn teacher(&self) -> Option<&Path> {
        match self {
            Self::Lmd { teacher, .. }
            | Self::Emd { teacher, .. }
            | Self::Pfmm { teacher, .. }
            | Self::ProgressiveDistillation { teacher, .. }
            | Self::Trajectories { teacher, .. }
            | Self::ConsistencyDistillation { teacher, .. } => Some(teacher),
            Self::FlowMatching {}
            | Self::ConsistencyTraining { .. }
            | Self::Fmm { .. }
            | Self::Lsd { .. }
            | Self::Esd { .. }
            | Self::PsdM { .. }
            | Self::PsdU { .. }
            | Self::Shortcut { .. }
            | Self::MeanFlow { .. } => None,
        }
    }

    /// Whether its teacher changes from stage to stage.
    pub(in crate::train) fn has_stages(&self) -> bool {
        matches!(self, Self::Pfmm { .. } | Self::ProgressiveDistillation { .. })
    }

    /// Whether its times lie on a grid.
    pub(super) fn has_grid(&self) -> bool {
        matches!(self, Self::ProgressiveDistillation { .. } | Self::Shortcut { .. })
    }

    /// What is wrong with its numbers.
    pub(super) fn problems(&self) -> Vec<String> {
        let mut problems = Vec::new();
        let mut check = |holds: bool, name: &str, rule: &str| {
            if !holds {
                problems.push(format!("objective.{name} must be {rule}"));
            }
        };
        let fraction = |v: f64| (0.0..=1.0).contains(&v);
        for (name, value) in self.fractions() {
            check(fraction(value), name, "in [0, 1]");
        }
        match *self {
            Self::Pfmm { stage_steps, first_window, .. } => {
                check(stage_steps > 0, "stage_steps", "at least 1");
                check(first_window > 0.0 && first_window <= 1.0, "first_window", "in (0, 1]");
            }
            Self::ProgressiveDistillation { stage_steps, levels, .. } => {
                check(stage_steps > 0, "stage_steps", "at least 1");
                check((1..=16).contains(&levels), "levels", "in 1 ..= 16");
            }
            Self::Shortcut { levels, .. } => check((1..=16).contains(&levels), "levels", "in 1 ..= 16"),
            Self::Trajectories { steps, .. } => check((1..=1024).contains(&steps), "steps", "in 1 ..= 1024"),
            Self::ConsistencyDistillation { points, .. } | Self::ConsistencyTraining { points } => {
                check(points > 0, "points", "at least 1");
            }
            Self::MeanFlow { power, offset, .. } => {
                check((0.0..=2.0).contains(&power), "power", "in [0, 2]");
                check(offset > 0.0 && offset.is_finite(), "offset", "positive");
            }
            _ => {}
        }
        problems
    }

    fn fractions(&self) -> Vec<(&'static str, f64)> {
        match *self {
            Self::Lmd { diagonal, from_noise, .. }
            | Self::Emd { diagonal, from_noise, .. }
            | Self::Trajectories { diagonal, from_noise, .. }
            | Self::Lsd { diagonal, from_noise }
            | Self::Esd { diagonal, from_noise }
            | Self::PsdM { diagonal, from_noise }
            | Self::PsdU { diagonal, from_noise }
            | Self::MeanFlow { diagonal, from_noise, .. } => vec![("diagonal", diagonal), ("from_noise", from_noise)],
            Self::Pfmm { diagonal, .. }
            | Self::ProgressiveDistillation { diagonal, .. }
            | Self::Fmm { diagonal }
            | Self::Shortcut { diagonal, .. } => vec![("diagonal", diagonal)],
            Self::FlowMatching {} | Self::ConsistencyDistillation { .. } | Self::ConsistencyTraining { .. } => vec![],
        }
    }
}
