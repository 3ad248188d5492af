//! Pictures of what the network makes at this point of a run.

use candle_core::{Device, Tensor};

use super::recipe::Recipe;
use crate::data::Source;
use crate::domain::{NoiseKey, Sampler, TimeGrid};
use crate::error::Result;
use crate::flow::FlowMap;
use crate::flow::sampler::{Fresh, initial, sample_with};
use crate::picture::{Density, Grid, to_u8};

/// Steps of each row of the picture.
const STEPS: [u32; 4] = [1, 2, 4, 8];
/// Seed of the noise: the same in every picture, so that pictures can be compared.
const SEED: u64 = 1;
/// Most images in a row: one of each class, where there are fewer.
const IMAGES: usize = 10;
/// Side of a pixel of an image.
const IMAGE_SCALE: usize = 2;
/// Points whose density is drawn.
const POINTS: usize = 40_000;
/// Samples that go through the network at once.
const AT_ONCE: usize = 1_000;
/// Cells on each side of a density, and the part of the plane that they cover.
const DENSITY: Density = Density { range: [-1.2, 1.2], side: 128 };

/// Samples of `net` at several numbers of steps: a row of images for each, one of each class, or densities of points.
pub(super) fn picture(net: &dyn FlowMap, sampler: Sampler, source: &dyn Source, recipe: &Recipe) -> Result<Vec<u8>> {
    let classes = source.classes().len();
    let noise = |count: usize| {
        let rows = u32::try_from(count).unwrap_or(u32::MAX);
        initial(SEED, 0..rows, source.shape(), recipe.noise_scale, &Device::Cpu)
    };
    let draw = |noise: &Tensor, steps: u32| -> Result<Vec<f32>> {
        let mut samples = Vec::with_capacity(noise.elem_count());
        for from in (0..noise.dim(0)?).step_by(AT_ONCE) {
            let count = AT_ONCE.min(noise.dim(0)? - from);
            let labels = (from..from + count).map(|i| u32::try_from(i % classes.max(1)).unwrap_or(0));
            let labels = Tensor::from_vec(labels.collect::<Vec<_>>(), count, &Device::Cpu)?;
            let x = noise.narrow(0, from, count)?;
            let fresh = Fresh { keys: &NoiseKey::of(SEED, from..from + count), scale: recipe.noise_scale };
            let end = sample_with(net, sampler, &TimeGrid::uniform(steps), &x, &labels, &fresh)?;
            samples.extend(end.flatten_all()?.to_vec1::<f32>()?);
        }
        Ok(samples)
    };
    let caption = |steps: u32| format!("{steps} {}", if steps == 1 { "step" } else { "steps" });
    match *source.shape() {
        [channels, height, width] => {
            let grid = Grid::new([channels, height, width]).scale(IMAGE_SCALE);
            let grid = grid.columns(source.classes().iter().take(IMAGES));
            let noise = noise(if classes == 0 { IMAGES } else { classes.min(IMAGES) })?;
            let row = |grid: Grid, steps| {
                let bytes = to_u8(&draw(&noise, steps)?, source.range());
                grid.row(caption(steps), bytes.chunks(channels * height * width).map(<[u8]>::to_vec).collect())
            };
            STEPS.into_iter().try_fold(grid, row)?.png()
        }
        _ => {
            let noise = noise(POINTS)?;
            let image = |steps| Ok(DENSITY.image(&draw(&noise, steps)?));
            let images = STEPS.into_iter().map(image).collect::<Result<Vec<_>>>()?;
            Grid::new(DENSITY.shape()).columns(STEPS.map(caption)).row("", images)?.png()
        }
    }
}
