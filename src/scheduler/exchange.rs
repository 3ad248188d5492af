//! Where callers and device workers meet: the core behind one lock, and the way of its events to their tickets.
//!
//! The lock is held for one decision at a time, never for a forward: a caller hears at once whether its job is taken,
//! and a cancellation has freed its rows before the next forward of any device is formed.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::{OwnedSemaphorePermit, mpsc, watch};

use super::core::{Core, DeviceId, Event, Forward};
use super::cost::Cost;
use super::desk::Desk;
use super::limits::Limits;
use super::observer::Observer;
use super::progress::JobId;
use super::slot::Slot;
use crate::domain::{Accepted, Job, JobEvent, ModelInfo};
use crate::engine::{Outcome, RowId};
use crate::error::{Error, Result};

/// How often gauges are set, at most: they cost a pass over the jobs, and are scraped every few seconds.
const LEVELS_PERIOD: Duration = Duration::from_millis(50);

/// Tells the time.
pub type Clock = Arc<dyn Fn() -> Instant + Send + Sync>;

/// What handles, tickets and workers share.
pub(super) struct Exchange {
    desk: Desk<State>,
    clock: Clock,
    /// How far the workers are.
    pub(super) stage: watch::Sender<Stage>,
}

/// How far the workers are; only ever grows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Stage {
    /// Some have not measured their engines yet.
    Starting,
    /// All have begun.
    Ready,
    /// None is left.
    Stopped,
}

/// How far the workers are told to wind down; only ever grows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Phase {
    /// Takes jobs.
    Serving,
    /// Finishes what it has.
    Draining,
    /// Drops what it has.
    Aborting,
}

struct State {
    core: Core,
    clients: BTreeMap<JobId, Client>,
    observer: Observer,
    phase: Phase,
    /// Workers that have not begun.
    starting: usize,
    /// Workers at work.
    working: usize,
    levels_at: Option<Instant>,
}

/// Where a job's events go.
pub(super) struct Client {
    /// Holds every image and the end, so that no worker ever waits for a reader. In boxes: a channel makes room for
    /// dozens at once, and most jobs have two.
    pub(super) events: mpsc::Sender<Box<Delivery>>,
    /// The permits of its unfinished images.
    pub(super) permit: OwnedSemaphorePermit,
    pub(super) previews: Arc<Slot>,
}

/// An event on its way to a ticket.
#[derive(Debug)]
pub(super) struct Delivery {
    pub(super) event: JobEvent,
    /// The image's permit, free again when the ticket's owner takes the event.
    pub(super) _permit: Option<OwnedSemaphorePermit>,
}

/// What a worker does next.
pub(super) enum Turn {
    /// Forget these rows.
    Release(Vec<RowId>),
    /// Run this.
    Forward(Box<Forward>),
    /// Nothing any more.
    Stop,
}

impl Exchange {
    /// For `workers` workers that are about to begin.
    pub(super) fn new(catalogue: &[ModelInfo], limits: &Limits, workers: usize, clock: Clock) -> Self {
        let state = State {
            core: Core::new(catalogue, limits),
            clients: BTreeMap::new(),
            observer: Observer::new(catalogue),
            phase: Phase::Serving,
            starting: workers,
            working: 0,
            levels_at: None,
        };
        let stage = if workers == 0 { Stage::Stopped } else { Stage::Starting };
        Self { desk: Desk::new(state), clock, stage: watch::Sender::new(stage) }
    }

    /// Takes a job whose events go to `client`.
    pub(super) fn admit(&self, job: Job, client: Client) -> Result<(JobId, Accepted)> {
        let now = (self.clock)();
        self.desk.announce(|state| {
            state.check_serving()?;
            let (id, accepted) = state.core.admit(job, now)?;
            state.clients.insert(id, client);
            Ok((id, accepted))
        })
    }

    /// Ends a job whose owner went away.
    pub(super) fn cancel(&self, id: JobId) {
        self.desk.announce(|state| {
            // Callers leave when their deadline has passed, and that is not a cancellation.
            let expired = state.core.tick((self.clock)());
            state.deliver(expired);
            let event = state.core.cancel(id);
            state.deliver(event);
        });
    }

    /// Winds down.
    pub(super) fn shift(&self, phase: Phase) {
        self.desk.announce(|state| state.phase = state.phase.max(phase));
    }

    /// Makes what may end early be finished by `when`.
    pub(super) fn curfew(&self, when: Instant) {
        self.desk.announce(|state| state.core.curfew(when));
    }

    /// The error of a caller that comes too late, if it does.
    pub(super) fn check_serving(&self) -> Result<()> {
        self.desk.with(|state| state.check_serving())
    }

