//! Features of Fashion-MNIST images: the penultimate layer of a small classifier that is part of the program.
//!
//! A perceptron 784 → 256 → 64 → 10 with SiLU between the layers. Its input is an image as a person would see it, 8
//! bits a pixel, so that samples and data are measured alike. [`training`] makes it again from the data set; how its
//! weights were made is told beside them, in `models/fashion-mnist-features/README.md`.

use std::collections::HashMap;
use std::path::Path;

use candle_core::{D, DType, Device, Tensor};
use candle_nn::VarBuilder;

use crate::checkpoint::{store, tensors};
use crate::data::spec::FASHION_MNIST_CLASSES;
use crate::error::Result;
use crate::flow::Dual;
use crate::model::Workers;
use crate::model::layers::{Linear, Start};
use crate::model::ops::{Eager, Ops};

pub mod training;

/// The classifier's weights.
const WEIGHTS: &[u8] = include_bytes!("../../models/fashion-mnist-features/model.safetensors");
/// Numbers in an image.
const PIXELS: usize = 28 * 28;
/// Width of the first layer.
const HIDDEN: usize = 256;
/// Width of the penultimate layer: the number of features.
pub const WIDTH: usize = 64;
/// Images of one forward.
const AT_ONCE: usize = 256;

/// A classifier of Fashion-MNIST.
pub struct Classifier {
    first: Linear,
    second: Linear,
    output: Linear,
}

/// What the classifier makes of images, in their order.
#[derive(Debug, Clone, PartialEq)]
pub struct Features {
    /// [`WIDTH`] numbers of each image.
    pub numbers: Vec<f32>,
    /// The most likely class of each image.
    pub classes: Vec<u32>,
}

impl Classifier {
    /// The classifier that is part of the program.
    ///
    /// # Errors
    /// [`Error::File`](crate::error::Error::File) where its weights are not as they should be.
    pub fn embedded() -> Result<Self> {
        let origin = Path::new("(embedded)/fashion-mnist-features/model.safetensors");
        let tensors: HashMap<_, _> = tensors::parse(WEIGHTS, origin)?.into_iter().collect();
        Ok(Self::new(&VarBuilder::from_tensors(tensors, DType::F32, &Device::Cpu))?)
    }

    /// BLAKE3 of the embedded weights, in hexadecimal: what makes two Fréchet distances comparable.
    pub fn hash() -> String {
        store::content_hash(WEIGHTS)
    }

    /// Whether the classifier knows samples of this shape and these classes.
    pub fn knows(shape: &[usize], classes: &[String]) -> bool {
        shape == [1, 28, 28] && classes == FASHION_MNIST_CLASSES
    }

    fn new(weights: &VarBuilder) -> candle_core::Result<Self> {
        let layer = |inputs, outputs, name| Linear::new(inputs, outputs, Start::Normal, &weights.pp(name));
        Ok(Self {
            first: layer(PIXELS, HIDDEN, "first")?,
            second: layer(HIDDEN, WIDTH, "second")?,
            output: layer(WIDTH, FASHION_MNIST_CLASSES.len(), "output")?,
        })
    }

    /// Features `(B, 64)` and logits `(B, 10)` of images `(B, 784)` in `[-1, 1]`.
    fn forward(&self, images: &Tensor) -> candle_core::Result<(Tensor, Tensor)> {
        let hidden = Eager.silu(&Eager.linear(&Dual::constant(images), &self.first)?)?;
        let features = Eager.silu(&Eager.linear(&hidden, &self.second)?)?;
        let logits = Eager.linear(&features, &self.output)?;
        Ok((features.primal, logits.primal))
    }

    /// Features of images of 784 bytes, one after the other in `pixels`.
    ///
    /// # Errors
    /// [`Error::Compute`](crate::error::Error::Compute) where the arithmetic fails.
    pub fn features(&self, pixels: &[u8], workers: &Workers) -> Result<Features> {
        let parts = workers.map(pixels.chunks(AT_ONCE * PIXELS), |chunk| {
            let images: Vec<f32> = chunk.iter().map(|&p| f32::from(p) / 127.5 - 1.0).collect();
            let images = Tensor::from_vec(images, (chunk.len() / PIXELS, PIXELS), &Device::Cpu)?;
            let (features, logits) = self.forward(&images)?;
            Ok((features.flatten_all()?.to_vec1::<f32>()?, logits.argmax(D::Minus1)?.to_vec1::<u32>()?))
        })?;
        let (numbers, classes): (Vec<_>, Vec<_>) = parts.into_iter().unzip();
        Ok(Features { numbers: numbers.concat(), classes: classes.concat() })
    }
}

impl Features {
    /// The fraction of images whose class is `wanted` of their index.
    pub fn agreement(&self, wanted: impl Fn(usize) -> u32) -> f64 {
        let agreeing = self.classes.iter().enumerate().filter(|(index, class)| **class == wanted(*index)).count();
        agreeing as f64 / self.classes.len() as f64
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::{DataSource, Split};

    #[test]
    fn the_embedded_classifier_loads_and_is_small() {
        assert!(WEIGHTS.len() <= 500_000);
        let features = Classifier::embedded().unwrap().features(&[7; 3 * PIXELS], &Workers::new(1).unwrap()).unwrap();
        assert_eq!((features.numbers.len(), features.classes.len()), (3 * WIDTH, 3));
        assert_eq!(features.agreement(|_| features.classes[0]), 1.0);
        assert_eq!(features.agreement(|_| 10), 0.0);
    }

    #[test]
    fn other_data_is_not_known() {
        let classes = FASHION_MNIST_CLASSES.map(str::to_owned);
        assert!(Classifier::knows(&[1, 28, 28], &classes));
        assert!(!Classifier::knows(&[3, 28, 28], &classes) && !Classifier::knows(&[1, 28, 28], &classes[1..]));
    }

    #[test]
    fn the_weights_are_the_ones_that_are_described() {
        assert!(include_str!("../../models/fashion-mnist-features/README.md").contains(&store::content_hash(WEIGHTS)));
    }

    /// Where the data set is installed, the accuracy is the one that the README beside the weights states.
    #[test]
    fn the_test_split_is_classified_as_stated() {
        let Ok(images) = DataSource::fashion_mnist().open_images(Split::Test) else { return };
        let accuracy = training::accuracy(&Classifier::embedded().unwrap(), &images, &Workers::new(1).unwrap());
        let stated = include_str!("../../models/fashion-mnist-features/README.md");
        let accuracy = format!("{:.2} %", 100.0 * accuracy.unwrap());
        assert!(stated.contains(&accuracy), "{accuracy}");
    }
}
