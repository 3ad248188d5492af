//! Handing a checkpoint's tensors to the builder of a network, strictly.
//!
//! A network asks for its tensors one after the other. [`Weights`] notes each request; a tensor that is missing or of
//! another shape is replaced by zeros, so that the builder goes on and [`Weights::finish`] can report every problem of
//! the checkpoint at once.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use candle_core::{DType, Device, Shape, Tensor};
use candle_nn::var_builder::{SimpleBackend, VarBuilder};

use super::store::{Checkpoint, WEIGHTS_FILE};
use crate::error::{Error, Result};

/// Most numbers that stand in for missing tensors: a wrong checkpoint costs at most 256 MiB before it is refused.
const MAX_STAND_IN: usize = 1 << 26;
/// Most problems that one message lists.
const MAX_LISTED: usize = 20;

/// A checkpoint's tensors while a network is built from them.
pub struct Weights {
    shared: Arc<Shared>,
    device: Device,
}

impl Weights {
    /// The weights of `checkpoint`, to be placed on `device`.
    pub fn new(checkpoint: &Checkpoint, device: &Device) -> Self {
        let path = checkpoint.origin.join(WEIGHTS_FILE);
        let shared = Shared { tensors: checkpoint.tensors.clone(), path, asked: Mutex::default() };
        Self { shared: Arc::new(shared), device: device.clone() }
    }

    /// What a network takes its tensors from, as f32.
    pub fn builder(&self) -> VarBuilder<'static> {
        self.builder_as(DType::F32)
    }

    /// What a network takes its tensors from, as `dtype`.
    pub fn builder_as(&self, dtype: DType) -> VarBuilder<'static> {
        let backend = Box::new(Backend(Arc::clone(&self.shared)));
        VarBuilder::from_backend(backend, dtype, self.device.clone())
    }

    /// Checks, once the network is built, that it asked for exactly the tensors that are there.
    ///
    /// # Errors
    /// [`Error::File`] that lists every missing, mis-shaped and left-over tensor.
    pub fn finish(self) -> Result<()> {
        let asked = self.shared.asked();
        let left_over = self.shared.tensors.iter().filter(|(name, _)| !asked.names.contains(*name));
        let left_over = left_over.map(|(name, tensor)| format!("'{name}' {:?} is not used", tensor.dims()));
        let problems: Vec<String> = asked.problems.values().cloned().chain(left_over).collect();
        if problems.is_empty() {
            return Ok(());
        }
        let listed = problems[..problems.len().min(MAX_LISTED)].join("; ");
        let more = match problems.len().saturating_sub(MAX_LISTED) {
            0 => String::new(),
            n => format!("; and {n} more"),
        };
        let problem = format!("its tensors are not those of the network that config.json describes: {listed}{more}");
        Err(Error::file(&self.shared.path, problem))
    }
}

struct Shared {
    tensors: BTreeMap<String, Tensor>,
    path: PathBuf,
    asked: Mutex<Asked>,
}

/// What has been asked for so far.
#[derive(Default)]
struct Asked {
    names: BTreeSet<String>,
    problems: BTreeMap<String, String>,
    stand_in: usize,
}

impl Shared {
    /// The record stays usable if a builder's thread panicked: it is only ever added to.
    fn asked(&self) -> MutexGuard<'_, Asked> {
        self.asked.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The tensor `name`, if it is there in the shape that is asked for.
    fn find(&self, name: &str, shape: &Shape) -> Result<&Tensor, String> {
        match self.tensors.get(name) {
            Some(tensor) if tensor.shape() == shape => Ok(tensor),
            Some(tensor) => Err(format!("'{name}' is {:?} where {:?} is needed", tensor.dims(), shape.dims())),
            None => Err(format!("'{name}' {:?} is missing", shape.dims())),
        }
    }
}

struct Backend(Arc<Shared>);

impl SimpleBackend for Backend {
    fn get(
        &self,
        shape: Shape,
        name: &str,
        _: candle_nn::Init,
        dtype: DType,
        device: &Device,
    ) -> candle_core::Result<Tensor> {
        let mut asked = self.0.asked();
        asked.names.insert(name.to_owned());
        match self.0.find(name, &shape) {
            Ok(tensor) => tensor.to_device(device)?.to_dtype(dtype),
            Err(problem) => {
                let elements = shape.dims().iter().fold(1usize, |n, &side| n.saturating_mul(side));
                asked.stand_in = asked.stand_in.saturating_add(elements);
                asked.problems.insert(name.to_owned(), problem.clone());
                if asked.stand_in > MAX_STAND_IN {
                    candle_core::bail!("{}: {problem}, and so are too many others", self.0.path.display());
                }
                Tensor::zeros(shape, dtype, device)
            }
        }
    }

    fn get_unchecked(&self, name: &str, dtype: DType, device: &Device) -> candle_core::Result<Tensor> {
        let mut asked = self.0.asked();
        asked.names.insert(name.to_owned());
        match self.0.tensors.get(name) {
            Some(tensor) => tensor.to_device(device)?.to_dtype(dtype),
            None => {
                let problem = format!("'{name}' is missing");
                asked.problems.insert(name.to_owned(), problem.clone());
                candle_core::bail!("{}: {problem}", self.0.path.display())
            }
        }
    }

    fn contains_tensor(&self, name: &str) -> bool {
        self.0.tensors.contains_key(name)
    }
}

#[cfg(test)]
mod tests {
    use super::super::manifest::tests::example;
    use super::*;

    fn weights(shapes: &[(&str, &[usize])]) -> Weights {
        let tensor = |shape: &[usize]| Tensor::ones(shape, DType::F32, &Device::Cpu).unwrap();
        let tensors = shapes.iter().map(|(name, shape)| ((*name).to_owned(), tensor(shape))).collect();
        let checkpoint = Checkpoint { manifest: example(), tensors, origin: "models/x/1".into() };
        Weights::new(&checkpoint, &Device::Cpu)
    }

    #[test]
    fn a_network_that_asks_for_what_is_there_gets_it() {
        let weights = weights(&[("block.weight", &[2, 3]), ("block.bias", &[2])]);
        let linear = candle_nn::linear(3, 2, weights.builder().pp("block")).unwrap();
        weights.finish().unwrap();
        assert_eq!(linear.weight().sum_all().unwrap().to_scalar::<f32>().unwrap(), 6.0);
    }

    #[test]
    fn every_problem_is_reported_at_once() {
        let weights = weights(&[("a", &[2]), ("b", &[2]), ("c", &[5])]);
        let builder = weights.builder();
        builder.get(2, "a").unwrap();
        let stand_in = builder.get((2, 2), "b").unwrap();
        assert_eq!(stand_in.to_vec2::<f32>().unwrap(), [[0.0; 2]; 2]);
        builder.get(7, "d").unwrap();
        let problem = weights.finish().unwrap_err().to_string();
        for expected in ["models/x/1", "'b' is [2] where [2, 2] is needed", "'c' [5] is not used", "'d' [7] is missing"]
        {
            assert!(problem.contains(expected), "{problem}");
        }
        assert!(!problem.contains("'a'"), "{problem}");
    }

    #[test]
    fn stand_ins_are_bounded() {
        let weights = weights(&[]);
        let builder = weights.builder();
        assert!(builder.get((usize::MAX, 8), "huge").is_err());
        assert!(weights.finish().unwrap_err().to_string().contains("'huge'"));
    }
}
