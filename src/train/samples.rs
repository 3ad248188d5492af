//! Pictures of what the network makes at this point of a run.

use candle_core::{Device, Tensor};

use super::learner::Learner;
use super::recipe::Recipe;
use crate::data::Source;
use crate::domain::{Sampler, TimeGrid};
use crate::error::Result;
use crate::flow::FlowMap;
use crate::flow::sampler::{initial, sample};
use crate::picture;

/// Steps of each row of the picture.
const STEPS: [u32; 4] = [1, 2, 4, 8];
/// Seed of the noise: the same in every picture, so that pictures can be compared.
const SEED: u64 = 1;
/// Images in a row of a model without classes.
const COLUMNS: u32 = 10;
/// Points in a scatter.
const POINTS: u32 = 20_000;

/// Samples by the averaged weights: a row of images, or a scatter of points, for each number of steps.
pub(super) fn picture(learner: &Learner, source: &dyn Source, recipe: &Recipe) -> Result<Vec<u8>> {
    let sampler = learner.pairs_sampler();
    learner.with_average(|net| match source.shape() {
        [_] => points(net, sampler, source, recipe.noise_scale),
        shape => images(net, sampler, shape, source, recipe.noise_scale),
    })
}
