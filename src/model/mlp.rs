//! A multi-layer perceptron on `(x, s, t)` for points.

use candle_core::{Result, Tensor};
use candle_nn::{Init, VarBuilder};

use super::embedding::Sinusoids;
use super::layers::{Linear, Start};
use super::ops::{Arguments, Network, Ops};
use crate::checkpoint::Architecture;
use crate::checkpoint::manifest::DataSpec;

/// Layers of equal width with SiLU between them; the class is added to the first one.
///
/// The first layer sees each coordinate as it is and as sinusoids, without which a narrow network is slow to learn
/// sharp edges (Tancik et al., arXiv 2006.10739).
pub struct Mlp {
    coordinates: Sinusoids,
    hidden: Vec<Linear>,
    output: Linear,
    /// `(classes + 1, width)`, absent for unconditional data.
    classes: Option<Tensor>,
}

impl Mlp {
    /// The network of an [`Architecture::Mlp`] for samples of `data`'s shape `[d]`.
    pub fn new(architecture: &Architecture, data: &DataSpec, weights: VarBuilder) -> Result<Self> {
        let (&Architecture::Mlp { width, depth, frequencies, max_frequency }, &[features]) =
            (architecture, data.shape.as_slice())
        else {
            candle_core::bail!("a perceptron works on points of shape [d], not on {:?}", data.shape)
        };
        let coordinates = Sinusoids::new(frequencies, max_frequency, weights.dtype(), weights.device())?;
        let seen = features * (1 + coordinates.width()?) + 2;
        let inputs = |layer| if layer == 0 { seen } else { width };
        let hidden = (0..depth)
            .map(|layer| Linear::new(inputs(layer), width, Start::Normal, &weights.pp(format!("hidden.{layer}"))))
            .collect::<Result<_>>()?;
        let init = Init::Randn { mean: 0.0, stdev: 0.02 };
        let classes = match data.classes.len() {
            0 => None,
            count => Some(weights.get_with_hints((count + 1, width), "classes", init)?),
        };
        let output = Linear::new(width, features, Start::Zero, &weights.pp("output"))?;
        Ok(Self { coordinates, hidden, output, classes })
    }
}

impl Network for Mlp {
    fn velocity<O: Ops>(&self, ops: &O, Arguments { x, s, t, labels }: &Arguments<O>) -> Result<O::Value> {
        let times = ops.concat(&ops.column(s)?, &ops.column(t)?)?;
        let seen = ops.concat(x, &ops.sinusoids(x, &self.coordinates)?)?;
        let mut h = ops.concat(&seen, &times)?;
        for (index, layer) in self.hidden.iter().enumerate() {
            h = ops.linear(&h, layer)?;
            if let (0, Some(classes)) = (index, &self.classes) {
                h = ops.add(&h, &ops.look_up(classes, labels)?)?;
            }
            h = ops.silu(&h)?;
        }
        ops.linear(&h, &self.output)
    }
}
