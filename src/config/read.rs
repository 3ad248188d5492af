//! Raw settings → [`Config`], collecting every problem.

use std::collections::BTreeSet;
use std::fmt::Display;
use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::time::Duration;

use config::ValueKind;

use super::layers::Layers;
use super::{Config, Device, Engine, Gpu, Listen, Models, Precision};
use crate::domain::ModelRef;
use crate::error::{Error, Result};
use crate::{api, scheduler, shutdown, telemetry};

/// A day: longer waits are mistakes of unit.
const MAX_MS: i64 = 24 * 60 * 60 * 1000;
/// Edits between an unknown key and the one that was meant.
const MAX_TYPO_EDITS: usize = 3;

/// Reads every key.
pub(super) fn config(layers: &Layers) -> Result<Config> {
    let mut reader = Reader { layers, problems: Vec::new(), read: BTreeSet::new() };
    let config = Config {
        listen: Listen { grpc: reader.address("server.grpc_address"), http: reader.address("server.http_address") },
        api: reader.api(),
        models: reader.models(),
        engine: reader.engine(),
        scheduler: reader.scheduler(),
        shutdown: shutdown::Timing {
            drain_delay: reader.duration("shutdown.drain_delay_ms", 0),
            grace: reader.duration("shutdown.grace_ms", 0),
        },
        log: reader.log(),
    };
    reader.cross_checks(&config);
    reader.finish().map(|()| config)
}

/// Reads settings key by key. After a problem a stand-in is returned, so that the keys after it are judged as well.
struct Reader<'a> {
    layers: &'a Layers,
    problems: Vec<String>,
    read: BTreeSet<&'static str>,
}

