//! A run is a pure function of its recipe; objectives vanish where the mathematics says so.

use std::fs;
use std::path::Path;
use std::sync::atomic::AtomicBool;

use candle_core::{DType, Device, Result as CandleResult, Tensor, Var};

use super::batch::Rows;
use super::objective::{FlowMatching, Lmd, Objective};
use super::pairs::Pairs;
use super::*;
use crate::checkpoint::Checkpoint;
use crate::flow::map::jump_and_dt;
use crate::flow::noise::Stream;
use crate::flow::{Dual, FlowMap, GaussianFlow};

const FLOW: GaussianFlow = GaussianFlow { noise: 1.0, mean: 0.4, data: 0.5 };

/// Rows of the Gaussian flow, `(count, 1)` in f64, at times drawn from `pairs`.
fn gaussian_rows(pairs: Pairs, count: usize) -> CandleResult<Rows> {
    let mut stream = Stream::new(9, 0, 5);
    let times: Vec<_> = (0..count).map(|row| pairs.draw(row, count, || stream.uniform())).collect();
    let normal = |index: u32, mean: f64, deviation: f64| {
        let mut values = vec![0.0; count];
        Stream::new(9, index, 5).fill_normal(&mut values);
        Tensor::from_vec(values, (count, 1), &Device::Cpu)?.to_dtype(DType::F64)?.affine(deviation, mean)
    };
    let column =
        |f: fn(&(f64, f64)) -> f64| Tensor::from_vec(times.iter().map(f).collect::<Vec<f64>>(), count, &Device::Cpu);
    Ok(Rows {
        x0: normal(1, 0.0, FLOW.noise)?,
        x1: normal(2, FLOW.mean, FLOW.data)?,
        s: column(|t| t.0)?,
        t: column(|t| t.1)?,
        labels: Tensor::zeros(count, DType::U32, &Device::Cpu)?,
        diagonal: times.iter().all(|(s, t)| s == t),
    })
}

#[test]
fn lagrangian_distillation_vanishes_at_the_exact_flow_map() -> CandleResult<()> {
    for (diagonal, stop_gradient) in [(0.0, false), (0.5, true), (1.0, true)] {
        let pairs = Pairs::Triangle { diagonal, from_noise: 0.3 };
        let lmd = Lmd { teacher: Box::new(FLOW), pairs, stop_gradient };
        let residual = lmd.residual(&FLOW, &gaussian_rows(pairs, 200)?)?;
        assert!(residual.abs()?.max_all()?.to_scalar::<f64>()? < 1e-12);
        // A map to another distribution is not a zero of it.
        let other = GaussianFlow { data: 0.6, ..FLOW };
        let residual = lmd.residual(&other, &gaussian_rows(pairs, 200)?)?;
        assert!(residual.abs()?.mean_all()?.to_scalar::<f64>()? > 1e-3);
    }
    Ok(())
}

/// The loss of the exact velocity is `E Var(İ | I) = s₀² s₁² / S_t²`, and any other velocity has a larger one.
#[test]
fn flow_matching_has_its_floor_at_the_exact_velocity() -> CandleResult<()> {
    let rows = gaussian_rows(Pairs::Diagonal, 100_000)?;
    let loss = |flow: &GaussianFlow| FlowMatching.residual(flow, &rows)?.sqr()?.mean_all()?.to_scalar::<f64>();
    let variance = |t: f64| (FLOW.noise * FLOW.data / FLOW.deviation(t)).powi(2);
    let floor = rows.t.to_vec1::<f64>()?.into_iter().map(variance).sum::<f64>() / 100_000.0;
    let exact = loss(&FLOW)?;
    assert!((exact / floor - 1.0).abs() < 0.02, "{exact} {floor}");
    assert!(loss(&GaussianFlow { data: 0.6, ..FLOW })? > exact && loss(&GaussianFlow { mean: 0.3, ..FLOW })? > exact);
    Ok(())
}

