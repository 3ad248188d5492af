//! The engine computes what the samplers compute, whatever shares a forward.

use std::sync::Arc;

use candle_core::Device::Cpu;

use candle_core::Tensor;

use super::*;
use crate::domain::{ModelId, ModelKey, Sampler, TimeGrid, TimePairs};
use crate::flow::guidance::Guided;
use crate::flow::{Dual, FlowMap};
use crate::flow::{GaussianFlow, sampler};

const FLOW: GaussianFlow = GaussianFlow { noise: 0.8, mean: -0.5, data: 0.3 };

const FINISH: Purpose = Purpose::Finish { keep: false };

/// A network that mixes the numbers of a row and knows its times and class.
struct Toy;

impl FlowMap for Toy {
    fn velocity(&self, x: &Dual, s: &Dual, t: &Dual, labels: &Tensor) -> candle_core::Result<Dual> {
        let weights: Vec<f32> = (0..9).map(|i| (i as f32 * 1.7).sin()).collect();
        let mixed = x.primal.matmul(&Tensor::from_vec(weights, (3, 3), x.primal.device())?)?.tanh()?;
        let shift = (labels.to_dtype(candle_core::DType::F32)? * 0.3)?;
        let shift = ((shift + &s.primal)? - (&t.primal * 2.0)?)?.unsqueeze(1)?;
        Ok(Dual::constant(&mixed.broadcast_add(&shift)?))
    }
}

fn info(guidance: Guidance) -> ModelInfo {
    ModelInfo {
        id: ModelId { name: "toy".into(), version: 1 },
        description: String::new(),
        architecture: "toy".into(),
        parameters: 9,
        shape: vec![3],
        value_range: [-1.0, 1.0],
        noise_scale: 0.8,
        classes: vec!["a".into(), "b".into(), "c".into()],
        guidance,
        time_pairs: TimePairs::Square,
        objective: "lmd".into(),
        content_hash: String::new(),
        quality: None,
        grids: Vec::new(),
    }
}

fn engine(threads: usize) -> DeviceEngine {
    let guidance = Guidance::TwoCall { max: 8.0 };
    let models = vec![
        Loaded { net: Executable::Eager(Box::new(Toy)), info: info(guidance) },
        Loaded { net: Executable::Eager(Box::new(FLOW)), info: info(Guidance::None) },
    ];
    DeviceEngine::new(models, Cpu, threads).unwrap()
}

/// One image of some request.
#[derive(Clone)]
struct Wish {
    sampler: Sampler,
    steps: u32,
    seed: u64,
    index: u32,
    label: Option<u32>,
    guidance: f32,
    /// The forward in which it joins.
    joins: usize,
}

impl Wish {
    fn steps(&self, row: u64) -> Vec<RowStep> {
        let plan = self.sampler.plan(&TimeGrid::uniform(self.steps));
        let last = plan.len() - 1;
        let step = |(i, &evaluation): (usize, &_)| RowStep {
            row: RowId(row),
            start: (i == 0).then_some(Start::Noise),
            noise: NoiseKey { seed: self.seed, index: self.index },
            evaluation,
            label: self.label,
            guidance: self.guidance,
            purpose: if i == last { FINISH } else { Purpose::Advance },
        };
        plan.iter().enumerate().map(step).collect()
    }

    /// The image as the sampler makes it, alone.
    fn sampled(&self, net: &dyn FlowMap) -> Vec<f32> {
        let states = sampler::initial(self.seed, 0..self.index + 1, &[3], 0.8, &Cpu).unwrap();
        let x = states.narrow(0, self.index as usize, 1).unwrap().contiguous().unwrap();
        let labels = Tensor::new(&[self.label.unwrap_or(3)], &Cpu).unwrap();
        let guided = Guided { net, null_label: 3, scale: f64::from(self.guidance) };
        let net = if self.guidance == 1.0 || self.label.is_none() { net } else { &guided };
        let grid = TimeGrid::uniform(self.steps);
        let fresh = sampler::Fresh { keys: &[NoiseKey { seed: self.seed, index: self.index }], scale: 0.8 };
        let end = sampler::sample_with(net, self.sampler, &grid, &x, &labels, &fresh).unwrap();
        end.flatten_all().unwrap().to_vec1().unwrap()
    }
}

