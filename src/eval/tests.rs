//! Whole evaluations of tiny networks.

use std::path::{Path, PathBuf};

use candle_core::{DType, Device};

use super::report::{Network, Relation};
use super::run::Evaluated;
use super::{Options, evaluate, tune};
use crate::checkpoint::manifest::SCHEMA_VERSION;
use crate::checkpoint::{
    Architecture, Checkpoint, DataSpec, Manifest, Precision, TimeConvention, TrainingRecord, WeightsRecord,
};
use crate::domain::{Guidance, TimePairs};
use crate::error::{Error, Result};
use crate::model::{Initialiser, build};

const SAMPLES: usize = 40;

/// Writes an untrained network of points and returns its folder and hash.
fn network(root: &Path, name: &str, time_pairs: TimePairs, teacher: Option<String>) -> (PathBuf, String) {
    network_with(root, name, |manifest| {
        manifest.time_pairs = time_pairs;
        manifest.training.teacher = teacher;
    })
}

fn network_with(root: &Path, name: &str, change: impl FnOnce(&mut Manifest)) -> (PathBuf, String) {
    let mut manifest = Manifest {
        schema_version: SCHEMA_VERSION,
        description: name.into(),
        architecture: Architecture::Mlp { width: 8, depth: 2, frequencies: 2, max_frequency: 4.0 },
        data: DataSpec { name: "checkerboard".into(), shape: vec![2], range: [-1.0, 1.0], classes: vec![] },
        noise_scale: 1.0,
        time_convention: TimeConvention::Noise0Data1,
        guidance: Guidance::None,
        time_pairs: TimePairs::Triangle,
        training: TrainingRecord {
            objective: "lmd".into(),
            steps: 1,
            samples: 1,
            ema_decay: 0.9,
            recipe: "seed = 1\n[data]\nkind = 'checkerboard'\n[model]\nkind = 'mlp'".into(),
            teacher: None,
        },
        weights: WeightsRecord::default(),
        quality: None,
        grids: std::collections::BTreeMap::new(),
    };
    change(&mut manifest);
    // The name decides the weights.
    let source = Initialiser::new(name.len() as u64);
    build(&manifest.architecture, &manifest.data, source.builder(DType::F32, &Device::Cpu)).unwrap();
    let tensors = source.vars().into_iter().map(|(name, var)| (name, var.as_detached_tensor())).collect();
    let folder = root.join(name);
    let written = Checkpoint::write(&folder, manifest, &tensors, Precision::F32).unwrap();
    (folder, written.weights.blake3)
}

fn run(model: &Path, teacher: Option<&Path>, threads: usize) -> Result<Evaluated> {
    let teacher = teacher.and_then(Path::to_str);
    evaluate(&Options {
        reached: None,
        baselines: true,
        model: model.to_str().unwrap(),
        teacher,
        samples: Some(SAMPLES),
        data: None,
        seed: 7,
        threads,
        timed: false,
    })
}

#[test]
fn a_flow_map_is_measured_against_its_teacher_whatever_the_threads() {
    let root = tempfile::tempdir().unwrap();
    let (teacher, hash) = network(root.path(), "teacher", TimePairs::Diagonal, None);
    let (student, _) = network(root.path(), "a student", TimePairs::Triangle, Some(hash));
    let evaluated = run(&student, Some(&teacher), 1).unwrap();
    let report = &evaluated.report;
    assert_eq!(report.teacher.relation, Relation::Recorded);
    let rows = |network| report.rows.iter().filter(|row| row.network == network).count();
    assert_eq!([Network::Model, Network::Teacher, Network::Floor, Network::Theory].map(rows), [5, 13, 1, 1]);
    assert!(report.reference.convergence.is_finite() && report.reference.checked == SAMPLES);
    assert_eq!(*report, run(&student, Some(&teacher), 3).unwrap().report);
    evaluated.write(&root.path().join("out")).unwrap();
    let json = std::fs::read(root.path().join("out/report.json")).unwrap();
    assert_eq!(serde_json::from_slice::<serde_json::Value>(&json).unwrap(), serde_json::to_value(report).unwrap());
    assert!(image::open(root.path().join("out/samples.png")).is_ok());
    let page = std::fs::read_to_string(root.path().join("out/report.md")).unwrap();
    assert!(page.contains("(quality.svg)") && page.contains("## Self-consistency") && !page.contains("Memorisation"));
    assert!(root.path().join("out/quality.svg").exists());
}

