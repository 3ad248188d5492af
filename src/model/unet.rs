//! A convolutional U-Net conditioned on `s`, `t - s` and the class: "SongUNet" of EDM (Karras et al., arXiv 2206.00364)
//! in its DDPM++ configuration (Song et al., arXiv 2011.13456).
//!
//! Weights carry the names of the public checkpoints of that network (`enc.28x28_block0.conv0.weight`), so that these
//! can be read with a change of layout only:
//!
//! | here | there |
//! |---|---|
//! | 3×3 convolution `(3, 3, in, out)` | `(out, in, 3, 3)` |
//! | linear layer and 1×1 convolution `(in, out)` | `(out, in)`, `(out, in, 1, 1)` |
//! | `qkv` columns `[q \| k \| v]` | channel `3 c + {0, 1, 2}` is `q`, `k`, `v` of `c` |
//! | `map_label` row of class `k` of `n`; the last row | `√n` times column `k` of the weight plus the bias; the bias |
//! | `map_layer0` inputs `[cos s, sin s, cos (t - s), sin (t - s)]`, frequencies rising | one time, sines first, frequencies falling |
//!
//! Activations are NHWC inside: a 1×1 convolution is then a matrix product, and an image's tokens are its pixels.

mod block;
mod condition;
mod layers;

use candle_core::{Result, Tensor};
use candle_nn::VarBuilder;

use super::embedding::concat;
use super::kernels::silu;
use super::layers::Start;
use crate::checkpoint::Architecture;
use crate::checkpoint::manifest::DataSpec;
use crate::flow::{Dual, FlowMap};
use block::{Block, Resample};
use condition::Condition;
use layers::{Conv, Norm};

/// The U-Net.
pub struct Unet {
    condition: Condition,
    input: Conv,
    encoder: Vec<Block>,
    decoder: Vec<Stage>,
    output_norm: Norm,
    output: Conv,
}

/// A block of the decoder.
struct Stage {
    block: Block,
    /// Whether an activation of the encoder joins its input.
    joins: bool,
}

impl Unet {
    /// The network of an [`Architecture::Unet`] for images of `data`'s shape `[channels, height, width]`.
    ///
    /// # Errors
    /// Where a level halves an odd side, or a weight is not there.
    pub fn new(architecture: &Architecture, data: &DataSpec, weights: VarBuilder) -> Result<Self> {
        let (Architecture::Unet { channels, .. }, &[planes, height, width]) = (architecture, data.shape.as_slice())
        else {
            candle_core::bail!("a U-Net works on images of shape [channels, height, width], not on {:?}", data.shape)
        };
        let mut builder = Builder::new(architecture, [height, width], &weights)?;
        let input = Conv::new([planes, *channels], Start::Normal, &weights.pp(format!("enc.{height}x{width}_conv")))?;
        let encoder = builder.encoder()?;
        let decoder = builder.decoder()?;
        let last = |part: &str| weights.pp(format!("dec.{height}x{width}_aux_{part}"));
        Ok(Self {
            condition: Condition::new(architecture, data.classes.len(), &weights)?,
            input,
            encoder,
            decoder,
            output_norm: Norm::new(builder.width, &last("norm"))?,
            output: Conv::new([builder.width, planes], Start::Zero, &last("conv"))?,
        })
    }
}

impl FlowMap for Unet {
    fn velocity(&self, x: &Dual, s: &Dual, t: &Dual, labels: &Tensor) -> Result<Dual> {
        let condition = self.condition.forward(s, t, labels)?;
        let mut h = self.input.forward(&x.linear(|x| x.permute((0, 2, 3, 1))?.contiguous())?)?;
        let mut skips = vec![h.clone()];
        for block in &self.encoder {
            h = block.forward(&h, &condition)?;
            skips.push(h.clone());
        }
        for stage in &self.decoder {
            if let (true, Some(skip)) = (stage.joins, skips.last()) {
                h = concat(&h, skip)?;
                skips.pop();
            }
            h = stage.block.forward(&h, &condition)?;
        }
        let h = silu(&self.output_norm.forward(&h)?)?;
        self.output.forward(&h)?.linear(|v| v.permute((0, 3, 1, 2))?.contiguous())
    }
}

