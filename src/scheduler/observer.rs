//! What a worker tells the `metrics` recorder: the only place in this room that does.
//!
//! Handles are bound to the recorder that is installed when the observer is made. Labels are model names and fixed
//! words, never text from a client.

use std::time::Duration;

use ::metrics::{Counter, Gauge, Histogram};

use super::core::{Core, Event, Forward};
use crate::domain::{JobEvent, ModelInfo};
use crate::error::Error;
use crate::telemetry::metrics;

/// One set of instruments per model, by key.
pub(super) struct Observer {
    models: Vec<Instruments>,
}

struct Instruments {
    batch_rows: Histogram,
    batch_distinct_plans: Histogram,
    step_duration: Histogram,
    queue_duration: Histogram,
    images_waiting: Gauge,
    images_running: Gauge,
    cost_base: Gauge,
    cost_per_row: Gauge,
    images: Counter,
    evaluations: Counter,
    cancelled: Counter,
    expired: Counter,
    failed: Counter,
}

impl Observer {
    /// Instruments for every model, registered at once so that each series exists from the start.
    pub(super) fn new(catalogue: &[ModelInfo]) -> Self {
        Self { models: catalogue.iter().map(|info| Instruments::new(&info.id.to_string())).collect() }
    }

    /// A forward has succeeded.
    pub(super) fn forward(&self, forward: &Forward, elapsed: Duration) {
        let Some(model) = self.models.get(forward.batch.model.0) else { return };
        model.batch_rows.record(forward.rows as f64);
        model.batch_distinct_plans.record(forward.distinct_plans as f64);
        model.step_duration.record(elapsed);
        model.evaluations.increment(forward.batch.rows.len() as u64);
        forward.queued.iter().for_each(|&waited| model.queue_duration.record(waited));
    }

    /// A job has an event.
    pub(super) fn event(&self, event: &Event) {
        let Some(model) = self.models.get(event.job.model.0) else { return };
        match &event.event {
            JobEvent::Image(_) => model.images.increment(1),
            JobEvent::Finished(_) => {}
            JobEvent::Failed(Error::Cancelled) => model.cancelled.increment(event.lost.into()),
            JobEvent::Failed(Error::DeadlineExceeded) => model.expired.increment(event.lost.into()),
            JobEvent::Failed(_) => model.failed.increment(event.lost.into()),
        }
    }

    /// How full the queues are and what forwards cost now.
    pub(super) fn levels(&self, core: &Core) {
        for (model, (load, line)) in self.models.iter().zip(core.loads()) {
            model.images_waiting.set(load.waiting as f64);
            model.images_running.set(load.running as f64);
            model.cost_base.set(line.base);
            model.cost_per_row.set(line.per_row);
        }
    }
}

impl Instruments {
    fn new(model: &str) -> Self {
        let lost = |reason| metrics::IMAGES_CANCELLED.counter([model, reason]);
        Self {
            cancelled: lost("cancelled"),
            expired: lost("deadline"),
            failed: lost("error"),
            cost_base: metrics::STEP_COST.gauge([model, "base"]),
            cost_per_row: metrics::STEP_COST.gauge([model, "per_row"]),
            batch_rows: metrics::BATCH_ROWS.histogram([model]),
            batch_distinct_plans: metrics::BATCH_DISTINCT_PLANS.histogram([model]),
            step_duration: metrics::STEP_DURATION.histogram([model]),
            queue_duration: metrics::QUEUE_DURATION.histogram([model]),
            images_waiting: metrics::IMAGES_WAITING.gauge([model]),
            images_running: metrics::IMAGES_RUNNING.gauge([model]),
            images: metrics::IMAGES.counter([model]),
            evaluations: metrics::EVALUATIONS.counter([model]),
        }
    }
}