#[test]
fn a_velocity_field_is_its_own_teacher_and_has_no_jumps() {
    let root = tempfile::tempdir().unwrap();
    let (field, _) = network(root.path(), "field", TimePairs::Diagonal, None);
    let report = run(&field, None, 1).unwrap().report;
    assert_eq!(report.teacher.relation, Relation::Itself);
    assert!(report.rows.iter().all(|row| row.network != Network::Model) && report.residuals.is_none());
}

#[test]
fn what_cannot_be_compared_is_refused() {
    let root = tempfile::tempdir().unwrap();
    let (model, _) = network(root.path(), "model", TimePairs::Triangle, None);
    let (louder, _) = network_with(root.path(), "louder", |manifest| manifest.noise_scale = 2.0);
    let problem = run(&model, Some(&louder), 1).map(|_| ()).unwrap_err();
    assert!(matches!(&problem, Error::Config(lines) if lines[0].contains("noise scale")), "{problem}");
    let problem = run(Path::new("no-such-model"), None, 1).map(|_| ()).unwrap_err();
    assert!(matches!(&problem, Error::NotFound(text) if text.contains("is not a folder")), "{problem}");
    let (mute, _) = network_with(root.path(), "mute", |manifest| manifest.training.recipe = "seed = 1".into());
    let problem = run(&mute, None, 1).map(|_| ()).unwrap_err();
    assert!(problem.to_string().contains("names no data set"), "{problem}");
    let model = model.to_str().unwrap();
    let few = evaluate(&Options {
        baselines: true,
        reached: None,
        model,
        teacher: None,
        samples: Some(1),
        data: None,
        seed: 1,
        threads: 1,
        timed: false,
    });
    assert!(matches!(few, Err(Error::Config(_))));
}

#[test]
fn a_search_never_ends_worse_than_it_began_whatever_the_threads() {
    let root = tempfile::tempdir().unwrap();
    let (model, _) = network(root.path(), "model", TimePairs::Triangle, None);
    let model = model.to_str().unwrap();
    let tuned = |steps: &[u32], threads| {
        tune::tune(&tune::Options { model, steps, samples: Some(SAMPLES), data: None, seed: 7, threads })
    };
    let found = tuned(&[2, 3], 1).unwrap();
    assert_eq!((found.measure, found.rows.len()), ("KL 48×48", 2));
    assert!(found.rows.iter().all(|row| row.searched[1] <= row.searched[0]));
    assert_eq!(found, tuned(&[2, 3], 3).unwrap());
    assert!(matches!(tuned(&[1, 65], 1), Err(Error::Config(lines)) if lines.len() == 2));
}

#[test]
fn times_are_measured_where_they_are_asked_for() {
    let root = tempfile::tempdir().unwrap();
    let (model, _) = network(root.path(), "model", TimePairs::Triangle, None);
    let model = model.to_str().unwrap();
    let options = Options {
        baselines: true,
        reached: None,
        model,
        teacher: None,
        samples: Some(SAMPLES),
        data: None,
        seed: 7,
        threads: 1,
        timed: true,
    };
    let report = evaluate(&options).unwrap().report;
    let of = |steps| report.rows.iter().find(|row| row.steps == Some(steps)).and_then(|row| row.milliseconds).unwrap();
    assert!(of(1) > 0.0 && (of(4) / of(1) - 4.0).abs() < 1e-9);
    assert_eq!(report.quality().map(|quality| quality.rows.len()), Some(18));
}
