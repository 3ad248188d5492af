//! Pictures of what the network makes at this point of a run.
use super::learner::Learner;
use super::recipe::Recipe;
use crate::data::Source;
use crate::domain::{Sampler, TimeGrid};
use crate::error::Result;
use crate::flow::sampler::{initial, sample};
use candle_core::{Device, Tensor};

pub(super) fn picture(learner: &Learner, source: &dyn Source, recipe: &Recipe) -> Result<Vec<u8>> {
    let flow = !matches!(recipe.objective, super::recipe::ObjectiveRecipe::FlowMatching {});
    learner.with_average(|net| {
        let shape = source.shape();
        let points = shape.len() == 1;
        let n: u32 = if points { 20000 } else { 20 };
        let classes = source.classes().len() as u32;
        let labels: Vec<u32> = (0..n).map(|i| if classes == 0 { 0 } else { i % classes }).collect();
        let labels = Tensor::from_vec(labels, n as usize, &Device::Cpu)?;
        let x0 = initial(1, n, shape, f64::from(recipe.noise_scale), &Device::Cpu)?;
        let (h, w) = if points { (128usize, 128usize) } else { (shape[1], shape[2]) };
        let cols = if points { 1 } else { n as usize };
        let steps: [u32; 4] = if flow { [1, 2, 4, 8] } else { [2, 4, 8, 32] };
        let mut img = image::GrayImage::new((cols * w) as u32, (4 * h) as u32);
        for (r, k) in steps.into_iter().enumerate() {
            let s = if flow { Sampler::FlowMap } else { Sampler::Heun };
            let x = sample(net, s, &TimeGrid::uniform(k), &x0, &labels)?.flatten_from(1)?.to_vec2::<f32>()?;
            for (c, row) in x.iter().enumerate() {
                if points {
                    let p = |v: f32| ((v + 1.2) / 2.4 * 128.0) as i64;
                    let (a, b) = (p(row[0]), p(row[1]));
                    if (0..128).contains(&a) && (0..128).contains(&b) {
                        let px = img.get_pixel_mut(a as u32, (r * 128) as u32 + b as u32);
                        px.0[0] = px.0[0].saturating_add(40);
                    }
                } else {
                    for (i, v) in row.iter().enumerate() {
                        let g = ((v + 1.0) * 127.5).clamp(0.0, 255.0) as u8;
                        img.put_pixel((c * w + i % w) as u32, (r * h + i / w) as u32, image::Luma([g]));
                    }
                }
            }
        }
        let mut out = std::io::Cursor::new(Vec::new());
        img.write_to(&mut out, image::ImageFormat::Png).unwrap();
        Ok(out.into_inner())
    })
}
