//! Every metric of the server, in one table: names, labels and buckets are an API that dashboards and alerts rely on.
//!
//! A metric is raised through its entry ([`Metric::counter`] and its siblings), so that a label cannot be misspelt and
//! a series cannot exist that the table does not know. Every series with bounded labels exists from the start with
//! zeros: an alert on a rate works before the first request. Label values never come from clients.

use std::sync::OnceLock;

use metrics::{Counter, Gauge, Histogram, Key, Label as Pair, Level, Metadata, SharedString, Unit};
use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};

use crate::domain::ModelInfo;
use crate::error::{Error, Result};

/// Latencies in seconds, for answers that take milliseconds.
const LATENCY_SECONDS: &[f64] = &[
    0.001, 0.002, 0.003, 0.005, 0.0075, 0.01, 0.015, 0.02, 0.03, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.5, 0.75, 1.0, 1.5,
    2.0, 3.0, 5.0, 10.0, 30.0,
];
/// Seconds of one step: a GPU's launch at one end, a large batch on a CPU at the other.
const STEP_SECONDS: &[f64] =
    &[0.0001, 0.0002, 0.0005, 0.001, 0.002, 0.003, 0.005, 0.0075, 0.01, 0.02, 0.03, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0];
/// Rows of a batch.
const ROWS: &[f64] = &[1.0, 2.0, 3.0, 4.0, 6.0, 8.0, 12.0, 16.0, 24.0, 32.0, 48.0, 64.0, 96.0, 128.0, 256.0];
/// Steps of an image.
const STEPS: &[f64] = &[1.0, 2.0, 3.0, 4.0, 6.0, 8.0, 12.0, 16.0, 32.0, 64.0, 128.0];
/// Distinct numbers of evaluations that share a batch.
const PLANS: &[f64] = &[1.0, 2.0, 3.0, 4.0, 6.0, 8.0, 12.0, 16.0, 32.0, 64.0];

/// RPCs of the generation service.
const METHOD: Label = Label { name: "method", values: Values::Fixed(&["Generate", "ListModels", "GetModel"]) };
/// The gRPC codes that this server answers with.
const CODE: Label = Label {
    name: "code",
    values: Values::Fixed(&[
        "OK",
        "CANCELLED",
        "INVALID_ARGUMENT",
        "DEADLINE_EXCEEDED",
        "NOT_FOUND",
        "RESOURCE_EXHAUSTED",
        "OUT_OF_RANGE",
        "INTERNAL",
        "UNAVAILABLE",
    ]),
};
/// A loaded model, as `name@version`.
const MODEL: Label = Label { name: "model", values: Values::Models };
/// A device, by its place among those that serve; known once it has been measured.
const DEVICE: Label = Label { name: "device", values: Values::Free };

/// Requests that ended, by RPC and gRPC code.
pub static REQUESTS: Metric =
    Metric::counter_of("flowmap_requests_total", Unit::Count, "Requests that ended.", &[METHOD, CODE]);
/// From a request's arrival to the end of its stream.
pub static REQUEST_DURATION: Metric = Metric::histogram_of(
    "flowmap_request_duration_seconds",
    (Unit::Seconds, LATENCY_SECONDS),
    "From a request's arrival to the end of its response stream.",
    &[METHOD],
);
/// Requests whose stream is open.
pub static REQUESTS_IN_FLIGHT: Metric =
    Metric::gauge_of("flowmap_requests_in_flight", Unit::Count, "Requests whose response stream is open.", &[METHOD]);
/// Requests that were refused for lack of room, by the bound that refused them.
pub static REJECTIONS: Metric = Metric::counter_of(
    "flowmap_rejections_total",
    Unit::Count,
    "Requests that were not taken: too many requests, no room in the queue, no time before the deadline, or the server was stopping.",
    &[Label { name: "reason", values: Values::Fixed(&["requests", "queue", "deadline", "unavailable"]) }],
);
/// Bytes of encoded images that were sent.
pub static RESPONSE_BYTES: Metric =
    Metric::counter_of("flowmap_response_bytes_total", Unit::Bytes, "Bytes of encoded images sent.", &[]);