    /// Predicted device time for each unfinished image.
    pub(super) fn time_per_image(&self) -> Duration {
        self.desk.with(|state| state.core.time_per_image())
    }

    /// A worker begins, whose forwards cost `costs`.
    pub(super) fn join(&self, costs: Vec<Cost>) -> DeviceId {
        let (device, all_begun) = self.desk.announce(|state| {
            (state.starting, state.working) = (state.starting.saturating_sub(1), state.working + 1);
            (state.core.add_device(costs), state.starting == 0)
        });
        if all_begun {
            self.stage.send_modify(|stage| *stage = (*stage).max(Stage::Ready));
        }
        device
    }

    /// A worker ends; `device` is `None` where it never began. Its jobs fail, if it leaves any.
    pub(super) fn leave(&self, device: Option<DeviceId>, error: &Error) {
        let none_left = self.desk.announce(|state| {
            match device {
                Some(_) => state.working = state.working.saturating_sub(1),
                None => state.starting = state.starting.saturating_sub(1),
            }
            let none_left = state.working + state.starting == 0;
            let mut events = device.map(|device| state.core.retire(device, error)).unwrap_or_default();
            if none_left {
                state.phase = Phase::Aborting;
                events.extend(state.core.abort(error));
            }
            state.deliver(events);
            state.observer.levels(&state.core, (self.clock)());
            none_left
        });
        if none_left {
            self.stage.send_replace(Stage::Stopped);
        }
    }

    /// Waits until `device` has something to do. Says whether it had to wait for that.
    pub(super) fn turn(&self, device: DeviceId) -> (Turn, bool) {
        let mut waited = false;
        let turn = self.desk.wait_for(|state| {
            let turn = state.turn(device, (self.clock)());
            waited |= turn.is_none();
            turn
        });
        (turn, waited)
    }

    /// A forward has ended at `now` that began at `begun`.
    pub(super) fn complete(
        &self,
        device: DeviceId,
        forward: &Forward,
        result: Result<Vec<Outcome>>,
        (begun, now): (Instant, Instant),
    ) {
        let elapsed = now.saturating_duration_since(begun);
        // Wakes workers that wait for the last job to end, and have none of their own.
        self.desk.announce(|state| {
            if result.is_ok() {
                state.observer.forward(forward, elapsed);
            }
            let events = state.core.complete(device, result, elapsed, now);
            state.deliver(events);
            if state.core.is_idle() || state.levels_at.is_none_or(|then| now > then + LEVELS_PERIOD) {
                state.levels_at = Some(now);
                state.observer.levels(&state.core, now);
                state.observer.costs(state.core.costs(device), device);
            }
        });
    }

    /// The time.
    pub(super) fn now(&self) -> Instant {
        (self.clock)()
    }
}

impl State {
    fn check_serving(&self) -> Result<()> {
        match self.phase {
            Phase::Serving => Ok(()),
            _ if self.working + self.starting == 0 => Err(stopped()),
            _ => Err(draining()),
        }
    }

    fn turn(&mut self, device: DeviceId, now: Instant) -> Option<Turn> {
        let expired = self.core.tick(now);
        self.deliver(expired);
        if self.phase == Phase::Aborting {
            let aborted = self.core.abort(&draining());
            self.deliver(aborted);
        }
        let released = self.core.take_released(device);
        if !released.is_empty() {
            return Some(Turn::Release(released));
        }
        if let Some(forward) = self.core.next_forward(device, now) {
            return Some(Turn::Forward(Box::new(forward)));
        }
        (self.phase != Phase::Serving && self.core.is_idle()).then_some(Turn::Stop)
    }

    /// Hands events to their tickets, which have room for all of them: a slow reader delays nobody.
    fn deliver(&mut self, events: impl IntoIterator<Item = Event>) {
        for event in events {
            self.observer.event(&event);
            let Some(client) = self.clients.get_mut(&event.job) else { continue };
            let permit = match event.event {
                JobEvent::Preview(preview) => {
                    client.previews.put(preview);
                    continue;
                }
                JobEvent::Image(ref image) => {
                    client.previews.forget(image.index);
                    client.permit.split(1)
                }
                JobEvent::Finished(_) | JobEvent::Failed(_) => None,
            };
            let is_end = !matches!(event.event, JobEvent::Image(_));
            // Fails only where the ticket was dropped, which cancels the job.
            let _ = client.events.try_send(Box::new(Delivery { event: event.event, _permit: permit }));
            if is_end {
                self.clients.remove(&event.job);
            }
        }
    }
}

/// The workers refuse new jobs.
pub(super) fn draining() -> Error {
    Error::Unavailable("the server is shutting down".into())
}

/// There are no workers.
pub(super) fn stopped() -> Error {
    Error::Unavailable("the device worker has stopped".into())
}
