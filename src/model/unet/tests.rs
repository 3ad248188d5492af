//! What only the U-Net has: the names and shapes of public checkpoints.

use std::collections::BTreeMap;

use candle_core::{DType, Device};

use super::*;
use crate::model::Initialiser;

/// Names and shapes of the weights of a network on images of 28 × 28.
fn weights(multipliers: &[usize], blocks: usize, attention: &[usize]) -> BTreeMap<String, Vec<usize>> {
    let architecture = Architecture::Unet {
        channels: 32,
        multipliers: multipliers.to_vec(),
        blocks,
        attention: attention.to_vec(),
        frequencies: 16,
        max_frequency: 16.0,
    };
    let data = DataSpec { name: "test".into(), shape: vec![3, 28, 28], range: [-1.0, 1.0], classes: vec!["a".into()] };
    let source = Initialiser::new(1);
    Unet::new(&architecture, &data, source.builder(DType::F32, &Device::Cpu)).unwrap();
    source.vars().into_iter().map(|(name, var)| (name, var.dims().to_vec())).collect()
}

/// The blocks and widths that EDM's code lays out for these numbers.
#[test]
fn weights_are_named_as_in_the_public_checkpoints() {
    let weights = weights(&[1, 2, 2], 2, &[7]);
    for (name, shape) in [
        ("map_layer0.weight", &[64, 128][..]),
        ("map_layer1.bias", &[128]),
        ("enc.28x28_conv.weight", &[3, 3, 3, 32]),
        ("enc.28x28_block1.conv1.weight", &[3, 3, 32, 32]),
        ("enc.14x14_down.skip.weight", &[32, 32]),
        ("enc.14x14_block0.conv0.weight", &[3, 3, 32, 64]),
        ("enc.14x14_block0.affine.weight", &[128, 64]),
        ("enc.7x7_block1.qkv.weight", &[64, 192]),
        ("dec.7x7_in0.proj.weight", &[64, 64]),
        ("dec.7x7_in1.norm1.weight", &[64]),
        ("dec.7x7_block0.norm0.weight", &[128]),
        ("dec.7x7_block2.norm2.bias", &[64]),
        ("dec.14x14_up.conv0.weight", &[3, 3, 64, 64]),
        ("dec.14x14_block2.conv0.weight", &[3, 3, 96, 64]),
        ("dec.28x28_block0.conv0.weight", &[3, 3, 96, 32]),
        ("dec.28x28_block2.skip.weight", &[64, 32]),
        ("dec.28x28_aux_norm.weight", &[32]),
        ("dec.28x28_aux_conv.weight", &[3, 3, 32, 3]),
    ] {
        assert_eq!(weights.get(name).map(Vec::as_slice), Some(shape), "{name}");
    }
    for absent in ["dec.7x7_block1.qkv.weight", "dec.7x7_in1.qkv.weight", "enc.28x28_block0.skip.weight"] {
        assert!(!weights.contains_key(absent), "{absent}");
    }
    let blocks = weights.keys().filter(|name| name.ends_with("conv0.weight")).count();
    assert_eq!(blocks, (2 + 3 + 3) + (5 + 4 + 4));
}

#[test]
fn a_single_level_has_a_middle_and_nothing_to_resample() {
    let weights = weights(&[1], 1, &[]);
    assert!(weights.contains_key("dec.28x28_in0.qkv.weight") && !weights.keys().any(|name| name.contains("_up")));
}