/// Rows of a batch, guidance rows included.
pub static BATCH_ROWS: Metric = Metric::histogram_of(
    "flowmap_batch_rows",
    (Unit::Count, ROWS),
    "Rows of a forward, those that guidance adds included.",
    &[MODEL],
);
/// Distinct numbers of evaluations per image that shared a batch.
pub static BATCH_DISTINCT_PLANS: Metric = Metric::histogram_of(
    "flowmap_batch_distinct_plans",
    (Unit::Count, PLANS),
    "Distinct numbers of evaluations per image among the images that shared a forward.",
    &[MODEL],
);
/// Time of one forward with all that belongs to it.
pub static STEP_DURATION: Metric = Metric::histogram_of(
    "flowmap_step_duration_seconds",
    (Unit::Seconds, STEP_SECONDS),
    "Time of one step of the device: one evaluation of every row of a batch.",
    &[MODEL],
);
/// Images that wait for their first evaluation.
pub static IMAGES_WAITING: Metric =
    Metric::gauge_of("flowmap_images_waiting", Unit::Count, "Images that wait for their first evaluation.", &[MODEL]);
/// Images between their first evaluation and their last.
pub static IMAGES_RUNNING: Metric = Metric::gauge_of(
    "flowmap_images_running",
    Unit::Count,
    "Images between their first evaluation and their last.",
    &[MODEL],
);
/// Images that were finished, by why they have the steps that they have.
pub static IMAGES: Metric = Metric::counter_of(
    "flowmap_images_total",
    Unit::Count,
    "Images finished, with all steps asked for or with fewer, by reason.",
    &[MODEL, Label { name: "steps", values: Values::Fixed(&["asked", "deadline", "overload", "shutdown"]) }],
);
/// Steps of finished images.
pub static IMAGE_STEPS: Metric =
    Metric::histogram_of("flowmap_image_steps", (Unit::Count, STEPS), "Steps of finished images.", &[MODEL]);
/// Previews that were made.
pub static PREVIEWS: Metric = Metric::counter_of(
    "flowmap_previews_total",
    Unit::Count,
    "Previews of unfinished images that were made.",
    &[MODEL],
);
/// Evaluations that all images in the queue still take.
pub static EVALUATIONS_PENDING: Metric = Metric::gauge_of(
    "flowmap_evaluations_pending",
    Unit::Count,
    "Rows that the images in the queue and in flight still take, as planned.",
    &[MODEL],
);
/// Until a new image would be finished.
pub static PREDICTED_WAIT: Metric = Metric::gauge_of(
    "flowmap_predicted_wait_seconds",
    Unit::Seconds,
    "Until a new image in one step would be finished, as predicted.",
    &[MODEL],
);
/// How many steps overload leaves.
pub static STEP_CAP: Metric = Metric::gauge_of(
    "flowmap_step_cap",
    Unit::Count,
    "Steps that overload leaves to requests which allow fewer than they ask for; 256 while nothing is given up.",
    &[],
);
/// Memory that kept states take.
pub static KEPT_BYTES: Metric = Metric::gauge_of(
    "flowmap_kept_states_bytes",
    Unit::Bytes,
    "Memory of the states from which finished images can be continued.",
    &[],
);
/// Evaluations of rows.
pub static EVALUATIONS: Metric = Metric::counter_of(
    "flowmap_evaluations_total",
    Unit::Count,
    "Network evaluations of single images (a guided evaluation counts once), previews not counted.",
    &[MODEL],
);
/// The measured cost of a step.
pub static STEP_COST: Metric = Metric::gauge_of(
    "flowmap_step_cost_seconds",
    Unit::Seconds,
    "Estimated cost of a step: its fixed part and what each row adds.",
    &[MODEL, DEVICE, Label { name: "part", values: Values::Fixed(&["base", "per_row"]) }],
);
/// How well the cost of a step is known.
pub static STEP_COST_RATIO: Metric = Metric::gauge_of(
    "flowmap_step_cost_ratio",
    Unit::Count,
    "Quantiles of what the last steps took, as a multiple of what was expected.",
    &[MODEL, DEVICE, Label { name: "quantile", values: Values::Fixed(&["0.5", "0.9"]) }],
);
/// Images that were dropped before they were finished.
pub static IMAGES_CANCELLED: Metric = Metric::counter_of(
    "flowmap_images_cancelled_total",
    Unit::Count,
    "Images that ended unfinished, by reason.",
    &[MODEL, Label { name: "reason", values: Values::Fixed(&["cancelled", "deadline", "error"]) }],
);
/// From admission to the first evaluation.
pub static QUEUE_DURATION: Metric = Metric::histogram_of(
    "flowmap_queue_duration_seconds",
    (Unit::Seconds, LATENCY_SECONDS),
    "From an image's admission to its first evaluation.",
    &[MODEL],
);
/// The running program.
pub static BUILD_INFO: Metric = Metric::gauge_of(
    "flowmap_build_info",
    Unit::Count,
    "Always 1; the labels say which build this is.",
    &[Label { name: "version", values: Values::Free }],
);
/// The loaded models.
pub static MODEL_INFO: Metric = Metric::gauge_of(
    "flowmap_model_info",
    Unit::Count,
    "Always 1; the labels describe a loaded model.",
    &[
        MODEL,
        Label { name: "architecture", values: Values::Free },
        Label { name: "objective", values: Values::Free },
        Label { name: "content_hash", values: Values::Free },
    ],
);

