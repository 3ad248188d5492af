//! Makes the classifier again: a pure function of the data set.
//!
//! Cross-entropy on mirrored training images, AdamW with a cosine schedule; initial weights and the order of the data
//! come from the counter-based generator, and everything runs on one thread, so the weights are the same bytes each
//! time on the same kind of processor.

use std::collections::BTreeMap;
use std::f64::consts::PI;
use std::path::{Path, PathBuf};

use candle_core::{DType, Device, Tensor, Var};
use candle_nn::loss::cross_entropy;
use candle_nn::optim::{AdamW, Optimizer, ParamsAdamW};
use indicatif::ProgressBar;

use super::{Classifier, PIXELS};
use crate::checkpoint::{Precision, atomic, store, tensors};
use crate::data::{DataSource, Images, Source, Split};
use crate::error::Result;
use crate::flow::noise::{self, Stream};
use crate::model::{Initialiser, Workers};

/// Seed of the initial weights and of the order of the data.
const SEED: u64 = 20;
/// Images of one step.
const BATCH: usize = 128;
/// Passes over the training split.
const EPOCHS: u32 = 30;
/// Learning rate of the first step.
const LEARNING_RATE: f64 = 1e-3;
/// Decoupled weight decay.
const WEIGHT_DECAY: f64 = 0.1;

/// A classifier as it was made.
#[derive(Debug, Clone, PartialEq)]
pub struct Made {
    /// The file of its weights.
    pub path: PathBuf,
    /// BLAKE3 of the file.
    pub blake3: String,
    /// Fraction of the test split that it classifies right, with the weights as they are in the file.
    pub accuracy: f64,
}

/// Trains the classifier on Fashion-MNIST and writes its weights, in half precision, to `dir/model.safetensors`.
///
/// # Errors
/// [`Error::File`](crate::error::Error::File) where the data set is missing or the file cannot be written.
pub fn make(dir: &Path) -> Result<Made> {
    let data = DataSource::fashion_mnist();
    let train = data.open_images(Split::Train)?.with_flip(true);
    let workers = Workers::new(1)?;
    let weights = workers.map(0..1, |_| fit(&train))?.swap_remove(0);
    let path = dir.join(store::WEIGHTS_FILE);
    let bytes = tensors::serialize(&weights, Precision::F16, &path)?;
    atomic::write_file(&path, &bytes)?;
    let kept = tensors::parse(&bytes, &path)?.into_iter().collect();
    let classifier = Classifier::new(&candle_nn::VarBuilder::from_tensors(kept, DType::F32, &Device::Cpu))?;
    let accuracy = accuracy(&classifier, &data.open_images(Split::Test)?, &workers)?;
    Ok(Made { path, blake3: store::content_hash(&bytes), accuracy })
}

/// The fraction of `images` that `classifier` classifies right.
///
/// # Errors
/// [`Error::Compute`](crate::error::Error::Compute) where the arithmetic fails.
pub fn accuracy(classifier: &Classifier, images: &Images, workers: &Workers) -> Result<f64> {
    let pixels: Vec<u8> =
        (0..images.len()).filter_map(|i| images.get(i)).flat_map(|(p, _)| p.iter().copied()).collect();
    Ok(classifier.features(&pixels, workers)?.agreement(|index| images.labels()[index]))
}

fn fit(train: &Images) -> Result<BTreeMap<String, Tensor>> {
    let source = Initialiser::new(SEED);
    let net = Classifier::new(&source.builder(DType::F32, &Device::Cpu))?;
    let vars = source.vars();
    let rates = ParamsAdamW { lr: LEARNING_RATE, weight_decay: WEIGHT_DECAY, ..ParamsAdamW::default() };
    let mut optimiser = AdamW::new(vars.values().cloned().collect::<Vec<Var>>(), rates)?;
    let steps = EPOCHS * u32::try_from(train.len() / BATCH).unwrap_or(u32::MAX);
    let bar = ProgressBar::new(steps.into());
    for step in 0..steps {
        optimiser.set_learning_rate(LEARNING_RATE * 0.5 * (1.0 + (PI * f64::from(step) / f64::from(steps)).cos()));
        let (images, labels) = batch(train, step)?;
        let (_, logits) = net.forward(&images)?;
        optimiser.backward_step(&cross_entropy(&logits, &labels)?)?;
        bar.inc(1);
    }
    bar.finish_and_clear();
    Ok(vars.into_iter().map(|(name, var)| (name, var.as_detached_tensor())).collect())
}

/// Images `(B, 784)` and labels `(B,)` of one step.
fn batch(train: &Images, step: u32) -> Result<(Tensor, Tensor)> {
    let mut stream = Stream::new(SEED, step, noise::stream::CLASSIFIER);
    let mut images = vec![0.0; BATCH * PIXELS];
    let labels: Vec<u32> =
        images.chunks_exact_mut(PIXELS).map(|image| train.draw(&mut || stream.uniform(), image)).collect();
    let images = Tensor::from_vec(images, (BATCH, PIXELS), &Device::Cpu)?;
    Ok((images, Tensor::from_vec(labels, BATCH, &Device::Cpu)?))
}
