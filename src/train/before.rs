//! The student as it was when a stage began: the teacher of objectives that are their own one stage later.

use candle_core::{DType, Device, Var};

use super::learner::set;
use super::recipe::Recipe;
use crate::checkpoint::manifest::DataSpec;
use crate::error::Result;
use crate::model::{Initialiser, Learn, Stopped, build};

/// A network that takes over the average of the weights where a stage begins. The first stage has none.
pub(super) struct Before {
    net: Box<dyn Learn>,
    /// The tensors that `net` reads, in the order of the learner's weights; none for what is not the network's.
    vars: Vec<Option<Var>>,
    /// The stage that it is the teacher of.
    pub(super) stage: u64,
    /// Its weights, in the order of the learner's.
    pub(super) values: Vec<Vec<f32>>,
}

impl Before {
    /// A network of `recipe`'s kind, for a learner of these weights.
    pub(super) fn new(recipe: &Recipe, data: &DataSpec, weights: &[(String, Var)]) -> Result<Self> {
        let source = Initialiser::new(recipe.seed);
        let net = build(&recipe.model, data, source.builder(DType::F32, &Device::Cpu))?;
        let own = source.vars();
        let vars = weights.iter().map(|(name, _)| own.get(name).cloned()).collect();
        let values = weights.iter().map(|(_, var)| vec![0.0; var.elem_count()]).collect();
        Ok(Self { net, vars, stage: 0, values })
    }

    /// Takes over `average` where `stage` is another one than so far.
    pub(super) fn enter(&mut self, stage: u64, average: &[Vec<f32>]) -> Result<()> {
        if stage == self.stage {
            return Ok(());
        }
        self.values = average.to_vec();
        self.stage = stage;
        self.publish()
    }

    /// Makes the network read the values.
    pub(super) fn publish(&self) -> Result<()> {
        let mut own = self.vars.iter().zip(&self.values).filter_map(|(var, values)| Some((var.as_ref()?, values)));
        own.try_for_each(|(var, values)| set(var, values))
    }

    /// The network, from the second stage on.
    pub(super) fn network(&self) -> Option<Stopped<'_>> {
        (self.stage > 0).then(|| Stopped(self.net.as_ref()))
    }
}
