//! Text (defaults → file → environment → flags) → validated values, all problems reported at once.
//!
//! [`Layers`] holds what each key was set to and where; [`Config`] holds values that cannot be wrong, grouped by the
//! room that takes them. Only the composition root and the command line read a `Config`: rooms get their own part.

mod layers;
mod read;
mod show;

use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::path::PathBuf;

pub use layers::{Layers, Override, environment};

use crate::domain::ModelRef;
use crate::error::Result;
use crate::{api, scheduler, shutdown, telemetry};

/// Every setting with its default, unit and reason: the reference for operators.
pub const DEFAULTS: &str = include_str!("config/defaults.toml");

/// The validated configuration of a server.
#[derive(Debug, Clone)]
pub struct Config {
    /// Where it listens.
    pub listen: Listen,
    /// The gRPC edge.
    pub api: api::Settings,
    /// Which models it loads.
    pub models: Models,
    /// Where they run.
    pub engine: Engine,
    /// Bounds of the worker.
    pub scheduler: scheduler::Limits,
    /// How it stops.
    pub shutdown: shutdown::Timing,
    /// What it logs.
    pub log: telemetry::Log,
}

/// Addresses to listen on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Listen {
    /// For gRPC.
    pub grpc: SocketAddr,
    /// For metrics and probes.
    pub http: SocketAddr,
}

/// Which models to load.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Models {
    /// The repository's folder; `None` for the embedded models.
    pub repository: Option<PathBuf>,
    /// These; the latest version of every model if empty.
    pub load: Vec<ModelRef>,
    /// The one that answers requests without a name; the composition root chooses if it names none.
    pub default: ModelRef,
}

/// Where networks run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Engine {
    /// The devices, at least one.
    pub devices: Vec<Device>,
    /// How often each is used.
    pub replicas: NonZeroUsize,
    /// Threads that compute on a CPU, all replicas together.
    pub threads: NonZeroUsize,
    /// How GPUs compute.
    pub gpu: Gpu,
}

/// How GPUs compute.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Gpu {
    /// Of weights and activations.
    pub precision: Precision,
    /// Whether forwards are replayed as CUDA graphs.
    pub graphs: bool,
    /// Rows of every forward; 0 for as many as there are.
    pub fixed_rows: usize,
}

/// Numbers that a network computes in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Precision {
    /// 32 bits.
    F32,
    /// 16 bits, 8 of them exponent.
    Bf16,
}

/// A device by name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Device {
    /// This machine's processor.
    Cpu,
    /// An NVIDIA GPU by its ordinal.
    Cuda(usize),
}

impl Config {
    /// Validates every layered value.
    ///
    /// # Errors
    /// [`Error::Config`](crate::error::Error::Config) with a line for every problem: key, value, where it was set, and
    /// what is allowed.
    pub fn read(layers: &Layers) -> Result<Self> {
        read::config(layers)
    }
}

#[cfg(test)]
mod tests {
    use std::ffi::OsString;
    use std::time::Duration;

    use super::*;
    use crate::error::Error;

    fn environment(pairs: &[(&str, &str)]) -> Vec<(OsString, OsString)> {
        pairs.iter().map(|(key, value)| (key.into(), value.into())).collect()
    }

    fn flag(key: &'static str, value: &str) -> Override {
        Override { key: key.into(), value: value.into(), flag: format!("--{key}") }
    }