/// Every metric there is.
pub static TABLE: &[&Metric] = &[
    &REQUESTS,
    &REQUEST_DURATION,
    &REQUESTS_IN_FLIGHT,
    &REJECTIONS,
    &RESPONSE_BYTES,
    &BATCH_ROWS,
    &BATCH_DISTINCT_PLANS,
    &STEP_DURATION,
    &IMAGES_WAITING,
    &IMAGES_RUNNING,
    &IMAGES,
    &EVALUATIONS,
    &IMAGE_STEPS,
    &PREVIEWS,
    &EVALUATIONS_PENDING,
    &PREDICTED_WAIT,
    &STEP_CAP,
    &KEPT_BYTES,
    &STEP_COST,
    &STEP_COST_RATIO,
    &IMAGES_CANCELLED,
    &QUEUE_DURATION,
    &BUILD_INFO,
    &MODEL_INFO,
];

/// A metric and what a dashboard may rely on.
#[derive(Debug)]
pub struct Metric {
    /// Its name, with base unit and `_total` where Prometheus wants them.
    pub name: &'static str,
    /// Counter, gauge or histogram.
    pub kind: Kind,
    /// Unit of its values.
    pub unit: Unit,
    /// One sentence for people.
    pub help: &'static str,
    /// Its labels, in the order in which values are given.
    pub labels: &'static [Label],
}

/// Kinds of metric.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Kind {
    /// Only rises.
    Counter,
    /// Rises and falls.
    Gauge,
    /// Counts into these buckets, given by their upper bounds.
    Histogram(&'static [f64]),
}

/// A label and the values that it takes.
#[derive(Debug)]
pub struct Label {
    /// Its name.
    pub name: &'static str,
    /// Its values.
    pub values: Values,
}

/// Values of a label; never a client's words.
#[derive(Debug)]
pub enum Values {
    /// These.
    Fixed(&'static [&'static str]),
    /// The loaded models.
    Models,
    /// Known only to whoever sets it, once.
    Free,
}

const METADATA: Metadata<'static> = Metadata::new(module_path!(), Level::INFO, Some(module_path!()));

impl Metric {
    const fn counter_of(name: &'static str, unit: Unit, help: &'static str, labels: &'static [Label]) -> Self {
        Self { name, kind: Kind::Counter, unit, help, labels }
    }

    const fn gauge_of(name: &'static str, unit: Unit, help: &'static str, labels: &'static [Label]) -> Self {
        Self { name, kind: Kind::Gauge, unit, help, labels }
    }

