//! Initial weights: a pure function of a seed and the tensors' names.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use candle_core::{DType, Device, Result, Shape, Tensor, Var};
use candle_nn::var_builder::SimpleBackend;
use candle_nn::{Init, VarBuilder};

use crate::flow::noise::{Stream, stream};

/// A source of weights that makes each tensor when a network first asks for it, as a trainable `Var`.
///
/// The values depend on the seed and the tensor's name alone, not on the order in which a network is built.
#[derive(Clone)]
pub struct Initialiser {
    seed: u64,
    vars: Arc<Mutex<BTreeMap<String, Var>>>,
}

impl Initialiser {
    /// Weights drawn under `seed`.
    pub fn new(seed: u64) -> Self {
        Self { seed, vars: Arc::default() }
    }

    /// Hands the weights to a network under construction.
    pub fn builder(&self, dtype: DType, device: &Device) -> VarBuilder<'static> {
        VarBuilder::from_backend(Box::new(self.clone()), dtype, device.clone())
    }

    /// Every weight made so far, by name.
    pub fn vars(&self) -> BTreeMap<String, Var> {
        self.vars.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    #[expect(clippy::cast_possible_truncation, reason = "initial weights are drawn in f64 and kept in f32")]
    fn draw(&self, shape: &Shape, name: &str, init: Init) -> Result<Vec<f32>> {
        let count = shape.elem_count();
        match init {
            Init::Const(value) => Ok(vec![value as f32; count]),
            Init::Randn { mean, stdev } => {
                let mut values = vec![0.0; count];
                Stream::new(self.seed, name_hash(name), stream::WEIGHTS).fill_normal(&mut values);
                values.iter_mut().for_each(|v| *v = (mean + stdev * f64::from(*v)) as f32);
                Ok(values)
            }
            Init::Uniform { .. } | Init::Kaiming { .. } => {
                candle_core::bail!("the initialiser makes constants and normals, not {init:?}")
            }
        }
    }
}

impl SimpleBackend for Initialiser {
    fn get(&self, shape: Shape, name: &str, init: Init, dtype: DType, device: &Device) -> Result<Tensor> {
        let mut vars = self.vars.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(var) = vars.get(name) {
            return Ok(var.as_tensor().clone());
        }
        let values = self.draw(&shape, name, init)?;
        let var = Var::from_tensor(&Tensor::from_vec(values, shape, device)?.to_dtype(dtype)?)?;
        let tensor = var.as_tensor().clone();
        vars.insert(name.to_owned(), var);
        Ok(tensor)
    }

    fn get_unchecked(&self, name: &str, _: DType, _: &Device) -> Result<Tensor> {
        candle_core::bail!("weight '{name}' was asked for without its shape")
    }

    fn contains_tensor(&self, _: &str) -> bool {
        true
    }
}

/// FNV-1a: which of the generator's sequences a name draws from.
fn name_hash(name: &str) -> u32 {
    name.bytes().fold(0x811C_9DC5, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn weights_depend_on_seed_and_name_and_not_on_order() -> Result<()> {
        let get = |source: &Initialiser, name| {
            let normal = Init::Randn { mean: 0.0, stdev: 1.0 };
            source.get((3, 5).into(), name, normal, DType::F32, &Device::Cpu)?.to_vec2::<f32>()
        };
        let (a, b) = (Initialiser::new(1), Initialiser::new(1));
        let first = get(&a, "x")?;
        get(&b, "y")?;
        assert_eq!(get(&b, "x")?, first);
        assert_ne!(get(&b, "y")?, first);
        assert_ne!(get(&Initialiser::new(2), "x")?, first);
        assert_eq!(b.vars().keys().collect::<Vec<_>>(), ["x", "y"]);
        Ok(())
    }
}