/// With the gradient stopped, only the derivative of the student's map is moved; without, the teacher's argument too.
#[test]
fn the_gradient_through_the_teacher_can_be_stopped() -> CandleResult<()> {
    /// The exact map of the flow, scaled by a weight.
    struct Scaled(Var);

    impl FlowMap for Scaled {
        fn velocity(&self, x: &Dual, s: &Dual, t: &Dual, labels: &Tensor) -> CandleResult<Dual> {
            FLOW.velocity(x, s, t, labels)?.mul(&Dual::constant(self.0.as_tensor()))
        }
    }

    let net = Scaled(Var::new(&[0.8f64], &Device::Cpu)?);
    let pairs = Pairs::Triangle { diagonal: 0.0, from_noise: 0.0 };
    let rows = gaussian_rows(pairs, 50)?;
    let slope = |stop_gradient| {
        let residual = Lmd { teacher: Box::new(FLOW), pairs, stop_gradient }.residual(&net, &rows)?;
        let gradients = residual.sum_all()?.backward()?;
        gradients.get(&net.0).unwrap().get(0)?.to_scalar::<f64>()
    };
    let rate = jump_and_dt(&net, &rows.interpolant()?, &rows.s, &rows.t, &rows.labels)?.1;
    let of_rate = rate.sum_all()?.backward()?.get(&net.0).unwrap().get(0)?.to_scalar::<f64>()?;
    assert!((slope(true)? - of_rate).abs() < 1e-9);
    assert!((slope(false)? - of_rate).abs() > 1e-2);
    Ok(())
}

fn recipe(objective: &str, steps: u64) -> String {
    format!(
        r#"
        description = "a test"
        seed = 3
        steps = {steps}
        batch = 64
        micro_batch = 16
        clip = 1.0
        ema_decay = 0.9
        learned_weight = true
        precision = "F32"
        data = {{ kind = "checkerboard" }}
        model = {{ kind = "mlp", width = 16, depth = 2, frequencies = 2, max_frequency = 4.0 }}
        objective = {objective}
        optimiser = {{ kind = "radam", learning_rate = 1e-2 }}
        schedule = {{ kind = "constant", warmup = 2 }}
        every = {{ log = 2, save = 100, sample = 100 }}
        "#
    )
}

fn train(dir: &Path, name: &str, recipe: &str, threads: usize, resume: bool) -> crate::error::Result<Checkpoint> {
    let file = dir.join(format!("{name}.toml"));
    fs::write(&file, recipe).unwrap();
    let out = dir.join(name);
    match run(&Run { recipe: &file, out: &out, resume, threads }, &AtomicBool::new(false))? {
        Outcome::Finished(folder) => Checkpoint::read(&folder),
        Outcome::Stopped(step) => panic!("stopped at {step}"),
    }
}

