//! The operations on images against their definitions in `f64`, gradients and tangents included.

use candle_core::{DType, Device, Var};

use super::*;
use crate::model::kernels::tests::{check, values};

fn sides(height: usize, width: usize) -> Sides {
    Sides { height, width }
}

#[test]
fn conv3x3_agrees() {
    for (b, h, w, k, n) in [(1, 1, 1, 3, 2), (2, 5, 4, 3, 5), (2, 7, 7, 16, 32), (1, 3, 9, 17, 1), (3, 4, 4, 1, 20)] {
        let weights = [3, 3, k, n];
        check(&[&[b, h * w, k], &weights, &[n]], 1, |a| {
            conv3x3(&a[0], sides(h, w), &a[1].primal, &Dual::constant(&a[2].primal))
        });
        // With a bias for each image, which has a tangent too.
        check(&[&[b, h * w, k], &[b, n], &weights], 2, |a| conv3x3(&a[0], sides(h, w), &a[2].primal, &a[1]));
    }
}

#[test]
fn group_norm_agrees() {
    for (b, t, c, groups) in [(1, 4, 4, 1), (2, 6, 24, 6), (3, 49, 32, 8), (2, 9, 6, 3)] {
        check(&[&[b, t, c], &[c], &[c]], 1, |a| group_norm(&a[0], &a[1].primal, &a[2].primal, groups, 1e-6));
    }
}

#[test]
fn resampling_agrees() {
    for (b, h, w, c) in [(1, 1, 1, 3), (2, 2, 3, 5), (2, 4, 4, 16)] {
        check(&[&[b, 4 * h * w, c]], 1, |a| downsample(&a[0], sides(2 * h, 2 * w)));
        check(&[&[b, h * w, c]], 1, |a| upsample(&a[0], sides(h, w)));
    }
}

#[test]
fn residual_agrees() {
    for shape in [&[3][..], &[2, 5, 7]] {
        check(&[shape, shape], 2, |a| residual(&a[0], &a[1]));
    }
}

#[test]
fn an_image_has_the_same_bits_alone_and_in_a_batch() {
    let dual = |seed: usize, shape: &[usize]| {
        let tensor = |seed| {
            let data = values(seed, shape.iter().product());
            Tensor::from_vec(data, shape, &Device::Cpu).unwrap().to_dtype(DType::F32).unwrap()
        };
        Dual::new(tensor(seed), tensor(seed + 1))
    };
    let (x, b, w) = (dual(1, &[5, 24, 8]), dual(3, &[5, 12]), dual(5, &[3, 3, 8, 12]).primal);
    let (gain, sides) = (w.flatten_all().unwrap().narrow(0, 0, 8).unwrap(), sides(4, 6));
    let everything = |x: &Dual, b: &Dual| {
        let normed = group_norm(x, &gain, &gain, 2, 1e-6)?;
        let results = [conv3x3(x, sides, &w, b)?, downsample(x, sides)?, upsample(x, sides)?, residual(&normed, x)?];
        Ok::<_, candle_core::Error>(results.into_iter().flat_map(|d| [Some(d.primal), d.tangent]).flatten())
    };
    let together: Vec<_> = everything(&x, &b).unwrap().collect();
    let bits = |t: &Tensor| t.flatten_all().unwrap().to_vec1::<f32>().unwrap();
    for row in 0..5 {
        let [x, b] = [&x, &b].map(|d| d.linear(|t| t.narrow(0, row, 1)).unwrap());
        for (i, (alone, all)) in everything(&x, &b).unwrap().zip(&together).enumerate() {
            assert_eq!(bits(&alone), bits(&all.narrow(0, row, 1).unwrap()), "image {row} of result {i}");
        }
    }
}

#[test]
fn gradients_flow_to_shared_weights_from_both_parts() {
    let w = Var::from_tensor(&Tensor::ones((3, 3, 2, 4), DType::F32, &Device::Cpu).unwrap()).unwrap();
    let x = Tensor::ones((1, 6, 2), DType::F32, &Device::Cpu).unwrap();
    let zero = Dual::constant(&Tensor::zeros(4, DType::F32, &Device::Cpu).unwrap());
    let gradient = |part: fn(Dual) -> Tensor| {
        let y = conv3x3(&Dual::new(x.clone(), x.clone()), sides(2, 3), &w, &zero).unwrap();
        let gradients = part(y).sum_all().unwrap().backward().unwrap();
        gradients.get(&w).unwrap().sum_all().unwrap().to_scalar::<f32>().unwrap()
    };
    let (primal, tangent) = (gradient(|y| y.primal), gradient(|y| y.tangent.unwrap()));
    // Of 6 pixels in 3 columns of 2 rows, 2 · 2 · 7 neighbours lie in the image; 2 inputs, 4 outputs.
    assert_eq!((primal, tangent), (224.0, 224.0));
}

#[test]
fn shapes_that_do_not_fit_are_refused() {
    let zeros = |shape: &[usize]| Dual::constant(&Tensor::zeros(shape, DType::F32, &Device::Cpu).unwrap());
    let (x, w, b) = (zeros(&[2, 6, 4]), zeros(&[3, 3, 4, 8]).primal, zeros(&[8]));
    assert!(conv3x3(&x, sides(2, 3), &w, &b).is_ok());
    assert!(conv3x3(&x, sides(2, 4), &w, &b).is_err());
    assert!(conv3x3(&x, sides(2, 3), &w, &zeros(&[7])).is_err());
    assert!(conv3x3(&x, sides(2, 3), &w, &zeros(&[3, 8])).is_err());
    assert!(conv3x3(&x, sides(2, 3), &zeros(&[3, 3, 5, 8]).primal, &b).is_err());
    assert!(group_norm(&x, &zeros(&[4]).primal, &zeros(&[4]).primal, 3, 1e-6).is_err());
    assert!(group_norm(&x, &zeros(&[5]).primal, &zeros(&[4]).primal, 2, 1e-6).is_err());
    assert!(downsample(&x, sides(3, 2)).is_err() && upsample(&x, sides(3, 3)).is_err());
    assert!(residual(&x, &zeros(&[2, 6, 5])).is_err());
}