    const fn histogram_of(
        name: &'static str,
        (unit, buckets): (Unit, &'static [f64]),
        help: &'static str,
        labels: &'static [Label],
    ) -> Self {
        Self { name, kind: Kind::Histogram(buckets), unit, help, labels }
    }

    /// The counter with these label values, in the order of the table.
    pub fn counter<const N: usize>(&self, values: [&str; N]) -> Counter {
        debug_assert_eq!(self.kind, Kind::Counter, "{}", self.name);
        metrics::with_recorder(|recorder| recorder.register_counter(&self.key(&values), &METADATA))
    }

    /// The gauge with these label values, in the order of the table.
    pub fn gauge<const N: usize>(&self, values: [&str; N]) -> Gauge {
        debug_assert_eq!(self.kind, Kind::Gauge, "{}", self.name);
        metrics::with_recorder(|recorder| recorder.register_gauge(&self.key(&values), &METADATA))
    }

    /// The histogram with these label values, in the order of the table.
    pub fn histogram<const N: usize>(&self, values: [&str; N]) -> Histogram {
        debug_assert!(matches!(self.kind, Kind::Histogram(_)), "{}", self.name);
        metrics::with_recorder(|recorder| recorder.register_histogram(&self.key(&values), &METADATA))
    }

    fn key(&self, values: &[&str]) -> Key {
        debug_assert_eq!(values.len(), self.labels.len(), "labels of {}", self.name);
        let pairs = self.labels.iter().zip(values).map(|(label, value)| Pair::new(label.name, (*value).to_owned()));
        Key::from_parts(self.name, pairs.collect::<Vec<_>>())
    }

    fn describe(&self) {
        let (name, help) = (self.name.into(), SharedString::const_str(self.help));
        metrics::with_recorder(|recorder| match self.kind {
            Kind::Counter => recorder.describe_counter(name, Some(self.unit), help),
            Kind::Gauge => recorder.describe_gauge(name, Some(self.unit), help),
            Kind::Histogram(_) => recorder.describe_histogram(name, Some(self.unit), help),
        });
    }

    /// Makes every series whose label values are known, at zero.
    fn register(&self, models: &[String]) {
        for values in self.combinations(models) {
            let key = self.key(&values);
            metrics::with_recorder(|recorder| match self.kind {
                Kind::Counter => recorder.register_counter(&key, &METADATA).increment(0),
                Kind::Gauge => recorder.register_gauge(&key, &METADATA).increment(0.0),
                Kind::Histogram(_) => drop(recorder.register_histogram(&key, &METADATA)),
            });
        }
    }

    /// Every combination of known label values; none where a label is free.
    fn combinations<'a>(&self, models: &'a [String]) -> Vec<Vec<&'a str>> {
        let mut all = vec![Vec::new()];
        for label in self.labels {
            let values: Vec<&str> = match label.values {
                Values::Fixed(values) => values.to_vec(),
                Values::Models => models.iter().map(String::as_str).collect(),
                Values::Free => Vec::new(),
            };
            all = all.iter().flat_map(|head| values.iter().map(move |value| [head, &[*value][..]].concat())).collect();
        }
        all
    }
}

/// Installs the process's recorder, once: later calls return the same handle.
///
/// # Errors
/// [`Error::Config`] when another recorder is already in place.
pub fn install() -> Result<PrometheusHandle> {
    static HANDLE: OnceLock<Option<PrometheusHandle>> = OnceLock::new();
    let installed = HANDLE.get_or_init(|| {
        let recorder = builder().build_recorder();
        let handle = recorder.handle();
        metrics::set_global_recorder(recorder).ok().map(|()| handle)
    });
    installed.clone().ok_or_else(|| Error::Config(vec!["another metrics recorder is already installed".into()]))
}

/// Describes every metric and makes its series, for these models.
pub fn register(models: &[ModelInfo]) {
    let names: Vec<String> = models.iter().map(|model| model.id.to_string()).collect();
    for metric in TABLE {
        metric.describe();
        metric.register(&names);
    }
    BUILD_INFO.gauge([env!("CARGO_PKG_VERSION")]).set(1.0);
    for (model, name) in models.iter().zip(&names) {
        MODEL_INFO.gauge([name, &model.architecture, &model.objective, &model.content_hash]).set(1.0);
    }
}

