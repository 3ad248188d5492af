//! A run is a pure function of its recipe.

use std::fs;
use std::path::Path;
use std::sync::atomic::AtomicBool;

use super::*;
use crate::checkpoint::Checkpoint;

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
    let entries = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let recipes: Vec<_> = entries.filter(|path| path.is_file()).collect();
    assert!(recipes.len() >= 4);
    recipes.iter().for_each(|path| drop(Recipe::read(path).unwrap()));
}

const OBJECTIVES: [&str; 14] = [
    r#"{ kind = "emd", TEACHER, diagonal = 0.25, from_noise = 0.5, stop_gradient = false }"#,
    r#"{ kind = "emd", TEACHER, diagonal = 0.25, from_noise = 0.5, stop_gradient = true }"#,
    r#"{ kind = "pfmm", TEACHER, diagonal = 0.25, stage_steps = 3, first_window = 0.25 }"#,
    r#"{ kind = "progressive_distillation", TEACHER, diagonal = 0.25, stage_steps = 3, levels = 2 }"#,
    r#"{ kind = "trajectories", TEACHER, diagonal = 0.25, from_noise = 1.0, steps = 2 }"#,
    r#"{ kind = "consistency_distillation", TEACHER, points = 16 }"#,
    r#"{ kind = "consistency_training", points = 16 }"#,
    r#"{ kind = "fmm", diagonal = 0.25 }"#,
    r#"{ kind = "lsd", diagonal = 0.5, from_noise = 0.5 }"#,
    r#"{ kind = "esd", diagonal = 0.5, from_noise = 0.5 }"#,
    r#"{ kind = "psd_m", diagonal = 0.5, from_noise = 0.5 }"#,
    r#"{ kind = "psd_u", diagonal = 0.5, from_noise = 0.5 }"#,
    r#"{ kind = "shortcut", diagonal = 0.75, levels = 7 }"#,
    r#"{ kind = "mean_flow", diagonal = 0.5, from_noise = 0.5, power = 1.0, offset = 1e-3 }"#,
];

/// Every objective takes steps, and goes on after a stop as if there had been none, also from stage to stage.
#[test]
fn every_objective_trains_and_resumes() {
    let dir = tempfile::tempdir().unwrap();
    train(dir.path(), "teacher", &recipe(r#"{ kind = "flow_matching" }"#, 3), 1, false).unwrap();
    let teacher = format!("teacher = {:?}", dir.path().join("teacher/checkpoint"));
    for (index, objective) in OBJECTIVES.iter().enumerate() {
        let objective = objective.replace("TEACHER", &teacher);
        let name = |run: &str| format!("{run}-{index}");
        let whole = train(dir.path(), &name("whole"), &recipe(&objective, 8), 1, false).unwrap();
        train(dir.path(), &name("parts"), &recipe(&objective, 5), 2, false).unwrap();
        let parts = train(dir.path(), &name("parts"), &recipe(&objective, 8), 2, true).unwrap();
        assert_eq!(whole.manifest.weights, parts.manifest.weights, "{objective}");
        assert!(whole.tensors.values().all(|w| w.abs().unwrap().max_all().unwrap().to_scalar::<f32>().unwrap() < 1e3));
    }
}

#[test]
fn another_interpolant_is_another_run_and_needs_times_off_the_grid() {
    let dir = tempfile::tempdir().unwrap();
    let linear = recipe(r#"{ kind = "flow_matching" }"#, 4);
    let other = linear.replace("seed = 3", "seed = 3\n        interpolant = \"trigonometric\"");
    let [linear, other] =
        [("linear", linear), ("other", other)].map(|(name, text)| train(dir.path(), name, &text, 1, false).unwrap());
    assert_ne!(linear.manifest.weights, other.manifest.weights);
    let grid = recipe(r#"{ kind = "shortcut", diagonal = 0.5, levels = 2 }"#, 4)
        .replace("seed = 3", "seed = 3\n        interpolant = \"trigonometric\"");
    let problem = train(dir.path(), "grid", &grid, 1, false).unwrap_err().to_string();
    assert!(problem.contains("interpolant: an objective on a dyadic grid needs the linear one"), "{problem}");
}
