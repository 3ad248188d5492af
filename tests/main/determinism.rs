//! The bytes of an image depend on its seed, class, guidance and grid, and on nothing that shares its forwards.

use std::path::Path;
use std::sync::Arc;

use candle_core::Device;
use flowmap::checkpoint::{Checkpoint, Repository as Models};
use flowmap::domain::{Evaluation, ModelInfo, ModelKey, ModelRef, NoiseKey, Rule};
use flowmap::engine::{Batch, DeviceEngine, Engine, Loaded, Outcome, Purpose, RowId, RowStep, Start};
use flowmap::load::Random;
use flowmap::model;

use crate::real;

/// Different rows that batches are made of.
const ROWS: u64 = 48;
/// Most rows of a batch.
const MOST_ROWS: u64 = 24;

/// A row that begins and ends in one forward, at some pair of times, of some class, with and without guidance.
fn row(number: u64, info: &ModelInfo) -> RowStep {
    let mut random = Random::new(1, number);
    let mut below = |bound| random.next_u64() % bound;
    let classes = info.classes.len() as u64;
    let label = below(classes + 1);
    let (s, t) = (below(8) as f64 / 8.0, 1.0);
    let guided = classes > 0 && below(3) == 0;
    RowStep {
        row: RowId(number),
        start: Some(Start::Noise),
        noise: NoiseKey { seed: below(1000), index: below(10) as u32 },
        evaluation: Evaluation { s, t, rule: Rule::Jump },
        label: (label < classes).then_some(label as u32),
        guidance: if guided { 2.0 } else { 1.0 },
        purpose: Purpose::Finish { keep: false },
    }
}

fn bits(outcome: &Outcome) -> Vec<u32> {
    match outcome {
        Outcome::Finished { state, .. } | Outcome::Preview(state) => state.iter().map(|x| x.to_bits()).collect(),
        other => panic!("{other:?}"),
    }
}

fn engine(checkpoint: &Checkpoint, info: &ModelInfo, threads: usize) -> DeviceEngine {
    let net = model::load(checkpoint, &Device::Cpu).unwrap();
    DeviceEngine::new(vec![Loaded { net, info: info.clone() }], Device::Cpu, threads).unwrap()
}

fn step(engine: &mut DeviceEngine, rows: Vec<RowStep>) -> Vec<Vec<u32>> {
    engine.step(&Batch { model: ModelKey(0), rows }).unwrap().iter().map(bits).collect()
}

/// Every row of `compositions` random batches, on 1, 2 and 3 threads, is what it is alone.
fn check(checkpoint: &Checkpoint, info: &ModelInfo, compositions: usize) {
    let mut engines = [1, 2, 3].map(|threads| engine(checkpoint, info, threads));
    let rows: Vec<RowStep> = (0..ROWS).map(|number| row(number, info)).collect();
    let alone: Vec<_> = rows.iter().map(|row| step(&mut engines[0], vec![row.clone()]).remove(0)).collect();
    let differing = alone.iter().collect::<std::collections::HashSet<_>>().len();
    assert!(differing > ROWS as usize / 2, "{differing}");
    let mut random = Random::new(2, 0);
    let mut below = |bound| random.next_u64() % bound;
    for composition in 0..compositions {
        let count = 1 + below(MOST_ROWS);
        let chosen: Vec<usize> = (0..count).map(|_| below(ROWS) as usize).collect();
        let place = |(place, &number): (usize, &usize)| {
            // Some rows are only looked at; all have ids of their own.
            let purpose = if place % 5 == 4 { Purpose::Preview } else { rows[number].purpose };
            RowStep { row: RowId(1000 + place as u64), purpose, ..rows[number].clone() }
        };
        let batch = chosen.iter().enumerate().map(place).collect();
        let images = step(&mut engines[composition % 3], batch);
        for (number, image) in chosen.into_iter().zip(images) {
            assert!(image == alone[number], "row {number} differs in composition {composition}");
        }
    }
}

fn embedded(name: &str) -> (Arc<Checkpoint>, ModelInfo) {
    let models = Models::embedded();
    let id = models.resolve(&name.parse::<ModelRef>().unwrap(), None).unwrap();
    let checkpoint = models.load(&id).unwrap();
    let info = checkpoint.manifest.info(id);
    (Arc::new(checkpoint), info)
}

#[test]
fn ten_thousand_batches_do_not_change_a_bit() {
    let (points, images) = (embedded("checkerboard"), embedded("fashion-mnist"));
    let repository = real::Repository::new();
    let small = Checkpoint::read(Path::new(&repository.checkpoint())).unwrap();
    std::thread::scope(|scope| {
        scope.spawn(|| check(&small, &repository.info(), 7000));
        scope.spawn(|| check(&points.0, &points.1, 2800));
        scope.spawn(|| check(&images.0, &images.1, 200));
    });
}
