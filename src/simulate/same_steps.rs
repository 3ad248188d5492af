//! Batches of requests with equal numbers of steps that run to their ends: what a server does that batches whole
//! requests of one shape, such as Triton's dynamic batcher before a model that makes an image.
//!
//! A free device takes the oldest request and all others of its kind that fit; more are served than by taking the most
//! urgent first. Requests have a timeout in the queue, as good as one can be set: whatever would end late in the batch
//! that it would be in is dropped.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use super::policy::{End, Ended, Policy, Request, Work};
use super::scenario::Scenario;

/// A server.
pub(super) struct SameSteps {
    scenario: Scenario,
    /// By steps, in the order in which they came.
    queues: BTreeMap<u32, VecDeque<Request>>,
    devices: Vec<Device>,
}

#[derive(Debug, Default)]
struct Device {
    batch: Vec<Request>,
    /// When its batch ends.
    until: Duration,
}

impl SameSteps {
    pub(super) fn new(scenario: &Scenario) -> Self {
        let devices = (0..scenario.devices).map(|_| Device::default()).collect();
        Self { scenario: scenario.clone(), queues: BTreeMap::new(), devices }
    }

    /// How long a batch of `rows` requests for `steps` steps takes.
    fn batch_time(&self, rows: usize, steps: u32) -> Duration {
        self.scenario.forward(rows.clamp(1, self.scenario.limits.max_rows)).saturating_mul(steps)
    }

    /// Drops what would be late. The fewer are left, the sooner their batch ends: so from the longest batch down.
    fn drop_late(&mut self, now: Duration, ended: &mut Vec<Ended>) {
        let steps: Vec<u32> = self.queues.keys().copied().collect();
        for steps in steps {
            let Some(queue) = self.queues.get(&steps) else { continue };
            let end = now + self.batch_time(queue.len(), steps);
            let Some(queue) = self.queues.get_mut(&steps) else { continue };
            queue.retain(|request| {
                let stays = end <= request.deadline;
                if !stays {
                    ended.push(Ended { number: request.number, end: End::Expired });
                }
                stays
            });
            if queue.is_empty() {
                self.queues.remove(&steps);
            }
        }
    }
}

impl Policy for SameSteps {
    fn arrive(&mut self, request: Request, _: Duration, _: &mut Vec<Ended>) {
        self.queues.entry(request.steps).or_default().push_back(request);
    }

    fn next(&mut self, device: usize, now: Duration, ended: &mut Vec<Ended>) -> Option<Work> {
        self.drop_late(now, ended);
        let oldest = |(_, queue): &(&u32, &mut VecDeque<Request>)| queue.front().map(|request| request.number);
        let (&steps, queue) = self.queues.iter_mut().min_by_key(oldest)?;
        let rows = queue.len().min(self.scenario.limits.max_rows);
        self.devices[device].batch.extend(queue.drain(..rows));
        if queue.is_empty() {
            self.queues.remove(&steps);
        }
        self.devices[device].until = now + self.batch_time(rows, steps);
        Some(Work { rows, forwards: steps })
    }

    fn complete(&mut self, device: usize, _: Duration, _: Duration, ended: &mut Vec<Ended>) {
        let done = self.devices[device].batch.drain(..);
        ended.extend(done.map(|request| Ended { number: request.number, end: End::Answered(request.steps) }));
    }

    fn free_at(&self, now: Duration) -> Duration {
        let batches = self.queues.iter().map(|(&steps, queue)| {
            let full = queue.len().div_ceil(self.scenario.limits.max_rows);
            self.batch_time(queue.len(), steps).saturating_mul(u32::try_from(full).unwrap_or(u32::MAX))
        });
        let devices = u32::try_from(self.devices.len()).unwrap_or(u32::MAX);
        let boundary = self.devices.iter().map(|device| device.until.max(now)).min().unwrap_or(now);
        boundary + batches.sum::<Duration>() / devices + self.batch_time(1, 1)
    }
}
