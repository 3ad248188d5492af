//! What becomes of forwards, and the ends of jobs.

use std::time::{Duration, Instant};

use super::{Core, DeviceId, Event, JobId, Running};
use crate::domain::JobEvent;
use crate::engine::{Outcome, RowId};
use crate::error::{Error, Result};
use crate::scheduler::progress::Settled;

impl Core {
    /// Takes in what became of the forward that was handed out to `device`, and how long it took.
    pub fn complete(
        &mut self,
        device: DeviceId,
        result: Result<Vec<Outcome>>,
        elapsed: Duration,
        now: Instant,
    ) -> Vec<Event> {
        let Some(Running { model, device_rows, rows, shares, .. }) =
            self.devices.get_mut(device.0).and_then(|device| device.running.take())
        else {
            return Vec::new();
        };
        self.models[model].queue.served(&shares);
        self.devices[device.0].served[model] += elapsed.as_secs_f64();
        let outcomes = result.and_then(|outcomes| match outcomes.len() == rows.len() {
            true => Ok(outcomes),
            false => Err(Error::Compute(format!("{} outcomes for {} rows", outcomes.len(), rows.len()))),
        });
        let mut events = Vec::new();
        match outcomes {
            Ok(outcomes) => {
                self.devices[device.0].costs[model].observe(device_rows, elapsed);
                // Previews are of the states before this forward: they are settled before those move on.
                let is_preview = |(_, outcome): &(_, Outcome)| matches!(outcome, Outcome::Preview(_));
                let (previews, others): (Vec<_>, Vec<_>) = rows.into_iter().zip(outcomes).partition(is_preview);
                for ((id, row), outcome) in previews.into_iter().chain(others) {
                    self.settle(id, row, outcome, now, &mut events);
                }
            }
            Err(error) => events.extend(rows.iter().filter_map(|&(id, _)| self.fail(id, copy(&error)))),
        }
        events
    }

    fn settle(&mut self, id: JobId, row: RowId, outcome: Outcome, now: Instant, events: &mut Vec<Event>) {
        let Some(job) = self.job(id) else { return };
        match job.settle(row, outcome, now) {
            Settled::Running => {}
            Settled::Failed(reason) => events.extend(self.fail(id, Error::Compute(reason))),
            Settled::Preview(preview) => events.push(Event { job: id, event: JobEvent::Preview(preview), lost: 0 }),
            Settled::Image(image, kept) => {
                events.push(Event { job: id, event: JobEvent::Image(image), lost: 0 });
                if let Some(summary) = job.summary(now) {
                    self.models[id.model.0].queue.remove(id);
                    events.push(Event { job: id, event: JobEvent::Finished(summary), lost: 0 });
                }
                if let Some((key, state)) = kept {
                    self.kept.put(key, state);
                }
            }
        }
    }

    /// Ends a job whose owner went away.
    pub fn cancel(&mut self, id: JobId) -> Option<Event> {
        self.fail(id, Error::Cancelled)
    }

    /// Ends the jobs whose time has run out.
    pub fn tick(&mut self, now: Instant) -> Vec<Event> {
        let expired: Vec<JobId> = self.models.iter().flat_map(|model| model.queue.expired(now)).collect();
        expired.into_iter().filter_map(|id| self.fail(id, Error::DeadlineExceeded)).collect()
    }

    /// Ends every job with `error`.
    pub fn abort(&mut self, error: &Error) -> Vec<Event> {
        let all: Vec<JobId> = self.models.iter().flat_map(|model| model.queue.ids()).collect();
        all.into_iter().filter_map(|id| self.fail(id, copy(error))).collect()
    }

    /// Takes a device out of service: jobs with images in flight there end with `error`; the last one to go ends all.
    pub fn retire(&mut self, device: DeviceId, error: &Error) -> Vec<Event> {
        if let Some(device) = self.devices.get_mut(device.0) {
            (device.retired, device.running) = (true, None);
        }
        if self.present().next().is_none() {
            return self.abort(error);
        }
        let is_there = |queue: &crate::scheduler::queue::Queue, id: &JobId| {
            queue.get(*id).is_some_and(|job| job.held().any(|(place, _)| place == device))
        };
        let jobs = |model: &super::Model| {
            let ids = model.queue.ids();
            ids.into_iter().filter(|id| is_there(&model.queue, id)).collect::<Vec<_>>()
        };
        let there: Vec<JobId> = self.models.iter().flat_map(jobs).collect();
        there.into_iter().filter_map(|id| self.fail(id, copy(error))).collect()
    }

    /// Ends a job without its missing images; its rows in flight are released.
    fn fail(&mut self, id: JobId, error: Error) -> Option<Event> {
        let job = self.models.get_mut(id.model.0)?.queue.remove(id)?;
        for (device, row) in job.held() {
            self.devices[device.0].released.push(row);
        }
        Some(Event { job: id, event: JobEvent::Failed(error), lost: job.missing() })
    }

    /// The rows on `device` that ended without its engine knowing, since the last call.
    pub fn take_released(&mut self, device: DeviceId) -> Vec<RowId> {
        self.devices.get_mut(device.0).map(|device| std::mem::take(&mut device.released)).unwrap_or_default()
    }
}

/// The same error for another job that shared its cause.
fn copy(error: &Error) -> Error {
    match error {
        Error::Compute(reason) => Error::Compute(reason.clone()),
        Error::Unavailable(reason) => Error::Unavailable(reason.clone()),
        other => Error::Compute(other.to_string()),
    }
}
