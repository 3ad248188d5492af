//! Classifier-free guidance by two calls: `v = v_null + w (v_class - v_null)`.
//!
//! For off-diagonal pairs this is a heuristic: flow maps are not linear in the guidance scale.

use candle_core::{Result, Tensor};

use super::{Dual, FlowMap};

/// `(1 - w) v_null + w v_class` of one row, in plain numbers: what an engine computes after a shared forward.
pub fn combine(null: &[f32], class: &[f32], scale: f32, out: &mut Vec<f32>) {
    out.clear();
    out.extend(null.iter().zip(class).map(|(n, c)| n + scale * (c - n)));
}

/// A network under a fixed guidance scale for all rows, as a network of its own.
pub struct Guided<'a> {
    /// The network that is asked twice.
    pub net: &'a dyn FlowMap,
    /// Label of the null class.
    pub null_label: u32,
    /// The scale `w`.
    pub scale: f64,
}

impl FlowMap for Guided<'_> {
    fn velocity(&self, x: &Dual, s: &Dual, t: &Dual, labels: &Tensor) -> Result<Dual> {
        let class = self.net.velocity(x, s, t, labels)?;
        if self.scale == 1.0 {
            return Ok(class);
        }
        let null_labels = (labels.zeros_like()? + f64::from(self.null_label))?;
        let null = self.net.velocity(x, s, t, &null_labels)?;
        null.add(&class.sub(&null)?.affine(self.scale, 0.0)?)
    }
}

#[cfg(test)]
mod tests {
    use candle_core::Device;

    use super::*;

    /// A velocity that is the label itself.
    struct Label;

    impl FlowMap for Label {
        fn velocity(&self, x: &Dual, _: &Dual, _: &Dual, labels: &Tensor) -> Result<Dual> {
            let label = Dual::constant(&labels.to_dtype(x.primal.dtype())?);
            x.affine(0.0, 0.0)?.add(&label.per_row(x)?)
        }
    }

    #[test]
    fn guidance_extrapolates_from_the_null_class() -> Result<()> {
        let cpu = Device::Cpu;
        let (x, times) =
            (Dual::constant(&Tensor::zeros((2, 3), candle_core::DType::F64, &cpu)?), Tensor::new(&[0f64, 0.0], &cpu)?);
        let times = Dual::constant(&times);
        let labels = Tensor::new(&[2u32, 5], &cpu)?;
        let v = Guided { net: &Label, null_label: 10, scale: 3.0 }.velocity(&x, &times, &times, &labels)?;
        assert_eq!(v.primal.to_vec2::<f64>()?, [[-14.0; 3], [-5.0; 3]]);
        let mut out = Vec::new();
        combine(&[10.0], &[2.0], 3.0, &mut out);
        assert_eq!(out, [-14.0]);
        Ok(())
    }
}
