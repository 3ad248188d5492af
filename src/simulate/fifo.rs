//! Step-level batching, first come first served: rows join and leave at every step, and each takes all its steps (the
//! iteration-level scheduling of Orca, Yu et al., OSDI 2022, for images).
//!
//! With *rejection* a request is refused at once where it would not be finished in time (as Clockwork does, Gujarati et
//! al., OSDI 2020). Under this rule the future is a list schedule: every row of a forward is a slot, a request takes the
//! slot that is free first, for as many rounds as it has steps. So the round in which it will end is known exactly, and
//! only the length of a round, which grows with its rows, is foreseen.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};
use std::time::Duration;

use super::policy::{End, Ended, Policy, Request, Work};
use super::scenario::Scenario;

/// A server.
pub(super) struct Fifo {
    scenario: Scenario,
    waiting: VecDeque<Row>,
    devices: Vec<Device>,
    /// Where requests are refused: the round from which each slot is free.
    slots: Option<BinaryHeap<Reverse<u64>>>,
    /// Forwards begun, of all devices.
    forwards: u64,
    /// Requests without an answer.
    open: usize,
}

#[derive(Debug, Default)]
struct Device {
    rows: Vec<Row>,
    /// When its forward ends.
    until: Duration,
}

#[derive(Debug)]
struct Row {
    number: usize,
    steps: u32,
    left: u32,
}

impl Fifo {
    /// A server that refuses what would be late, or one that refuses nothing.
    pub(super) fn new(scenario: &Scenario, rejects: bool) -> Self {
        let slots = scenario.limits.max_rows * scenario.devices;
        Self {
            waiting: VecDeque::new(),
            devices: (0..scenario.devices).map(|_| Device::default()).collect(),
            slots: rejects.then(|| std::iter::repeat_n(Reverse(0), slots).collect()),
            forwards: 0,
            open: 0,
            scenario: scenario.clone(),
        }
    }

    /// A round in which so many requests share the devices evenly.
    fn round(&self, open: usize) -> Duration {
        self.scenario.forward(open.div_ceil(self.devices.len()).clamp(1, self.scenario.limits.max_rows))
    }

    /// When the next round begins.
    fn boundary(&self, now: Duration) -> Duration {
        self.devices.iter().map(|device| device.until.max(now)).min().unwrap_or(now)
    }

    /// Takes a slot for `request` where it will be finished in time.
    fn reserve(&mut self, request: Request, now: Duration) -> bool {
        let (boundary, round) = (self.boundary(now), self.round(self.open + 1));
        let current = self.forwards / self.devices.len() as u64;
        let Some(slots) = &mut self.slots else { return true };
        let Some(mut slot) = slots.peek_mut() else { return false };
        let end = slot.0.max(current) + u64::from(request.steps);
        let rounds = u32::try_from(end - current).unwrap_or(u32::MAX);
        if boundary + round.saturating_mul(rounds) > request.deadline {
            return false;
        }
        *slot = Reverse(end);
        true
    }
}

impl Policy for Fifo {
    fn arrive(&mut self, request: Request, now: Duration, ended: &mut Vec<Ended>) {
        let Request { number, steps, .. } = request;
        if !self.reserve(request, now) {
            ended.push(Ended { number, end: End::Refused });
            return;
        }
        self.open += 1;
        self.waiting.push_back(Row { number, steps, left: steps });
    }

    fn next(&mut self, device: usize, now: Duration, _: &mut Vec<Ended>) -> Option<Work> {
        let Device { rows, until } = &mut self.devices[device];
        let room = self.scenario.limits.max_rows.saturating_sub(rows.len()).min(self.waiting.len());
        rows.extend(self.waiting.drain(..room));
        if rows.is_empty() {
            return None;
        }
        self.forwards += 1;
        *until = now + self.scenario.forward(rows.len());
        Some(Work { rows: rows.len(), forwards: 1 })
    }

    fn complete(&mut self, device: usize, _: Duration, _: Duration, ended: &mut Vec<Ended>) {
        let rows = &mut self.devices[device].rows;
        rows.iter_mut().for_each(|row| row.left -= 1);
        let done = rows.extract_if(.., |row| row.left == 0);
        let before = ended.len();
        ended.extend(done.map(|Row { number, steps, .. }| Ended { number, end: End::Answered(steps) }));
        self.open -= ended.len() - before;
    }

    fn free_at(&self, now: Duration) -> Duration {
        let slots = (self.scenario.limits.max_rows * self.devices.len()).max(1) as u64;
        let rows = self.devices.iter().flat_map(|device| &device.rows).chain(&self.waiting);
        let work: u64 = rows.map(|row| u64::from(row.left)).sum();
        let rounds = u32::try_from(work / slots + 1).unwrap_or(u32::MAX);
        self.boundary(now) + self.round(self.open + 1).saturating_mul(rounds)
    }
}
