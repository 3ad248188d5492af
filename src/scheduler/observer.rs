//! What the scheduler tells the `metrics` recorder: the only place in this room that does.
//!
//! Handles are bound to the recorder that is installed when the observer is made. Labels are model names and fixed
//! words, never text from a client.

use std::time::{Duration, Instant};

use ::metrics::{Counter, Gauge, Histogram};

use super::core::{Core, DeviceId, Event, Forward};
use super::cost::Cost;
use crate::domain::{JobEvent, ModelInfo, StepsReason};
use crate::engine::Purpose;
use crate::error::Error;
use crate::telemetry::metrics;

/// What the gauge of the step cap shows when nothing is capped.
const NO_CAP: f64 = 256.0;

/// One set of instruments per model, by key, and those of the whole.
pub(super) struct Observer {
    models: Vec<Instruments>,
    names: Vec<String>,
    step_cap: Gauge,
    kept_bytes: Gauge,
}

struct Instruments {
    batch_rows: Histogram,
    batch_distinct_plans: Histogram,
    step_duration: Histogram,
    queue_duration: Histogram,
    image_steps: Histogram,
    images_waiting: Gauge,
    images_running: Gauge,
    evaluations_pending: Gauge,
    predicted_wait: Gauge,
    images_asked: Counter,
    images_deadline: Counter,
    images_overload: Counter,
    images_shutdown: Counter,
    evaluations: Counter,
    previews: Counter,
    cancelled: Counter,
    expired: Counter,
    failed: Counter,
}

impl Observer {
    /// Instruments for every model, registered at once so that each series exists from the start.
    pub(super) fn new(catalogue: &[ModelInfo]) -> Self {
        let names: Vec<String> = catalogue.iter().map(|info| info.id.to_string()).collect();
        let step_cap = metrics::STEP_CAP.gauge([]);
        step_cap.set(NO_CAP);
        Self {
            models: names.iter().map(|name| Instruments::new(name)).collect(),
            names,
            step_cap,
            kept_bytes: metrics::KEPT_BYTES.gauge([]),
        }
    }

    /// A forward has succeeded.
    pub(super) fn forward(&self, forward: &Forward, elapsed: Duration) {
        let Some(model) = self.models.get(forward.batch.model.0) else { return };
        model.batch_rows.record(forward.rows as f64);
        model.batch_distinct_plans.record(forward.distinct_plans as f64);
        model.step_duration.record(elapsed);
        let moved = forward.batch.rows.iter().filter(|step| step.purpose != Purpose::Preview);
        model.evaluations.increment(moved.count() as u64);
        forward.queued.iter().for_each(|&waited| model.queue_duration.record(waited));
    }

    /// A job has an event.
    pub(super) fn event(&self, event: &Event) {
        let Some(model) = self.models.get(event.job.model.0) else { return };
        match &event.event {
            JobEvent::Preview(_) => model.previews.increment(1),
            JobEvent::Image(image) => {
                model.image_steps.record(image.times.len().saturating_sub(1) as f64);
                match image.reason {
                    StepsReason::Asked => model.images_asked.increment(1),
                    StepsReason::Deadline => model.images_deadline.increment(1),
                    StepsReason::Overload => model.images_overload.increment(1),
                    StepsReason::Shutdown => model.images_shutdown.increment(1),
                }
            }
            JobEvent::Finished(_) => {}
            JobEvent::Failed(Error::Cancelled) => model.cancelled.increment(event.lost.into()),
            JobEvent::Failed(Error::DeadlineExceeded) => model.expired.increment(event.lost.into()),
            JobEvent::Failed(_) => model.failed.increment(event.lost.into()),
        }
    }

    /// How full the queues are and how far steps are given up.
    pub(super) fn levels(&self, core: &Core, now: Instant) {
        for (model, status) in self.models.iter().zip(core.status(now)) {
            model.images_waiting.set(status.load.waiting as f64);
            model.images_running.set(status.load.running as f64);
            model.evaluations_pending.set(status.load.work as f64);
            model.predicted_wait.set(status.wait.as_secs_f64());
        }
        self.step_cap.set(core.level().mean_cap().min(NO_CAP));
        self.kept_bytes.set(core.kept_bytes() as f64);
    }

    /// What the forwards of a device cost now.
    pub(super) fn costs(&self, costs: &[Cost], device: DeviceId) {
        let device = device.0.to_string();
        for (name, cost) in self.names.iter().zip(costs) {
            let line = cost.line();
            metrics::STEP_COST.gauge([name, &device, "base"]).set(line.base);
            metrics::STEP_COST.gauge([name, &device, "per_row"]).set(line.per_row);
            metrics::STEP_COST_RATIO.gauge([name, &device, "0.5"]).set(cost.residual(0.5));
            metrics::STEP_COST_RATIO.gauge([name, &device, "0.9"]).set(cost.residual(0.9));
        }
    }
}

impl Instruments {
    fn new(model: &str) -> Self {
        let lost = |reason| metrics::IMAGES_CANCELLED.counter([model, reason]);
        let images = |reason| metrics::IMAGES.counter([model, reason]);
        Self {
            cancelled: lost("cancelled"),
            expired: lost("deadline"),
            failed: lost("error"),
            images_asked: images("asked"),
            images_deadline: images("deadline"),
            images_overload: images("overload"),
            images_shutdown: images("shutdown"),
            batch_rows: metrics::BATCH_ROWS.histogram([model]),
            batch_distinct_plans: metrics::BATCH_DISTINCT_PLANS.histogram([model]),
            step_duration: metrics::STEP_DURATION.histogram([model]),
            queue_duration: metrics::QUEUE_DURATION.histogram([model]),
            image_steps: metrics::IMAGE_STEPS.histogram([model]),
            images_waiting: metrics::IMAGES_WAITING.gauge([model]),
            images_running: metrics::IMAGES_RUNNING.gauge([model]),
            evaluations_pending: metrics::EVALUATIONS_PENDING.gauge([model]),
            predicted_wait: metrics::PREDICTED_WAIT.gauge([model]),
            evaluations: metrics::EVALUATIONS.counter([model]),
            previews: metrics::PREVIEWS.counter([model]),
        }
    }
}
