//! Networks and their blocks: implementations of the flow room's traits.
//!
//! Every network is written once, on [`Dual`](crate::flow::Dual): without tangents it serves, with them it gives exact
//! derivatives in time that still back-propagate. It takes its weights from a `VarBuilder`, so the same lines create
//! them ([`init::Initialiser`]), train them (as `Var`s) and load them ([`load`]).

pub mod device;
mod direct;
pub mod dit;
pub mod embedding;
mod executable;
pub mod image_layers;
pub mod init;
pub mod kernels;
pub mod layers;
pub mod mlp;
pub mod ops;
pub mod patches;
pub mod plan;
pub mod sides;
pub mod tape;
pub mod unet;
pub mod workers;

use candle_core::{DType, Device};
use candle_nn::VarBuilder;

use crate::checkpoint::manifest::DataSpec;
use crate::checkpoint::{Architecture, Checkpoint, Weights};
use crate::domain::Guidance;
use crate::error::{Error, Result};
use crate::flow::FlowMap;

pub use device::{OnDevice, Options};
pub use dit::Dit;
pub use executable::Executable;
pub use init::Initialiser;
pub use kernels::team::Team;
pub use mlp::Mlp;
pub use ops::Network;
pub use plan::{Plan, Query};
pub use tape::{Learn, Recorded, Stopped};
pub use unet::Unet;
pub use workers::Workers;

/// A network of any architecture.
enum AnyNetwork {
    Mlp(Mlp),
    Dit(Dit),
    Unet(Unet),
}

impl AnyNetwork {
    fn new(architecture: &Architecture, data: &DataSpec, weights: VarBuilder) -> candle_core::Result<Self> {
        Ok(match architecture {
            Architecture::Mlp { .. } => Self::Mlp(Mlp::new(architecture, data, weights)?),
            Architecture::Dit { .. } => Self::Dit(Dit::new(architecture, data, weights)?),
            Architecture::Unet { .. } => Self::Unet(Unet::new(architecture, data, weights)?),
        })
    }
}

impl Network for AnyNetwork {
    fn velocity<O: ops::Ops>(&self, ops: &O, arguments: &ops::Arguments<O>) -> candle_core::Result<O::Value> {
        match self {
            Self::Mlp(net) => Network::velocity(net, ops, arguments),
            Self::Dit(net) => Network::velocity(net, ops, arguments),
            Self::Unet(net) => Network::velocity(net, ops, arguments),
        }
    }
}

/// Builds the network that `architecture` names for data of `data`'s shape and classes, with the weights of `weights`.
///
/// # Errors
/// [`Error::Compute`] when the numbers do not fit each other or the weights are not there.
pub fn build(architecture: &Architecture, data: &DataSpec, weights: VarBuilder) -> Result<Box<dyn Learn>> {
    Ok(Box::new(AnyNetwork::new(architecture, data, weights)?))
}

/// The network of a checkpoint on `device`, ready to serve: on a CPU it is compiled, elsewhere its weights keep no graph.
///
/// # Errors
/// A [`Error::File`] that names every missing, extra or mis-shaped tensor.
pub fn load(checkpoint: &Checkpoint, device: &Device) -> Result<Executable> {
    if !device.is_cpu() {
        return Ok(Executable::OnDevice(Box::new(load_on(checkpoint, device, Options::default())?)));
    }
    let (net, data) = (open(checkpoint, device, DType::F32)?, &checkpoint.manifest.data);
    Ok(Executable::Compiled(Plan::new(&net, data.shape.iter().product(), data.classes.len() + 1)?))
}

/// The network of a checkpoint as tensors on `device`, a CPU too, evaluated as `options` say.
///
/// # Errors
/// As [`load`].
pub fn load_on(checkpoint: &Checkpoint, device: &Device, options: Options) -> Result<OnDevice> {
    let (net, data) = (open(checkpoint, device, options.precision.dtype())?, &checkpoint.manifest.data);
    Ok(OnDevice::new(net, data.shape.clone(), data.classes.len() + 1, options))
}

/// The network of a checkpoint on `device` as tensors, for who needs its derivatives.
///
/// # Errors
/// As [`load`].
pub fn load_eager(checkpoint: &Checkpoint, device: &Device) -> Result<Box<dyn FlowMap>> {
    Ok(Box::new(open(checkpoint, device, DType::F32)?))
}

fn open(checkpoint: &Checkpoint, device: &Device, dtype: DType) -> Result<AnyNetwork> {
    if matches!(checkpoint.manifest.guidance, Guidance::Input { .. }) {
        let problem = "takes the guidance scale as an input, which no network of this version does";
        return Err(Error::file(&checkpoint.origin, problem));
    }
    let weights = Weights::new(checkpoint, device);
    let data = &checkpoint.manifest.data;
    let net = AnyNetwork::new(&checkpoint.manifest.architecture, data, weights.builder_as(dtype));
    weights.finish()?;
    Ok(net?)
}

impl From<candle_core::Error> for Error {
    fn from(error: candle_core::Error) -> Self {
        Self::Compute(error.to_string())
    }
}

#[cfg(test)]
mod tests;
