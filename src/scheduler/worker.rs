//! The loop that one OS thread runs for one device.
//!
//! A batch is formed at the last moment, when the device is free, and the worker never waits for one to fill. It sleeps
//! only when nothing is to do for its device, hence needs no timer: a deadline waits for one forward at most, which
//! [`Limits::max_step`](super::Limits::max_step) bounds.

use std::ops::ControlFlow;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Instant;

use super::calibrate::calibrate;
use super::core::{DeviceId, Forward};
use super::exchange::{Exchange, Turn, stopped};
use super::handle::Board;
use crate::engine::{Batch, Engine, Outcome};
use crate::error::{Error, Result};

/// Forwards that may fail in a row before the device counts as lost: one dead device would otherwise go on failing
/// every request while the server calls itself healthy.
const FAILURES_IN_A_ROW: u32 = 3;

/// Serves a board with `engine` until every handle is gone, or one of them drained or aborted it, or the device is lost.
/// When the last of the board's workers has returned, for whatever reason, its handles are dead.
pub fn run(board: Board, mut engine: Box<dyn Engine>) {
    let Board { exchange, catalogue, limits } = board;
    let mut membership = Membership { exchange: Arc::clone(&exchange), device: None, error: stopped() };
    let costs = match calibrate(engine.as_mut(), &catalogue, &limits, &|| exchange.now()) {
        Ok(costs) => costs,
        Err(error) => return tracing::error!(%error, "the engine fails its first forwards; the worker stops"),
    };
    let device = exchange.join(costs);
    membership.device = Some(device);
    let mut worker = Worker { exchange, device, engine, failures: 0, busy_since: None };
    while worker.turn(&mut membership).is_continue() {}
}

/// Tells the others that a worker is gone, even where it panicked.
struct Membership {
    exchange: Arc<Exchange>,
    device: Option<DeviceId>,
    /// What became of its jobs.
    error: Error,
}

impl Drop for Membership {
    fn drop(&mut self) {
        self.exchange.leave(self.device, &self.error);
    }
}

struct Worker {
    exchange: Arc<Exchange>,
    device: DeviceId,
    engine: Box<dyn Engine>,
    /// Forwards that failed since the last one that did not.
    failures: u32,
    /// When the last forward ended, if there has been something to do since.
    busy_since: Option<Instant>,
}

impl Worker {
    fn turn(&mut self, membership: &mut Membership) -> ControlFlow<()> {
        let (turn, waited) = self.exchange.turn(self.device);
        if waited {
            self.busy_since = None;
        }
        match turn {
            Turn::Release(rows) => self.engine.release(&rows),
            Turn::Forward(forward) => return self.forward(&forward, membership),
            Turn::Stop => return ControlFlow::Break(()),
        }
        ControlFlow::Continue(())
    }

    fn forward(&mut self, forward: &Forward, membership: &mut Membership) -> ControlFlow<()> {
        // What lies between two forwards costs time as well, and promises must count it.
        let begun = self.busy_since.unwrap_or_else(|| self.exchange.now());
        let result = guarded(self.engine.as_mut(), &forward.batch);
        let lost = self.judge(&result, forward.batch.rows.len());
        let now = self.exchange.now();
        self.busy_since = Some(now);
        self.exchange.complete(self.device, forward, result, (begun, now));
        if lost {
            membership.error = Error::Unavailable("the device is lost".into());
            return ControlFlow::Break(());
        }
        ControlFlow::Continue(())
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
}

/// Runs a forward; a panic of the engine is a failed forward, not the end of the worker.
fn guarded(engine: &mut dyn Engine, batch: &Batch) -> Result<Vec<Outcome>> {
    catch_unwind(AssertUnwindSafe(|| engine.step(batch)))
        .unwrap_or_else(|_| Err(Error::Compute("the engine panicked".into())))
}

#[cfg(test)]
mod tests;
