//! Networks and their blocks: implementations of the flow room's traits.
//!
//! Every network is written once, on [`Dual`](crate::flow::Dual): without tangents it serves, with them it gives exact
//! derivatives in time that still back-propagate. It takes its weights from a `VarBuilder`, so the same lines create
//! them ([`init::Initialiser`]), train them (as `Var`s) and load them ([`load`]).

pub mod dit;
pub mod embedding;
pub mod image_layers;
pub mod init;
pub mod kernels;
pub mod layers;
pub mod mlp;
pub mod ops;
pub mod patches;
pub mod sides;
pub mod unet;
pub mod workers;

use candle_core::Device;
use candle_nn::VarBuilder;

use crate::checkpoint::manifest::DataSpec;
use crate::checkpoint::{Architecture, Checkpoint, Weights};
use crate::domain::Guidance;
use crate::error::{Error, Result};
use crate::flow::FlowMap;

pub use dit::Dit;
pub use init::Initialiser;
pub use mlp::Mlp;
pub use unet::Unet;
pub use workers::Workers;

/// Builds the network that `architecture` names for data of `data`'s shape and classes, with the weights of `weights`.
///
/// # Errors
/// [`Error::Compute`] when the numbers do not fit each other or the weights are not there.
pub fn build(architecture: &Architecture, data: &DataSpec, weights: VarBuilder) -> Result<Box<dyn FlowMap>> {
    let net: Box<dyn FlowMap> = match architecture {
        Architecture::Mlp { .. } => Box::new(Mlp::new(architecture, data, weights)?),
        Architecture::Dit { .. } => Box::new(Dit::new(architecture, data, weights)?),
        Architecture::Unet { .. } => Box::new(Unet::new(architecture, data, weights)?),
    };
    Ok(net)
}

/// The network of a checkpoint on `device`, ready to serve: its weights keep no graph.
///
/// # Errors
/// A [`Error::File`] that names every missing, extra or mis-shaped tensor.
pub fn load(checkpoint: &Checkpoint, device: &Device) -> Result<Box<dyn FlowMap>> {
    if matches!(checkpoint.manifest.guidance, Guidance::Input { .. }) {
        let problem = "takes the guidance scale as an input, which no network of this version does";
        return Err(Error::file(&checkpoint.origin, problem));
    }
    let weights = Weights::new(checkpoint, device);
    let net = build(&checkpoint.manifest.architecture, &checkpoint.manifest.data, weights.builder());
    weights.finish()?;
    net
}

impl From<candle_core::Error> for Error {
    fn from(error: candle_core::Error) -> Self {
        Self::Compute(error.to_string())
    }
}

#[cfg(test)]
mod tests;