#[test]
fn a_resumed_run_on_other_threads_makes_the_same_weights() {
    let dir = tempfile::tempdir().unwrap();
    let teacher = train(dir.path(), "teacher", &recipe(r#"{ kind = "flow_matching" }"#, 5), 1, false).unwrap();
    let lmd = format!(
        r#"{{ kind = "lmd", teacher = {:?}, diagonal = 0.25, from_noise = 0.5, stop_gradient = true }}"#,
        dir.path().join("teacher/checkpoint")
    );
    let whole = train(dir.path(), "whole", &recipe(&lmd, 9), 1, false).unwrap();
    train(dir.path(), "parts", &recipe(&lmd, 4), 3, false).unwrap();
    let parts = train(dir.path(), "parts", &recipe(&lmd, 9), 2, true).unwrap();
    assert_eq!(whole.manifest.weights, parts.manifest.weights);
    assert_ne!(whole.manifest.weights, teacher.manifest.weights);
    assert_eq!(whole.manifest.training.teacher, Some(teacher.manifest.weights.blake3));
    assert!(whole.tensors.keys().all(|name| !name.starts_with("loss_weight")));
    let log = fs::read_to_string(dir.path().join("whole/log.jsonl")).unwrap();
    assert_eq!(log.lines().count(), 5, "{log}");
}

#[test]
fn a_run_is_not_begun_or_resumed_over_another() {
    let dir = tempfile::tempdir().unwrap();
    let text = recipe(r#"{ kind = "flow_matching" }"#, 2);
    train(dir.path(), "run", &text, 1, false).unwrap();
    let again = train(dir.path(), "run", &text, 1, false).unwrap_err().to_string();
    assert!(again.contains("--resume"), "{again}");
    let other = train(dir.path(), "run", &text.replace("seed = 3", "seed = 4"), 1, true).unwrap_err().to_string();
    assert!(other.contains("another recipe"), "{other}");
    let cosine = text.replace(r#"kind = "constant", warmup = 2"#, r#"kind = "cosine", warmup = 2, floor = 0.1"#);
    train(dir.path(), "cosine", &cosine, 1, false).unwrap();
    let longer = train(dir.path(), "cosine", &cosine.replace("steps = 2", "steps = 3"), 1, true).unwrap_err();
    assert!(longer.to_string().contains("another recipe"), "{longer}");
    fs::write(dir.path().join("run/state.safetensors"), b"torn").unwrap();
    let torn = train(dir.path(), "run", &text, 1, true).unwrap_err().to_string();
    assert!(torn.contains("cannot be resumed"), "{torn}");
}

#[test]
fn the_teacher_must_fit_and_stay() {
    let dir = tempfile::tempdir().unwrap();
    let matching = recipe(r#"{ kind = "flow_matching" }"#, 2);
    train(dir.path(), "teacher", &matching, 1, false).unwrap();
    let lmd = format!(
        r#"{{ kind = "lmd", teacher = {:?}, diagonal = 0.25, from_noise = 0.5, stop_gradient = true }}"#,
        dir.path().join("teacher/checkpoint")
    );
    let student = recipe(&lmd, 2);
    let other = student.replace("width = 16", "width = 8").replace("seed = 3", "seed = 3\nnoise_scale = 0.5");
    let error = train(dir.path(), "other", &other, 1, false).unwrap_err().to_string();
    assert!(error.contains("network") && error.contains("noise scale"), "{error}");
    train(dir.path(), "student", &student, 1, false).unwrap();
    fs::remove_dir_all(dir.path().join("teacher")).unwrap();
    train(dir.path(), "teacher", &matching.replace("seed = 3", "seed = 4"), 1, false).unwrap();
    let error = train(dir.path(), "student", &student, 1, true).unwrap_err().to_string();
    assert!(error.contains("another teacher"), "{error}");
}

#[test]
fn what_cannot_be_saved_is_known_before_work_is_spent() {
    let dir = tempfile::tempdir().unwrap();
    let text = recipe(r#"{ kind = "flow_matching" }"#, 1_000_000).replace("a test", "");
    let error = train(dir.path(), "mute", &text, 1, false).unwrap_err().to_string();
    assert!(error.contains("description"), "{error}");
}

#[test]
fn a_stopped_run_leaves_its_state() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("recipe.toml");
    fs::write(&file, recipe(r#"{ kind = "flow_matching" }"#, 50)).unwrap();
    let job = Run { recipe: &file, out: dir.path(), resume: false, threads: 1 };
    assert_eq!(run(&job, &AtomicBool::new(true)).unwrap(), Outcome::Stopped(0));
    let resumed = run(&Run { resume: true, ..job }, &AtomicBool::new(false)).unwrap();
    assert_eq!(resumed, Outcome::Finished(dir.path().join("checkpoint")));
}

#[test]
fn every_wrong_number_of_a_recipe_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let text = recipe(r#"{ kind = "flow_matching" }"#, 0)
        .replace("micro_batch = 16", "micro_batch = 15")
        .replace("ema_decay = 0.9", "ema_decay = 1.5")
        .replace("1e-2", "-1.0");
    let error = train(dir.path(), "bad", &text, 1, false).unwrap_err().to_string();
    for part in ["steps", "micro_batch must divide", "ema_decay", "learning_rate"] {
        assert!(error.contains(part), "{error}");
    }
}

#[test]
fn the_shipped_recipes_are_sound() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("recipes");
    let recipes: Vec<_> = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    assert!(recipes.len() >= 4);
    recipes.iter().for_each(|path| drop(Recipe::read(path).unwrap()));
}
