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
//! Inside, an image is the sequence of its pixels: a 1×1 convolution is then a matrix product.

mod block;
mod condition;

use candle_core::Result;
use candle_nn::VarBuilder;

use super::image_layers::{Conv3x3, GroupNorm, Sides};
use super::layers::Start;
use super::ops::{Arguments, Network, Ops};
use super::patches::Patches;
use crate::checkpoint::Architecture;
use crate::checkpoint::manifest::DataSpec;
use block::{Block, Resample};
use condition::Condition;

/// The U-Net.
pub struct Unet {
    /// Of one pixel each.
    pixels: Patches,
    condition: Condition,
    input: Conv3x3,
    encoder: Vec<Block>,
    decoder: Vec<Stage>,
    output_norm: GroupNorm,
    output: Conv3x3,
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
        let sides = Sides { height, width };
        let mut builder = Builder::new(architecture, sides, &weights)?;
        let first = weights.pp(format!("enc.{height}x{width}_conv"));
        let input = Conv3x3::new(sides, [planes, *channels], Start::Normal, &first)?;
        let encoder = builder.encoder()?;
        let decoder = builder.decoder()?;
        let last = |part: &str| weights.pp(format!("dec.{height}x{width}_aux_{part}"));
        Ok(Self {
            pixels: Patches::new(&data.shape, 1)?,
            condition: Condition::new(architecture, data.classes.len(), &weights)?,
            input,
            encoder,
            decoder,
            output_norm: GroupNorm::new(builder.width, &last("norm"))?,
            output: Conv3x3::new(sides, [builder.width, planes], Start::Zero, &last("conv"))?,
        })
    }
}

impl Network for Unet {
    fn velocity<O: Ops>(&self, ops: &O, arguments: &Arguments<O>) -> Result<O::Value> {
        let condition = self.condition.forward(ops, arguments)?;
        let mut h = ops.conv3x3(&ops.split(&arguments.x, &self.pixels)?, &self.input, None)?;
        let mut skips = vec![h.clone()];
        for block in &self.encoder {
            h = block.forward(ops, &h, &condition)?;
            skips.push(h.clone());
        }
        for stage in &self.decoder {
            if let (true, Some(skip)) = (stage.joins, skips.last()) {
                h = ops.concat(&h, skip)?;
                skips.pop();
            }
            h = stage.block.forward(ops, &h, &condition)?;
        }
        let h = ops.silu(&ops.group_norm(&h, &self.output_norm)?)?;
        ops.join(&ops.conv3x3(&h, &self.output, None)?, &self.pixels)
    }
}

/// Lays out the blocks: which follows which, how wide, at what resolution.
struct Builder<'a> {
    channels: usize,
    multipliers: &'a [usize],
    blocks: usize,
    attention: &'a [usize],
    /// Of the image.
    sides: Sides,
    weights: &'a VarBuilder<'a>,
    /// Channels of the activations so far.
    width: usize,
    /// Channels of the activations that the decoder has yet to take in.
    skips: Vec<usize>,
}

impl<'a> Builder<'a> {
    fn new(architecture: &'a Architecture, sides: Sides, weights: &'a VarBuilder<'a>) -> Result<Self> {
        let Architecture::Unet { channels, multipliers, blocks, attention, .. } = architecture else {
            candle_core::bail!("not a U-Net: {architecture:?}")
        };
        let halvings = u32::try_from(multipliers.len()).unwrap_or(u32::MAX).wrapping_sub(1);
        let divides = |side: usize| 1usize.checked_shl(halvings).is_some_and(|unit| side.is_multiple_of(unit));
        if !(divides(sides.height) && divides(sides.width)) {
            candle_core::bail!("{sides:?} cannot be halved once between {} levels", multipliers.len())
        }
        let (channels, blocks, width) = (*channels, *blocks, *channels);
        Ok(Self { channels, multipliers, blocks, attention, sides, weights, width, skips: vec![width] })
    }

    fn encoder(&mut self) -> Result<Vec<Block>> {
        let mut all = Vec::new();
        for level in 0..self.multipliers.len() {
            if level > 0 {
                all.push(self.block(("enc", level, "down"), self.width, Resample::Down, false)?);
                self.skips.push(self.width);
            }
            for index in 0..self.blocks {
                let inputs = std::mem::replace(&mut self.width, self.channels * self.multipliers[level]);
                let name = format!("block{index}");
                all.push(self.block(("enc", level, &name), inputs, Resample::Keep, self.attends(level))?);
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
                    add(&mut all, self.block(("dec", level, part), self.width, Resample::Keep, attends)?, false);
                }
            } else {
                add(&mut all, self.block(("dec", level, "up"), self.width, Resample::Up, false)?, false);
            }
            for index in 0..=self.blocks {
                let inputs = self.width + self.skips.pop().unwrap_or(0);
                self.width = self.channels * self.multipliers[level];
                let (name, last) = (format!("block{index}"), index == self.blocks);
                add(
                    &mut all,
                    self.block(("dec", level, &name), inputs, Resample::Keep, last && self.attends(level))?,
                    true,
                );
            }
        }
        Ok(all)
    }

    /// The block that is called `name` in `part` of the network and gives images of `level`.
    fn block(
        &self,
        (part, level, name): (&str, usize, &str),
        inputs: usize,
        resample: Resample,
        attends: bool,
    ) -> Result<Block> {
        let after = self.sides.halved(level);
        let before = match resample {
            Resample::Keep => after,
            Resample::Down => self.sides.halved(level - 1),
            Resample::Up => self.sides.halved(level + 1),
        };
        let widths = [inputs, self.width, Condition::width(self.channels)];
        let Sides { height, width } = after;
        Block::new(before, widths, resample, attends, &self.weights.pp(format!("{part}.{height}x{width}_{name}")))
    }

    fn attends(&self, level: usize) -> bool {
        self.attention.contains(&self.sides.halved(level).height)
    }
}

#[cfg(test)]
mod tests;