    fn problems(layers: Result<Layers>) -> Vec<String> {
        match layers.and_then(|layers| Config::read(&layers)) {
            Err(Error::Config(problems)) => problems,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn the_defaults_are_legal() {
        let config = Config::read(&Layers::load(None, [], []).unwrap()).unwrap();
        assert_eq!(config.listen.grpc.to_string(), "127.0.0.1:50051");
        assert_eq!((config.models.repository, config.models.load), (None, vec![]));
        assert_eq!(config.shutdown.grace, Duration::from_secs(10));
        assert!(config.api.limits.max_count as usize <= config.scheduler.max_queued_images);
    }

    #[test]
    fn later_layers_win_and_are_remembered() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("flowmap.toml");
        std::fs::write(&file, "[scheduler]\nmax_rows = 8\nmax_step_ms = 7\n[limits]\nmax_steps = 9\n").unwrap();
        let variables = environment(&[
            ("FLOWMAP__SCHEDULER__MAX_ROWS", "16"),
            ("FLOWMAP__LIMITS__MAX_STEPS", "10"),
            ("FLOWMAP__MODELS__LOAD", "a, b@2"),
            ("FLOWMAP_PORT", "tcp://10.0.0.1:80"),
            ("PATH", "/bin"),
        ]);
        let layers = Layers::load(Some(&file), variables, [flag("limits.max_steps", "11")]).unwrap();
        let config = Config::read(&layers).unwrap();
        assert_eq!((config.scheduler.max_rows, config.scheduler.max_step), (16, Duration::from_millis(7)));
        assert_eq!((config.api.limits.max_steps, config.models.load.len()), (11, 2));
        let from = |key| layers.origin(key);
        assert_eq!(from("limits.max_steps"), "flag --limits.max_steps");
        assert_eq!(from("scheduler.max_rows"), "environment variable FLOWMAP__SCHEDULER__MAX_ROWS");
        assert_eq!(from("scheduler.max_step_ms"), format!("file {}", file.display()));
        assert_eq!(from("log.format"), "default");
    }

    #[test]
    fn every_problem_is_reported_with_its_source() {
        let variables = environment(&[
            ("FLOWMAP__SERVER__GRPC_ADDRESS", "localhost"),
            ("FLOWMAP__SCHEDULER__MAX_ROWS", "many"),
            ("FLOWMAP__SCHEDULER__MAX_ROW", "4"),
            ("FLOWMAP__ENGINE__DEVICE", "tpu"),
            ("FLOWMAP__LIMITS__MAX_COUNT", "0"),
            ("FLOWMAP__MODELS__LOAD", "a@x"),
            ("FLOWMAP__LOG__FORMAT", "xml"),
            ("FLOWMAP__LOG__FILTER", "info,flowmap=loud"),
        ]);
        let problems = problems(Layers::load(None, variables, [flag("limits.max_steps", "-1")]));
        let text = problems.join("\n");
        assert_eq!(problems.len(), 9, "{text}");
        for part in [
            "server.grpc_address = \"localhost\" (environment variable FLOWMAP__SERVER__GRPC_ADDRESS): ",
            "scheduler.max_rows = \"many\" (environment variable FLOWMAP__SCHEDULER__MAX_ROWS): ",
            "scheduler.max_row = \"4\" (environment variable FLOWMAP__SCHEDULER__MAX_ROW): there is no such setting; \
             did you mean scheduler.max_rows?",
            "engine.device = \"tpu\"",
            "limits.max_count = 0 (environment variable FLOWMAP__LIMITS__MAX_COUNT): must be 1 to ",
            "limits.max_steps = -1 (flag --limits.max_steps): must be 1 to ",
            "models.load",
            "log.format",
            "log.filter",
        ] {
            assert!(text.contains(part), "{part} is not in:\n{text}");
        }
    }

    #[test]
    fn only_whole_numbers_are_numbers() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("flowmap.toml");
        std::fs::write(&file, "[scheduler]\nmax_rows = true\nmax_step_ms = 8.7\n").unwrap();
        let variables = environment(&[("FLOWMAP__LIMITS__MAX_COUNT", "off"), ("FLOWMAP__LIMITS__MAX_STEPS", "8.7")]);
        let problems = problems(Layers::load(Some(&file), variables, []));
        assert_eq!(problems.len(), 4, "{problems:?}");
        assert!(problems.iter().all(|problem| problem.contains("must be a whole number")), "{problems:?}");
        assert!(problems.iter().any(|problem| problem.starts_with("scheduler.max_rows = true (file ")), "{problems:?}");
    }

    #[test]
    fn a_gpus_settings_are_read_and_refused_for_a_cpu() {
        let read = |pairs: &[(&'static str, &str)]| {
            Layers::load(None, [], pairs.iter().map(|(key, value)| flag(key, value)).collect::<Vec<_>>())
        };
        let device = ("engine.device", "cuda:0");
        let gpu = [device, ("engine.precision", "bf16"), ("engine.cuda_graphs", "true"), ("engine.fixed_rows", "8")];
        let expected = Gpu { precision: Precision::Bf16, graphs: true, fixed_rows: 8 };
        assert_eq!(Config::read(&read(&gpu).unwrap()).unwrap().engine.gpu, expected);
        for (key, value) in &gpu[1..] {
            let problems = problems(read(&[(key, value)]));
            assert_eq!(problems.len(), 1, "{problems:?}");
            assert!(problems[0].starts_with(key) && problems[0].ends_with("is for GPUs, and engine.device has none"));
        }
        let wrong = problems(read(&[device, ("engine.cuda_graphs", "1"), ("engine.precision", "f16")])).join("\n");
        assert!(wrong.contains("must be true or false") && wrong.contains("must be \"f32\" or \"bf16\""), "{wrong}");
    }

    #[test]
    fn a_queue_too_small_for_a_request_is_a_problem() {
        let problems = problems(Layers::load(None, [], [flag("scheduler.max_queued_images", "10")]));
        assert!(problems[0].contains("limits.max_count"), "{problems:?}");
    }

    #[test]
    fn a_broken_file_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("flowmap.toml");
        for text in ["[server", "server = 3\n"] {
            std::fs::write(&file, text).unwrap();
            let problems = problems(Layers::load(Some(&file), [], [])).join("\n");
            assert!(problems.contains("flowmap.toml"), "{problems}");
        }
        let missing = problems(Layers::load(Some(&folder.path().join("none.toml")), [], [])).join("\n");
        assert!(missing.contains("none.toml"), "{missing}");
    }

    #[test]
    fn what_is_shown_loads_again() {
        let layers = Layers::load(None, [], [flag("models.load", "a,b"), flag("log.filter", "debug")]).unwrap();
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("shown.toml");
        std::fs::write(&file, layers.to_toml()).unwrap();
        let again = Layers::load(Some(&file), [], []).unwrap();
        assert!(layers.to_toml().contains("filter = \"debug\"  # flag --log.filter\n"), "{}", layers.to_toml());
        let values = |layers: &Layers| layers.keys().map(|key| layers.value(key).to_string()).collect::<Vec<_>>();
        assert_eq!(values(&layers), values(&again));
        assert_eq!(layers.to_json()["models.load"]["value"][1], "b");
        assert_eq!(layers.to_json()["log.filter"]["source"], "flag --log.filter");
    }

    #[test]
    fn every_default_is_explained() {
        let mut explained = false;
        for line in DEFAULTS.lines() {
            let is_key = line.contains(" = ") && !line.starts_with('#');
            assert!(!is_key || explained, "{line} has no comment");
            explained = line.starts_with('#') || (is_key && explained);
        }
    }
}