impl Reader<'_> {
    fn api(&mut self) -> api::Settings {
        api::Settings {
            limits: api::Limits {
                max_count: self.u32("limits.max_count", 1..=65_536),
                max_steps: self.u32("limits.max_steps", 1..=65_536),
                max_evaluations: self.u32("limits.max_evaluations", 1..=u32::MAX).into(),
                max_deadline: self.duration("limits.max_deadline_ms", 1),
                max_request_bytes: self.usize("limits.max_request_bytes", 1024..=1 << 30),
            },
            max_connections: self.usize("server.max_connections", 1..=1 << 20),
            max_requests: self.usize("server.max_requests", 1..=1 << 20),
            max_streams_per_connection: self.u32("server.max_streams_per_connection", 1..=1 << 20),
            chunk_bytes: self.usize("server.chunk_bytes", 1024..=4_000_000),
            keepalive_interval: self.duration("server.keepalive_interval_ms", 1000),
            keepalive_timeout: self.duration("server.keepalive_timeout_ms", 1000),
            stall: self.duration("server.stall_ms", 1),
        }
    }

    fn models(&mut self) -> Models {
        let repository = self.text("models.repository");
        let references = self.list("models.load");
        let load = references.iter().filter_map(|text| self.model("models.load", text)).collect();
        let default = self.text("models.default");
        let default = self.model("models.default", &default).unwrap_or_default();
        Models { repository: (!repository.is_empty()).then(|| PathBuf::from(repository)), load, default }
    }

    fn model(&mut self, key: &'static str, text: &str) -> Option<ModelRef> {
        text.parse().map_err(|problem| self.reject(key, format!("'{text}': {problem}"))).ok()
    }

    fn engine(&mut self) -> Engine {
        let devices: Option<Vec<Device>> = self.text("engine.device").split(',').map(device).collect();
        let devices = devices.unwrap_or_else(|| {
            self.reject(
                "engine.device",
                "must be \"cpu\", \"cuda:N\", or several of the latter as in \"cuda:0,cuda:1\"",
            );
            vec![Device::Cpu]
        });
        let replicas = self.usize("engine.replicas", 1..=64);
        let threads = self.usize("engine.threads", 0..=4096);
        let all = || std::thread::available_parallelism().unwrap_or(NonZeroUsize::MIN);
        let threads = NonZeroUsize::new(threads).unwrap_or_else(all);
        let replicas = NonZeroUsize::new(replicas).unwrap_or(NonZeroUsize::MIN);
        Engine { devices, replicas, threads, gpu: self.gpu() }
    }

    fn gpu(&mut self) -> Gpu {
        let precision = match self.text("engine.precision").as_str() {
            "f32" => Precision::F32,
            "bf16" => Precision::Bf16,
            _ => {
                self.reject("engine.precision", "must be \"f32\" or \"bf16\"");
                Precision::F32
            }
        };
        let graphs = self.truth("engine.cuda_graphs");
        Gpu { precision, graphs, fixed_rows: self.usize("engine.fixed_rows", 0..=65_536) }
    }

    fn scheduler(&mut self) -> scheduler::Limits {
        scheduler::Limits {
            max_rows: self.usize("scheduler.max_rows", 1..=65_536),
            max_step: self.duration("scheduler.max_step_ms", 1),
            max_queued_images: self.usize("scheduler.max_queued_images", 1..=1 << 24),
            efficiency: f64::from(self.u32("scheduler.efficiency_percent", 1..=100)) / 100.0,
            headroom: scheduler::Headroom {
                fraction: self.percent("scheduler.headroom_percent", 90),
                most: self.duration("scheduler.headroom_max_ms", 0),
            },
            brown_out: self.brown_out(),
            preview_share: self.percent("scheduler.preview_percent", 100),
            kept_bytes: self.usize("scheduler.kept_bytes", 0..=u32::MAX),
        }
    }

    fn brown_out(&mut self) -> Option<scheduler::BrownOutLimits> {
        let limits = scheduler::BrownOutLimits {
            utilisation: self.percent("scheduler.brown_out_percent", 100),
            window: self.duration("scheduler.brown_out_window_ms", 1),
            min_steps: self.u32("scheduler.brown_out_min_steps", 1..=1 << 20),
        };
        (limits.utilisation > 0.0).then_some(limits)
    }

    fn log(&mut self) -> telemetry::Log {
        let format = match self.text("log.format").as_str() {
            "json" => telemetry::LogFormat::Json,
            "text" => telemetry::LogFormat::Text,
            _ => {
                self.reject("log.format", "must be \"text\" or \"json\"");
                telemetry::LogFormat::Text
            }
        };
        let filter = self.text("log.filter");
        if let Err(problem) = telemetry::check_filter(&filter) {
            self.reject("log.filter", problem);
        }
        telemetry::Log { format, filter }
    }

    /// Values that are legal alone but not together.
    fn cross_checks(&mut self, config: &Config) {
        let (count, queue) = (config.api.limits.max_count as usize, config.scheduler.max_queued_images);
        if self.problems.is_empty() && count > queue {
            let advice = format!("is below limits.max_count = {count}: such a request could never be taken");
            self.reject("scheduler.max_queued_images", advice);
        }
        let (grpc, http) = (config.listen.grpc, config.listen.http);
        if self.problems.is_empty() && grpc == http && grpc.port() != 0 {
            self.reject("server.http_address", "must differ from server.grpc_address");
        }
        let Gpu { precision, graphs, fixed_rows } = config.engine.gpu;
        if self.problems.is_empty() && config.engine.devices.iter().all(|device| *device == Device::Cpu) {
            let given = [
                ("engine.precision", precision != Precision::F32),
                ("engine.cuda_graphs", graphs),
                ("engine.fixed_rows", fixed_rows > 0),
            ];
            for (key, _) in given.into_iter().filter(|(_, given)| *given) {
                self.reject(key, "is for GPUs, and engine.device has none");
            }
        }
    }

    fn address(&mut self, key: &'static str) -> SocketAddr {
        let text = self.text(key);
        text.parse().unwrap_or_else(|_| {
            self.reject(key, "must be an IP address and a port, for example 127.0.0.1:50051 or [::1]:50051");
            SocketAddr::from(([127, 0, 0, 1], 0))
        })
    }

    /// As a fraction.
    fn percent(&mut self, key: &'static str, most: u32) -> f64 {
        f64::from(self.u32(key, 0..=most)) / 100.0
    }

    fn duration(&mut self, key: &'static str, least_ms: i64) -> Duration {
        Duration::from_millis(self.integer(key, least_ms..=MAX_MS).unsigned_abs())
    }

    fn u32(&mut self, key: &'static str, range: RangeInclusive<u32>) -> u32 {
        let range = i64::from(*range.start())..=i64::from(*range.end());
        u32::try_from(self.integer(key, range)).unwrap_or(u32::MAX)
    }

    fn usize(&mut self, key: &'static str, range: RangeInclusive<u32>) -> usize {
        self.u32(key, range) as usize
    }

    fn integer(&mut self, key: &'static str, range: RangeInclusive<i64>) -> i64 {
        self.read.insert(key);
        match self.layers.value(key).kind {
            ValueKind::I64(value) if range.contains(&value) => value,
            ValueKind::I64(_) => {
                self.reject(key, format!("must be {} to {}", range.start(), range.end()));
                *range.start()
            }
            _ => {
                self.reject(key, format!("must be a whole number, {} to {}", range.start(), range.end()));
                *range.start()
            }
        }
    }

    fn truth(&mut self, key: &'static str) -> bool {
        self.read.insert(key);
        match self.layers.value(key).kind {
            ValueKind::Boolean(truth) => truth,
            _ => {
                self.reject(key, "must be true or false");
                false
            }
        }
    }

    fn text(&mut self, key: &'static str) -> String {
        self.read.insert(key);
        match self.layers.value(key).kind {
            ValueKind::String(text) => text,
            _ => {
                self.reject(key, "must be a string");
                String::new()
            }
        }
    }

    fn list(&mut self, key: &'static str) -> Vec<String> {
        self.read.insert(key);
        let items = match self.layers.value(key).kind {
            ValueKind::Array(items) => items.into_iter().map(config::Value::into_string).collect::<Result<_, _>>(),
            _ => Ok(Vec::new()),
        };
        items.unwrap_or_else(|_| {
            self.reject(key, "must be a list of strings");
            Vec::new()
        })
    }

    fn reject(&mut self, key: &str, description: impl Display) {
        let (value, origin) = (super::show::literal(&self.layers.value(key)), self.layers.origin(key));
        self.problems.push(format!("{key} = {value} ({origin}): {description}"));
    }

    fn finish(mut self) -> Result<()> {
        debug_assert!(self.layers.keys().all(|key| self.read.contains(key)), "a default is read by nobody");
        let unknown: Vec<&str> = self.layers.unknown().map(|(key, _)| key).collect();
        for key in unknown {
            let nearest = self.layers.keys().map(|known| (edits(key, known), known)).min();
            let meant = nearest.filter(|(edits, _)| *edits <= MAX_TYPO_EDITS);
            let hint = meant.map(|(_, known)| format!("; did you mean {known}?")).unwrap_or_default();
            self.reject(key, format!("there is no such setting{hint}"));
        }
        if self.problems.is_empty() { Ok(()) } else { Err(Error::Config(self.problems)) }
    }
}

fn device(name: &str) -> Option<Device> {
    match name.trim() {
        "cpu" => Some(Device::Cpu),
        other => other.strip_prefix("cuda:")?.parse().ok().map(Device::Cuda),
    }
}

/// Levenshtein distance.
fn edits(a: &str, b: &str) -> usize {
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.bytes().enumerate() {
        let mut diagonal = std::mem::replace(&mut row[0], i + 1);
        for (j, y) in b.bytes().enumerate() {
            let substituted = diagonal + usize::from(x != y);
            diagonal = row[j + 1];
            row[j + 1] = substituted.min(diagonal + 1).min(row[j] + 1);
        }
    }
    row[b.len()]
}