/// Every sampler, several step counts, classes and guidance scales, joining at different times.
fn wishes(guided: bool) -> Vec<Wish> {
    let wish = |i: u32| Wish {
        sampler: Sampler::ALL[i as usize % 5],
        steps: 1 + i % 5,
        seed: u64::from(i / 4),
        index: i % 4,
        label: (i % 4 < 3).then_some(i % 3),
        guidance: if guided && i % 2 == 1 { 1.0 + i as f32 } else { 1.0 },
        joins: i as usize % 7,
    };
    (0..23).map(wish).collect()
}

fn served(engine: &mut DeviceEngine, model: usize, wishes: &[Wish]) -> Vec<Vec<f32>> {
    let plans: Vec<_> = wishes.iter().enumerate().map(|(row, wish)| wish.steps(row as u64)).collect();
    let mut images = vec![Vec::new(); wishes.len()];
    for now in 0..20usize {
        let of = |(wish, plan): (&Wish, &Vec<RowStep>)| plan.get(now.checked_sub(wish.joins)?).cloned();
        let rows: Vec<RowStep> = wishes.iter().zip(&plans).filter_map(of).collect();
        let outcomes = engine.step(&Batch { model: ModelKey(model), rows: rows.clone() }).unwrap();
        for (row, outcome) in rows.iter().zip(outcomes) {
            match outcome {
                Outcome::Finished { state, .. } => images[row.row.0 as usize] = state,
                Outcome::Running => assert_eq!(row.purpose, Purpose::Advance),
                Outcome::Preview(_) => panic!("nobody asked"),
                Outcome::Failed(reason) => panic!("{reason}"),
            }
        }
    }
    assert!(engine.states.is_empty());
    images
}

fn bits(image: &[f32]) -> Vec<u32> {
    image.iter().map(|value| value.to_bits()).collect()
}

#[test]
fn mixed_batches_equal_the_samplers_to_the_bit() {
    let nets: [&dyn FlowMap; 2] = [&Toy, &FLOW];
    for (model, net) in nets.into_iter().enumerate() {
        let wishes = wishes(false);
        for threads in [1, 3] {
            for (wish, image) in wishes.iter().zip(served(&mut engine(threads), model, &wishes)) {
                assert_eq!(bits(&image), bits(&wish.sampled(net)), "{} {}", wish.sampler, wish.steps);
            }
        }
    }
}

#[test]
fn guided_rows_equal_the_guided_network() {
    let wishes = wishes(true);
    assert!(wishes.iter().any(|wish| wish.guidance != 1.0 && wish.label.is_some()));
    for (wish, image) in wishes.iter().zip(served(&mut engine(2), 0, &wishes)) {
        assert_eq!(image, wish.sampled(&Toy), "{} {}", wish.sampler, wish.guidance);
    }
}

fn jump(row: u64, start: Option<Start>, ends: bool) -> RowStep {
    let evaluation = Sampler::FlowMap.plan(&TimeGrid::uniform(1))[0];
    let purpose = if ends { FINISH } else { Purpose::Advance };
    let noise = NoiseKey { seed: 4, index: 0 };
    RowStep { row: RowId(row), start, noise, evaluation, label: None, guidance: 1.0, purpose }
}

fn step(engine: &mut DeviceEngine, rows: Vec<RowStep>) -> Vec<Outcome> {
    engine.step(&Batch { model: ModelKey(1), rows }).unwrap()
}

fn given(states: &[f32], index: u32) -> Option<Start> {
    Some(Start::State { states: Arc::from(states), index, noised_to: None })
}

#[test]
fn a_given_state_is_where_a_row_begins() {
    let outcomes = step(&mut engine(1), vec![jump(1, given(&[9.0, 9.0, 9.0, 0.1, 0.2, 0.3], 1), true)]);
    let Outcome::Finished { state: image, .. } = &outcomes[0] else { panic!("{outcomes:?}") };
    for (value, start) in image.iter().zip([0.1, 0.2, 0.3]) {
        assert!((f64::from(*value) - FLOW.jump_at(0.0, 1.0, start)).abs() < 1e-6);
    }
}

#[test]
fn a_single_given_state_serves_every_row() {
    let rows = (0..3).map(|index| jump(index.into(), given(&[0.1, 0.2, 0.3], index), true)).collect();
    let outcomes = step(&mut engine(2), rows);
    assert!(matches!(outcomes[0], Outcome::Finished { .. }) && outcomes.iter().all(|outcome| *outcome == outcomes[0]));
}

