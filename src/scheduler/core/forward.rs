//! The choice of a device's next forward, at the last moment.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::{Core, Device, DeviceId, Forward, JobId, Running};
use crate::domain::{ModelKey, StepsReason};
use crate::engine::{Batch, RowId, RowStep};
use crate::scheduler::image::Outlook;
use crate::scheduler::queue::{Choice, Room};
use crate::scheduler::time::{seconds, times};

/// What all rows of a forward are decided by.
struct Circumstances {
    device: DeviceId,
    now: Instant,
    /// What the forward takes.
    step: Duration,
    squeezed: bool,
}

impl Core {
    /// The next forward of `device`; `None` while one is out or nothing is to do there.
    pub fn next_forward(&mut self, device: DeviceId, now: Instant) -> Option<Forward> {
        if self.devices.get(device.0).is_none_or(|device| device.running.is_some() || device.retired) {
            return None;
        }
        self.models_in_turn(device).into_iter().find_map(|model| self.forward_of(model, device, now))
    }

    /// The models with work, the one first that has had least of the device.
    fn models_in_turn(&mut self, device: DeviceId) -> Vec<usize> {
        let mut models: Vec<usize> = (0..self.models.len()).filter(|&m| !self.models[m].queue.is_empty()).collect();
        let served = &mut self.devices[device.0].served;
        models.sort_by(|&a, &b| served[a].total_cmp(&served[b]).then(a.cmp(&b)));
        // A model without work saves nothing up for later.
        let least = models.first().map_or(0.0, |&model| served[model]);
        for (model, queue) in self.models.iter().map(|model| &model.queue).enumerate() {
            if queue.is_empty() {
                served[model] = served[model].max(least);
            }
        }
        models
    }

    fn forward_of(&mut self, model: usize, id: DeviceId, now: Instant) -> Option<Forward> {
        let device = &self.devices[id.0];
        let rows = self.room_of(device, model);
        let (devices, cycle) = (self.present().count(), self.cycle(device, model));
        let room = Room { device: id, rows, devices, cycle, now, curfew: self.curfew };
        let choice = self.models[model].queue.choose(&room);
        if choice.images.is_empty() {
            return None;
        }
        let cost = &self.devices[id.0].costs[model];
        // Where models take turns, the next forward of this one comes after one of each other.
        let others = cycle.saturating_sub(seconds(cost.promised(rows)));
        let step = seconds(cost.promised(choice.rows)) + others;
        let circumstances = Circumstances { device: id, now, step, squeezed: choice.squeezed };
        Some(self.begin(model, &choice, &circumstances))
    }

    /// Device rows of the next forward.
    fn room_of(&self, device: &Device, model: usize) -> usize {
        let (cost, economical) = (&device.costs[model], self.budget(device, model));
        cost.explored(economical, cost.rows_within(self.limits.max_step, self.limits.max_rows))
    }

    fn begin(&mut self, model: usize, choice: &Choice, at: &Circumstances) -> Forward {
        let mut rows = Vec::with_capacity(choice.images.len());
        let (mut steps, mut queued, mut plans) = (Vec::with_capacity(choice.images.len()), Vec::new(), Vec::new());
        let mut shares: BTreeMap<Arc<str>, usize> = BTreeMap::new();
        for &(id, index) in &choice.images {
            let Some(step) = self.step(id, index, at) else { continue };
            let Some(job) = self.models[model].queue.get(id) else { continue };
            if step.start.is_some() {
                queued.push(job.queued(at.now));
            }
            plans.push(job.evaluations_per_image());
            *shares.entry(Arc::clone(job.tenant())).or_default() += job.width(index);
            rows.push((id, step.row));
            steps.push(step);
        }
        plans.sort_unstable();
        plans.dedup();
        let previews = self.previews(model, choice, &rows, &steps, at);
        let device_rows = choice.rows + previews.iter().map(|(_, _, width)| width).sum::<usize>();
        for (id, step, _) in previews {
            rows.push((id, step.row));
            steps.push(step);
        }
        let expected = seconds(self.devices[at.device.0].costs[model].expected(device_rows));
        let running = Running { model, device_rows, rows, shares, until: at.now + expected };
        self.devices[at.device.0].running = Some(running);
        let batch = Batch { model: ModelKey(model), rows: steps };
        let distinct_plans = plans.len();
        Forward { batch, rows: device_rows, distinct_plans, queued, expected }
    }

    /// The next evaluation of an image, which begins if it has not yet.
    fn step(&mut self, id: JobId, index: u32, at: &Circumstances) -> Option<RowStep> {
        let (curfew, fresh) = (self.curfew, RowId(self.next_row));
        let Self { models, kept, next_row, .. } = self;
        let job = models.get_mut(id.model.0)?.queue.get_mut(id)?;
        let (target, cause) = match curfew {
            Some(curfew) if curfew < job.target() => (curfew, StepsReason::Shutdown),
            _ => (job.target(), StepsReason::Deadline),
        };
        let Circumstances { now, step, squeezed, .. } = *at;
        let outlook = Outlook { now, step, target, floor: job.floor(), cause, squeezed };
        let start = job.is_waiting(index).then(|| job.begin(index, fresh, at.device, &outlook, kept));
        *next_row += u64::from(start.is_some());
        job.step(index, start, &outlook, kept.is_enabled())
    }

    /// Previews for the room that is left: only while nobody waits, and only as many as make nobody late.
    fn previews(
        &self,
        model: usize,
        choice: &Choice,
        rows: &[(JobId, RowId)],
        steps: &[RowStep],
        at: &Circumstances,
    ) -> Vec<(JobId, RowStep, usize)> {
        let (device, queue) = (&self.devices[at.device.0], &self.models[model].queue);
        let full = self.budget(device, model);
        let mut room = previews_beside(choice.rows, self.limits.preview_share).min(full.saturating_sub(choice.rows));
        if room == 0 || choice.squeezed || queue.by_target().any(|(_, job)| job.waiting() > 0) {
            return Vec::new();
        }
        let longer = seconds(device.costs[model].promised(choice.rows + room));
        let is_late = |(_, job): (JobId, &super::Progress)| {
            job.can_jump() && at.now + times(longer, job.forwards(full as u64)) > job.target()
        };
        if queue.by_target().any(is_late) {
            return Vec::new();
        }
        let mut previews = Vec::new();
        for (&(id, _), step) in rows.iter().zip(steps) {
            let Some((preview, width)) = queue.get(id).and_then(|job| job.preview(step)) else { continue };
            if width > room {
                break;
            }
            room -= width;
            previews.push((id, preview, width));
        }
        previews
    }
}

/// Device rows that previews may add to a forward of `rows`.
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a float saturates, and both are bounded")]
fn previews_beside(rows: usize, share: f64) -> usize {
    if share <= 0.0 { 0 } else { ((rows as f64 * share) as usize).max(1) }
}
