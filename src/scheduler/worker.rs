//! The loop that one OS thread runs for one device.
//!
//! Between two forwards the worker takes in what callers sent, ends the jobs that were cancelled or have expired, and
//! forms the next batch at the last moment; it never waits for a batch to fill. It sleeps only when it has no job at
//! all, hence needs no timer: a deadline, a cancellation and a newcomer all wait for one forward at most, which
//! [`Limits::max_step`] bounds.

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Instant;

use tokio::sync::{OwnedSemaphorePermit, mpsc};

use super::calibrate::calibrate;
use super::core::{Core, Event};
use super::handle::{Command, Delivery, Phase, Submission, draining};
use super::observer::Observer;
use super::progress::JobId;
use super::{Commands, Limits};
use crate::domain::{JobEvent, ModelInfo};
use crate::engine::{Batch, Engine, Outcome};
use crate::error::{Error, Result};

/// Forwards that may fail in a row before the device counts as lost: one dead device would otherwise go on failing
/// every request while the server calls itself healthy.
const FAILURES_IN_A_ROW: u32 = 3;

/// Serves `commands` with `engine` until every handle is gone, or one of them drained or aborted it, or the device is
/// lost. `catalogue` lists the engine's models by key. Returning, for whatever reason, makes the handles dead.
///
/// Instruments are bound to the metrics recorder that is installed when this begins.
pub fn run(
    commands: Commands,
    mut engine: Box<dyn Engine>,
    catalogue: Arc<[ModelInfo]>,
    limits: Limits,
    clock: impl Fn() -> Instant,
) {
    let costs = match calibrate(engine.as_mut(), &catalogue, &limits, &clock) {
        Ok(costs) => costs,
        Err(error) => return tracing::error!(%error, "the engine fails its first forwards; the worker stops"),
    };
    let core = Core::new(&catalogue, costs, &limits);
    let observer = Observer::new(&catalogue);
    let (clients, slots) = (BTreeMap::new(), limits.queue_slots.max(1));
    let mut worker = Worker { commands, slots, engine, core, clients, observer, clock, failures: 0 };
    while worker.turn().is_continue() {}
}

struct Worker<C> {
    commands: Commands,
    /// Commands taken in between two forwards.
    slots: usize,
    engine: Box<dyn Engine>,
    core: Core,
    clients: BTreeMap<JobId, Client>,
    observer: Observer,
    clock: C,
    /// Forwards that failed since the last one that did not.
    failures: u32,
}

/// Where a job's events go.
struct Client {
    events: mpsc::Sender<Delivery>,
    /// The permits of its unfinished images.
    permit: OwnedSemaphorePermit,
}

impl<C: Fn() -> Instant> Worker<C> {
    fn turn(&mut self) -> ControlFlow<()> {
        self.listen()?;
        self.sweep();
        let end = self.forward();
        self.commands.shared.publish_time_per_image(self.core.time_per_image());
        self.observer.levels(&self.core);
        end
    }

    /// Takes in what callers sent; waits for it only when there is nothing else to do.
    fn listen(&mut self) -> ControlFlow<()> {
        if self.core.is_idle() && self.commands.shared.phase() == Phase::Serving {
            match self.commands.receiver.blocking_recv() {
                Some(command) => self.apply(command),
                None => return ControlFlow::Break(()),
            }
        }
        for _ in 0..self.slots {
            let Ok(command) = self.commands.receiver.try_recv() else { break };
            self.apply(command);
        }
        match self.commands.shared.phase() {
            Phase::Aborting => self.stop(&draining()),
            Phase::Draining if self.core.is_idle() => ControlFlow::Break(()),
            Phase::Draining | Phase::Serving => ControlFlow::Continue(()),
        }
    }

    fn apply(&mut self, command: Command) {
        match command {
            Command::Submit(submission) => self.admit(*submission),
            // Nobody is left to hear it if this fails.
            Command::Ready(reply) => drop(reply.send(())),
            Command::Wake => {}
        }
    }

