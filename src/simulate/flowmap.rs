//! The scheduler of this crate as a policy: its own state machine, with forwards that are made up.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::noise::Noise;
use super::policy::{End, Ended, Policy, Request, Work};
use super::scenario::Scenario;
use crate::domain::{
    Guidance, Job, JobEvent, ModelId, ModelInfo, ModelKey, Priority, Sampler, Source, TimeGrid, TimePairs,
};
use crate::engine::{Outcome, Purpose, RowStep};
use crate::load::Random;
use crate::scheduler::cost::Cost;
use crate::scheduler::{Core, DeviceId, core::Event};

/// Stream of [`Random`] for what forwards take before the first request comes.
const CALIBRATION: u64 = 13;

/// A server.
pub(super) struct Flowmap {
    core: Core,
    /// The instant that counts as the beginning. Only differences from it are looked at.
    epoch: Instant,
    /// The request of each admitted job, by the job's number.
    requests: Vec<usize>,
    /// Jobs that have not ended.
    open: usize,
    max_open: usize,
    /// What will have become of the rows of each device's forward.
    outcomes: Vec<Vec<Outcome>>,
    name: Arc<str>,
}

impl Flowmap {
    /// Devices that know what their forwards cost, as well as a real server does that has just begun.
    pub(super) fn new(scenario: &Scenario, seed: u64) -> Self {
        let mut core = Core::new(&[model()], &scenario.limits);
        let mut noise = Noise::new(scenario.noise, Random::new(seed, CALIBRATION));
        for _ in 0..scenario.devices {
            core.add_device(vec![calibrated(scenario, &mut noise)]);
        }
        Self {
            core,
            epoch: Instant::now(),
            requests: Vec::new(),
            open: 0,
            max_open: scenario.limits.max_queued_images,
            outcomes: vec![Vec::new(); scenario.devices],
            name: "".into(),
        }
    }

    fn job(&self, request: Request) -> Job {
        Job {
            request_id: Arc::clone(&self.name),
            tenant: Arc::clone(&self.name),
            priority: Priority::Normal,
            model: ModelKey(0),
            sampler: Sampler::FlowMap,
            grid: TimeGrid::uniform(request.steps),
            min_steps: request.min_steps,
            sources: vec![Source::noise(0, 0, None)],
            guidance: 1.0,
            initial: None,
            deadline: Some(self.epoch + request.deadline),
            previews: None,
        }
    }

    fn hear(&mut self, events: Vec<Event>, ended: &mut Vec<Ended>) {
        for Event { job, event, .. } in events {
            let end = match event {
                JobEvent::Image(image) => End::Answered(image.evaluations),
                JobEvent::Failed(_) => End::Expired,
                JobEvent::Preview(_) | JobEvent::Finished(_) => continue,
            };
            self.open -= 1;
            let number = usize::try_from(job.number).ok().and_then(|job| self.requests.get(job));
            ended.extend(number.map(|&number| Ended { number, end }));
        }
    }
}

impl Policy for Flowmap {
    fn arrive(&mut self, request: Request, now: Duration, ended: &mut Vec<Ended>) {
        // As many permits as images may be queued, then the scheduler's own word.
        let taken = self.open < self.max_open && self.core.admit(self.job(request), self.epoch + now).is_ok();
        if taken {
            self.open += 1;
            self.requests.push(request.number);
        } else {
            ended.push(Ended { number: request.number, end: End::Refused });
        }
    }

    fn next(&mut self, device: usize, now: Duration, ended: &mut Vec<Ended>) -> Option<Work> {
        let now = self.epoch + now;
        let expired = self.core.tick(now);
        self.hear(expired, ended);
        // Nobody is there who had to forget rows.
        drop(self.core.take_released(DeviceId(device)));
        let forward = self.core.next_forward(DeviceId(device), now)?;
        self.outcomes[device].extend(forward.batch.rows.iter().map(outcome));
        Some(Work { rows: forward.rows, forwards: 1 })
    }

    fn complete(&mut self, device: usize, elapsed: Duration, now: Duration, ended: &mut Vec<Ended>) {
        let outcomes = std::mem::take(&mut self.outcomes[device]);
        let events = self.core.complete(DeviceId(device), Ok(outcomes), elapsed, self.epoch + now);
        self.hear(events, ended);
    }

    fn free_at(&self, now: Duration) -> Duration {
        now + self.core.status(self.epoch + now).next().map_or(Duration::ZERO, |status| status.wait)
    }
}

/// What a device that computes nothing says of a row.
fn outcome(step: &RowStep) -> Outcome {
    match step.purpose {
        Purpose::Advance => Outcome::Running,
        Purpose::Finish { .. } => Outcome::Finished { state: Vec::new(), before: None },
        Purpose::Preview => Outcome::Preview(Vec::new()),
    }
}

/// What a server knows after its first forwards: of 1, 2, 4, … rows, twice each, of which the faster counts.
fn calibrated(scenario: &Scenario, noise: &mut Noise) -> Cost {
    if scenario.noise == 0.0 {
        return Cost::known(scenario.cost);
    }
    let mut cost = Cost::default();
    let most = scenario.limits.max_rows.max(1);
    for rows in std::iter::successors(Some(1), |&n| (n < most).then(|| (2 * n).min(most))) {
        let factor = noise.factor().min(noise.factor());
        cost.observe(rows, scenario.forward(rows).mul_f64(factor));
    }
    cost
}

/// A model of which the scheduler looks at nothing but that it takes one row for each image.
fn model() -> ModelInfo {
    ModelInfo {
        id: ModelId { name: "simulated".into(), version: 1 },
        description: String::new(),
        architecture: String::new(),
        parameters: 0,
        shape: vec![1],
        value_range: [-1.0, 1.0],
        noise_scale: 1.0,
        classes: Vec::new(),
        guidance: Guidance::None,
        time_pairs: TimePairs::Triangle,
        objective: String::new(),
        content_hash: String::new(),
        quality: None,
        grids: Vec::new(),
    }
}
