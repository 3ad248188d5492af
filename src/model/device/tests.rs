//! Agreement with the compiled plan, padding, precision, and what a forward launches.

use std::collections::HashMap;

use candle_nn::VarBuilder;

use super::*;
use crate::checkpoint::Architecture;
use crate::checkpoint::manifest::DataSpec;
use crate::model::tests::{CLASSES, networks, normals, random_network};
use crate::model::{Initialiser, Plan};

mod counts;

/// A random network on the CPU as tensors.
fn on_device(architecture: &Architecture, data: &DataSpec, source: &Initialiser, options: Options) -> OnDevice {
    let dtype = options.precision.dtype();
    let named = source.vars().into_iter().map(|(name, var)| (name, var.as_tensor().detach()));
    let builder = VarBuilder::from_tensors(named.collect::<HashMap<_, _>>(), dtype, &Device::Cpu);
    let net = AnyNetwork::new(architecture, data, builder).unwrap();
    OnDevice::new(net, data.shape.clone(), CLASSES + 1, options)
}

/// States of `rows` rows one after the other.
fn states(data: &DataSpec, rows: usize) -> Vec<f32> {
    normals(3, rows * data.shape.iter().product::<usize>())
}

fn queries<'a>(data: &DataSpec, states: &'a [f32]) -> Vec<Query<'a>> {
    let query = |(row, x): (usize, &'a [f32])| {
        let place = row as f32 / 16.0;
        Query { x, s: place, t: 1.0 - 0.5 * place, label: (row % (CLASSES + 1)) as u32 }
    };
    states.chunks(data.shape.iter().product()).enumerate().map(query).collect()
}

fn answer(net: &OnDevice, queries: &[Query<'_>]) -> Vec<f32> {
    let mut out = vec![f32::NAN; queries.iter().map(|query| query.x.len()).sum()];
    net.answer(queries, &Device::Cpu, &mut out).unwrap();
    out
}

/// The largest difference between the plan's answers and the device's, as a part of the largest answer.
fn difference(architecture: &Architecture, data: &DataSpec, options: Options) -> f32 {
    let (_, source) = random_network(architecture, data, DType::F32);
    let network = AnyNetwork::new(architecture, data, source.builder(DType::F32, &Device::Cpu)).unwrap();
    let plan = Plan::new(&network, data.shape.iter().product(), CLASSES + 1).unwrap();
    let states = states(data, 5);
    let queries = queries(data, &states);
    let mut expected = vec![f32::NAN; states.len()];
    plan.answer(&queries, &mut expected).unwrap();
    let got = answer(&on_device(architecture, data, &source, options), &queries);
    let largest = expected.iter().fold(0.0f32, |a, v| a.max(v.abs()));
    got.iter().zip(&expected).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max) / largest
}

#[test]
fn a_network_on_a_device_answers_as_its_plan() {
    for (architecture, data) in networks() {
        let difference = difference(&architecture, &data, Options::default());
        assert!(difference < 2e-5, "{architecture:?}: {difference}");
    }
}

/// `bf16` rounds by at most 2^-9 at each of some ten operations in a row.
#[test]
fn half_precision_answers_nearly_as_single_does() {
    for (architecture, data) in networks() {
        let difference = difference(&architecture, &data, Options { precision: Precision::Bf16, ..Options::default() });
        assert!((1e-5..0.05).contains(&difference), "{architecture:?}: {difference}");
    }
}

#[test]
fn idle_rows_and_several_forwards_change_nothing() {
    for (architecture, data) in networks() {
        let (_, source) = random_network(&architecture, &data, DType::F32);
        let states = states(&data, 9);
        let queries = queries(&data, &states);
        let plain = on_device(&architecture, &data, &source, Options::default());
        let fixed = on_device(&architecture, &data, &source, Options { fixed_rows: 4, ..Options::default() });
        for rows in [1, 3, 4, 9] {
            assert_eq!(answer(&plain, &queries[..rows]), answer(&fixed, &queries[..rows]), "{architecture:?}");
        }
        assert!(answer(&plain, &[]).is_empty() && answer(&fixed, &[]).is_empty());
    }
}

#[test]
fn forwards_have_few_sizes_where_they_are_captured_or_fixed() {
    let sizes = |options: Options| [1, 3, 8, 33, 64].map(|rows| options.padded(rows));
    assert_eq!(sizes(Options::default()), [1, 3, 8, 33, 64]);
    assert_eq!(sizes(Options { graphs: true, ..Options::default() }), [1, 4, 8, 64, 64]);
    assert_eq!(sizes(Options { graphs: true, fixed_rows: 64, ..Options::default() }), [64; 5]);
    assert_eq!(Options { graphs: true, ..Options::default() }.most(), MOST_CAPTURED);
}

#[test]
fn what_does_not_fit_is_refused_before_it_reaches_the_device() {
    let (architecture, data) = networks().swap_remove(0);
    let (_, source) = random_network(&architecture, &data, DType::F32);
    let net = on_device(&architecture, &data, &source, Options::default());
    let ask = |x: &[f32], label, room: usize| {
        let query = [Query { x, s: 0.0, t: 1.0, label }];
        net.answer(&query, &Device::Cpu, &mut vec![0.0; room]).map_err(|error| error.to_string())
    };
    assert_eq!(ask(&[0.0; 2], 3, 2), Ok(()));
    assert!(ask(&[0.0; 3], 3, 2).unwrap_err().contains("a query of 3 numbers"));
    assert!(ask(&[0.0; 2], 4, 2).unwrap_err().contains("label 4"));
    assert!(ask(&[0.0; 2], 3, 4).unwrap_err().contains("room for 4 numbers"));
}