#[test]
fn a_row_that_cannot_go_on_fails_alone() {
    let bad_label = RowStep { label: Some(3), ..jump(5, given(&[0.0; 3], 0), true) };
    let rows = vec![
        jump(1, given(&[f32::INFINITY, 0.0, 0.0], 0), false),
        jump(2, given(&[0.0; 3], 0), true),
        jump(3, given(&[0.0; 6], 2), true),
        jump(4, None, true),
        bad_label,
    ];
    let outcomes = step(&mut engine(2), rows);
    let failed: Vec<bool> = outcomes.iter().map(|outcome| matches!(outcome, Outcome::Failed(_))).collect();
    assert_eq!(failed, [true, false, true, true, true]);
}

/// Walks 0 → 1/2 → 1 with a preview before each jump, keeping where the last one came from.
#[test]
fn a_preview_is_the_image_finished_early_and_moves_nothing() {
    let toy = |rows, engine: &mut DeviceEngine| engine.step(&Batch { model: ModelKey(0), rows }).unwrap();
    let mut engine = engine(2);
    let plan = Sampler::FlowMap.plan(&TimeGrid::uniform(2));
    let start = Some(Start::Noise);
    let preview = RowStep { purpose: Purpose::Preview, ..jump(1, start.clone(), false) };
    let first = RowStep { evaluation: plan[0], ..jump(1, start, false) };
    let last = RowStep { evaluation: plan[1], purpose: Purpose::Finish { keep: true }, ..jump(1, None, true) };
    let again = RowStep { evaluation: plan[1], purpose: Purpose::Preview, ..last.clone() };
    let begun = toy(vec![preview, first], &mut engine);
    assert_eq!(begun[1], Outcome::Running);
    let one_step =
        Wish { sampler: Sampler::FlowMap, steps: 1, seed: 4, index: 0, label: None, guidance: 1.0, joins: 0 };
    assert_eq!(begun[0], Outcome::Preview(one_step.sampled(&Toy)));
    let ended = toy(vec![last, again], &mut engine);
    let two_steps = Wish { steps: 2, ..one_step }.sampled(&Toy);
    assert_eq!(ended[1], Outcome::Preview(two_steps.clone()));
    let Outcome::Finished { state, before: Some(before) } = &ended[0] else { panic!("{ended:?}") };
    assert_eq!(state, &two_steps);
    let on = RowStep { evaluation: plan[1], ..jump(2, given(before, 0), true) };
    assert_eq!(toy(vec![on], &mut engine)[0], Outcome::Finished { state: two_steps, before: None });
    assert!(engine.states.is_empty());
}

#[test]
fn released_and_failed_rows_are_forgotten() {
    let mut engine = engine(1);
    step(&mut engine, vec![jump(1, given(&[0.0; 3], 0), false), jump(2, given(&[f32::NAN; 3], 0), false)]);
    assert_eq!(engine.states.len(), 1);
    engine.release(&[RowId(1), RowId(77)]);
    assert!(engine.states.is_empty());
    assert!(matches!(step(&mut engine, vec![jump(1, None, true)])[0], Outcome::Failed(_)));
}

#[test]
fn a_network_that_fails_fails_the_forward_and_its_rows() {
    struct Broken;
    impl FlowMap for Broken {
        fn velocity(&self, _: &Dual, _: &Dual, _: &Dual, _: &Tensor) -> candle_core::Result<Dual> {
            candle_core::bail!("broken")
        }
    }
    let models = vec![Loaded { net: Executable::Eager(Box::new(Broken)), info: info(Guidance::None) }];
    let mut engine = DeviceEngine::new(models, Cpu, 2).unwrap();
    let batch = Batch { model: ModelKey(0), rows: vec![jump(1, given(&[0.0; 3], 0), false)] };
    assert!(matches!(engine.step(&batch), Err(Error::Compute(_))));
    assert!(engine.states.is_empty());
}

#[test]
fn guidance_as_an_input_is_refused_at_the_door() {
    let models = vec![Loaded { net: Executable::Eager(Box::new(Toy)), info: info(Guidance::Input { max: 4.0 }) }];
    let refused = DeviceEngine::new(models, Cpu, 1).err();
    assert!(matches!(refused, Some(Error::Config(problems)) if problems[0].starts_with("toy@1")));
}