/// Lays out the blocks: which follows which, how wide, at what resolution.
struct Builder<'a> {
    channels: usize,
    multipliers: &'a [usize],
    blocks: usize,
    attention: &'a [usize],
    /// Height and width of the image.
    sides: [usize; 2],
    weights: &'a VarBuilder<'a>,
    /// Channels of the activations so far.
    width: usize,
    /// Channels of the activations that the decoder has yet to take in.
    skips: Vec<usize>,
}

impl<'a> Builder<'a> {
    fn new(architecture: &'a Architecture, sides: [usize; 2], weights: &'a VarBuilder<'a>) -> Result<Self> {
        let Architecture::Unet { channels, multipliers, blocks, attention, .. } = architecture else {
            candle_core::bail!("not a U-Net: {architecture:?}")
        };
        let halvings = u32::try_from(multipliers.len()).unwrap_or(u32::MAX).wrapping_sub(1);
        let divides = |side: usize| 1usize.checked_shl(halvings).is_some_and(|unit| side.is_multiple_of(unit));
        if !sides.into_iter().all(divides) {
            candle_core::bail!("an image of {sides:?} cannot be halved once between {} levels", multipliers.len())
        }
        let (channels, blocks, width) = (*channels, *blocks, *channels);
        Ok(Self { channels, multipliers, blocks, attention, sides, weights, width, skips: vec![width] })
    }

    fn encoder(&mut self) -> Result<Vec<Block>> {
        let mut all = Vec::new();
        for level in 0..self.multipliers.len() {
            if level > 0 {
                all.push(self.block(&self.name("enc", level, "down"), self.width, Resample::Down, false)?);
                self.skips.push(self.width);
            }
            for index in 0..self.blocks {
                let inputs = std::mem::replace(&mut self.width, self.channels * self.multipliers[level]);
                let name = self.name("enc", level, &format!("block{index}"));
                all.push(self.block(&name, inputs, Resample::Keep, self.attends(level))?);
                self.skips.push(self.width);
            }
        }
        Ok(all)
    }

    fn decoder(&mut self) -> Result<Vec<Stage>> {
        let mut all = Vec::new();
        let add = |all: &mut Vec<Stage>, block, joins| all.push(Stage { block, joins });
        for level in (0..self.multipliers.len()).rev() {
            if level + 1 == self.multipliers.len() {
                for (part, attends) in [("in0", true), ("in1", false)] {
                    add(
                        &mut all,
                        self.block(&self.name("dec", level, part), self.width, Resample::Keep, attends)?,
                        false,
                    );
                }
            } else {
                add(&mut all, self.block(&self.name("dec", level, "up"), self.width, Resample::Up, false)?, false);
            }
            for index in 0..=self.blocks {
                let inputs = self.width + self.skips.pop().unwrap_or(0);
                self.width = self.channels * self.multipliers[level];
                let (name, last) = (self.name("dec", level, &format!("block{index}")), index == self.blocks);
                add(&mut all, self.block(&name, inputs, Resample::Keep, last && self.attends(level))?, true);
            }
        }
        Ok(all)
    }

    fn block(&self, name: &str, inputs: usize, resample: Resample, attends: bool) -> Result<Block> {
        let widths = [inputs, self.width, Condition::width(self.channels)];
        Block::new(widths, resample, attends, &self.weights.pp(name))
    }

    fn name(&self, part: &str, level: usize, block: &str) -> String {
        let [height, width] = self.sides.map(|side| side >> level);
        format!("{part}.{height}x{width}_{block}")
    }

    fn attends(&self, level: usize) -> bool {
        self.attention.contains(&(self.sides[0] >> level))
    }
}

#[cfg(test)]
mod tests;