/// A builder that knows the buckets of every histogram: one without buckets would be exported as a summary.
fn builder() -> PrometheusBuilder {
    TABLE.iter().fold(PrometheusBuilder::new(), |builder, metric| match metric.kind {
        Kind::Histogram(buckets) => with_buckets(builder, metric.name, buckets),
        Kind::Counter | Kind::Gauge => builder,
    })
}

#[expect(clippy::expect_used, reason = "fails on an empty bucket list only, and those of the table are constants")]
fn with_buckets(builder: PrometheusBuilder, name: &str, buckets: &[f64]) -> PrometheusBuilder {
    builder.set_buckets_for_metric(Matcher::Full(name.into()), buckets).expect("buckets are not empty")
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use super::*;
    use crate::domain::{Guidance, ModelId, TimePairs};

    fn model(name: &str) -> ModelInfo {
        ModelInfo {
            id: ModelId { name: name.into(), version: 1 },
            description: String::new(),
            architecture: "mlp".into(),
            parameters: 1,
            shape: vec![2],
            value_range: [-1.0, 1.0],
            noise_scale: 1.0,
            classes: vec![],
            guidance: Guidance::None,
            time_pairs: TimePairs::Triangle,
            objective: "lmd".into(),
            content_hash: "00".into(),
            quality: None,
            grids: vec![],
        }
    }

    fn exposition(models: &[ModelInfo]) -> String {
        let recorder = builder().build_recorder();
        metrics::with_local_recorder(&recorder, || {
            register(models);
            // Devices are known when they have been measured.
            STEP_COST.gauge(["a@1", "0", "base"]).set(0.0);
            STEP_COST_RATIO.gauge(["a@1", "0", "0.9"]).set(1.0);
        });
        recorder.handle().render()
    }

    #[test]
    fn the_exposition_is_the_table() {
        let text = exposition(&[model("a"), model("b")]);
        let lines = |prefix: &str| -> BTreeMap<String, String> {
            let rest = text.lines().filter_map(|line| line.strip_prefix(prefix));
            rest.filter_map(|l| l.split_once(' ')).map(|(name, what)| (name.into(), what.into())).collect()
        };
        let kind = |metric: &Metric| match metric.kind {
            Kind::Counter => "counter",
            Kind::Gauge => "gauge",
            Kind::Histogram(_) => "histogram",
        };
        let want = TABLE.iter().map(|m| (m.name.to_string(), kind(m).to_string())).collect::<BTreeMap<_, _>>();
        assert_eq!(lines("# TYPE "), want);
        let help = TABLE.iter().map(|m| (m.name.to_string(), m.help.to_string())).collect::<BTreeMap<_, _>>();
        assert_eq!(lines("# HELP "), help);
    }

    #[test]
    fn every_series_exists_before_the_first_request() {
        let text = exposition(&[model("a")]);
        for series in [
            "flowmap_requests_total{method=\"Generate\",code=\"RESOURCE_EXHAUSTED\"} 0",
            "flowmap_request_duration_seconds_bucket{method=\"GetModel\",le=\"0.0075\"} 0",
            "flowmap_images_total{model=\"a@1\",steps=\"overload\"} 0",
            "flowmap_response_bytes_total 0",
            "flowmap_model_info{model=\"a@1\",architecture=\"mlp\",objective=\"lmd\",content_hash=\"00\"} 1",
        ] {
            assert!(text.lines().any(|line| line == series), "{series} is not in:\n{text}");
        }
    }

    #[test]
    fn names_follow_the_conventions() {
        let names: BTreeSet<_> = TABLE.iter().map(|m| m.name).collect();
        assert_eq!(names.len(), TABLE.len(), "a name is there twice");
        for metric in TABLE {
            assert!(metric.name.starts_with("flowmap_"));
            assert_eq!(metric.name.ends_with("_total"), metric.kind == Kind::Counter, "{}", metric.name);
            assert_eq!(metric.unit == Unit::Seconds, metric.name.contains("_seconds"), "{}", metric.name);
            assert_eq!(metric.unit == Unit::Bytes, metric.name.contains("_bytes"), "{}", metric.name);
            if let Kind::Histogram(buckets) = metric.kind {
                assert!(!buckets.is_empty() && buckets.windows(2).all(|w| w[0] < w[1]), "{}", metric.name);
            }
        }
    }
}