    fn admit(&mut self, submission: Submission) {
        let Submission { job, permit, events, reply } = submission;
        let admitted = match self.commands.shared.phase() {
            // A handle refuses what comes after the drain: what is here came before.
            Phase::Serving | Phase::Draining => self.core.admit(job, (self.clock)()),
            Phase::Aborting => Err(draining()),
        };
        let answer = admitted.map(|(id, accepted)| {
            self.clients.insert(id, Client { events, permit });
            accepted
        });
        // A caller that is gone has dropped its end of `events` too: the sweep ends its job.
        drop(reply.send(answer));
    }

    /// Ends what nobody waits for any more, before the device sees it again. Deadlines go first: callers leave when
    /// theirs has passed, and that is not a cancellation.
    fn sweep(&mut self) {
        let expired = self.core.expire((self.clock)());
        self.deliver(expired);
        let gone = self.clients.iter().filter(|(_, client)| client.events.is_closed()).map(|(&id, _)| id);
        let gone: Vec<JobId> = gone.collect();
        let cancelled = gone.into_iter().filter_map(|id| self.core.cancel(id)).collect();
        self.deliver(cancelled);
        self.release();
    }

    fn forward(&mut self) -> ControlFlow<()> {
        let begun = (self.clock)();
        let Some(forward) = self.core.next_forward(begun) else { return ControlFlow::Continue(()) };
        let result = guarded(self.engine.as_mut(), &forward.batch);
        let now = (self.clock)();
        let elapsed = now.saturating_duration_since(begun);
        if result.is_ok() {
            self.observer.forward(&forward, elapsed);
        }
        let lost = self.judge(&result, forward.batch.rows.len());
        let events = self.core.complete(result, elapsed, now);
        // Now and not before the next forward, which may never come: a failed job's other rows hold device memory.
        self.release();
        self.deliver(events);
        match lost {
            true => self.stop(&Error::Unavailable("the device is lost".into())),
            false => ControlFlow::Continue(()),
        }
    }

    /// Whether the device is lost, by how a forward of `rows` rows ended.
    fn judge(&mut self, result: &Result<Vec<Outcome>>, rows: usize) -> bool {
        let Err(error) = result else {
            self.failures = 0;
            return false;
        };
        self.failures += 1;
        tracing::error!(%error, rows, failures = self.failures, "a forward failed");
        matches!(error, Error::Unavailable(_)) || self.failures >= FAILURES_IN_A_ROW
    }

    /// Fails everything.
    fn stop(&mut self, error: &Error) -> ControlFlow<()> {
        let events = self.core.abort(error);
        self.deliver(events);
        self.release();
        self.observer.levels(&self.core);
        ControlFlow::Break(())
    }

    fn release(&mut self) {
        let rows = self.core.take_released();
        if !rows.is_empty() {
            self.engine.release(&rows);
        }
    }

    /// Hands events to their tickets, which have room for all of them: a slow reader delays nobody.
    fn deliver(&mut self, events: Vec<Event>) {
        for event in events {
            self.observer.event(&event);
            let is_image = matches!(event.event, JobEvent::Image(_));
            let permit = self.clients.get_mut(&event.job).filter(|_| is_image).and_then(|c| c.permit.split(1));
            if let Some(client) = self.clients.get(&event.job) {
                // Fails only where the ticket was dropped; the sweep sees that.
                let _ = client.events.try_send(Delivery { event: event.event, _permit: permit });
            }
            if !is_image {
                self.clients.remove(&event.job);
            }
        }
    }
}

/// Runs a forward; a panic of the engine is a failed forward, not the end of the worker.
fn guarded(engine: &mut dyn Engine, batch: &Batch) -> Result<Vec<Outcome>> {
    catch_unwind(AssertUnwindSafe(|| engine.step(batch)))
        .unwrap_or_else(|_| Err(Error::Compute("the engine panicked".into())))
}

#[cfg(test)]
mod tests;
