//! From a recipe to its objective.

use candle_core::Device;

use super::consistency::Consistency;
use super::emd::Emd;
use super::esd::Esd;
use super::flow_matching::FlowMatching;
use super::fmm::Fmm;
use super::lmd::Lmd;
use super::lsd::Lsd;
use super::mean_flow::MeanFlow;
use super::progressive::{Progressive, Windows};
use super::psd::{Midpoint, Psd};
use super::trajectories::Trajectories;
use super::{Objective, Pairs};
use crate::checkpoint::Checkpoint;
use crate::error::{Error, Result};
use crate::flow::FlowMap;
use crate::model;
use crate::train::recipe::ObjectiveRecipe;

/// The objective of a recipe, with the checkpoint that it names as its teacher.
///
/// # Errors
/// [`Error::Config`] where there is no teacher and one is needed; whatever loading it reports.
pub(in crate::train) fn choose(recipe: &ObjectiveRecipe, teacher: Option<&Checkpoint>) -> Result<Box<dyn Objective>> {
    use ObjectiveRecipe as R;
    let compiled = || -> Result<Box<dyn FlowMap>> { Ok(Box::new(model::load(needed(teacher)?, &Device::Cpu)?)) };
    let triangle = |&diagonal: &f64, &from_noise: &f64| Pairs::Triangle { diagonal, from_noise };
    Ok(match recipe {
        R::FlowMatching {} => Box::new(FlowMatching),
        R::Lmd { diagonal, from_noise, stop_gradient, .. } => {
            // Only a gradient that goes on through the teacher needs it as tensors.
            let teacher = match stop_gradient {
                true => compiled()?,
                false => model::load_eager(needed(teacher)?, &Device::Cpu)?,
            };
            Box::new(Lmd { teacher, pairs: triangle(diagonal, from_noise), stop_gradient: *stop_gradient })
        }
        R::Emd { diagonal, from_noise, stop_gradient, .. } => {
            Box::new(Emd { teacher: compiled()?, pairs: triangle(diagonal, from_noise), stop_gradient: *stop_gradient })
        }
        R::Pfmm { diagonal, stage_steps, first_window, .. } => Box::new(Progressive {
            teacher: compiled()?,
            stage_steps: *stage_steps,
            windows: Windows::Doubling { first: *first_window },
            diagonal: *diagonal,
        }),
        R::ProgressiveDistillation { diagonal, stage_steps, levels, .. } => Box::new(Progressive {
            teacher: compiled()?,
            stage_steps: *stage_steps,
            windows: Windows::Halving { finest: *levels },
            diagonal: *diagonal,
        }),
        R::Trajectories { diagonal, from_noise, steps, .. } => {
            Box::new(Trajectories { teacher: compiled()?, steps: *steps, pairs: triangle(diagonal, from_noise) })
        }
        R::ConsistencyDistillation { points, .. } => {
            Box::new(Consistency { teacher: Some(compiled()?), points: *points })
        }
        R::ConsistencyTraining { points } => Box::new(Consistency { teacher: None, points: *points }),
        R::Fmm { diagonal } => Box::new(Fmm { pairs: Pairs::Square { diagonal: *diagonal } }),
        R::Lsd { diagonal, from_noise } => Box::new(Lsd { pairs: triangle(diagonal, from_noise) }),
        R::Esd { diagonal, from_noise } => Box::new(Esd { pairs: triangle(diagonal, from_noise) }),
        R::PsdM { diagonal, from_noise } => psd("psd_m", Midpoint::Half, triangle(diagonal, from_noise)),
        R::PsdU { diagonal, from_noise } => psd("psd_u", Midpoint::Uniform, triangle(diagonal, from_noise)),
        R::Shortcut { diagonal, levels } => Box::new(Psd {
            name: "shortcut",
            midpoint: Midpoint::Half,
            pairs: Pairs::Dyadic { diagonal: *diagonal, coarsest: 0, finest: *levels },
            shortest: 0.5f64.powi(levels.cast_signed()),
        }),
        R::MeanFlow { diagonal, from_noise, power, offset } => {
            Box::new(MeanFlow { pairs: triangle(diagonal, from_noise), power: *power, offset: *offset })
        }
    })
}

fn psd(name: &'static str, midpoint: Midpoint, pairs: Pairs) -> Box<dyn Objective> {
    Box::new(Psd { name, midpoint, pairs, shortest: 0.0 })
}

fn needed(teacher: Option<&Checkpoint>) -> Result<&Checkpoint> {
    teacher.ok_or_else(|| Error::Config(vec!["objective.teacher: this objective needs one".into()]))
}
