//! An engine that is watched, engines that cost nothing, and one that takes its time.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use flowmap::engine::{Batch, Engine, Outcome, Purpose, RowId, RowStep};
use flowmap::error::Result;

/// Forwards whose length is remembered between two reports.
const REMEMBERED: usize = 1 << 20;

/// What an engine did since it was last asked.
#[derive(Debug, Clone, Default)]
pub(super) struct Watch(Arc<Mutex<Seen>>);

#[derive(Debug, Default)]
pub(super) struct Seen {
    pub(super) rows: u64,
    /// Seconds of each forward.
    pub(super) forwards: Vec<f64>,
}

impl Watch {
    /// What was seen since the last call.
    pub(super) fn take(&self) -> Seen {
        std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn saw(&self, rows: usize, elapsed: Duration) {
        let mut seen = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        seen.rows += rows as u64;
        if seen.forwards.len() < REMEMBERED {
            seen.forwards.push(elapsed.as_secs_f64());
        }
    }
}

/// `engine`, watched.
pub(super) struct Watched {
    pub(super) engine: Box<dyn Engine>,
    pub(super) watch: Watch,
}

impl Engine for Watched {
    fn step(&mut self, batch: &Batch) -> Result<Vec<Outcome>> {
        let begun = Instant::now();
        let outcomes = self.engine.step(batch);
        self.watch.saw(batch.rows.len(), begun.elapsed());
        outcomes
    }

    fn release(&mut self, rows: &[RowId]) {
        self.engine.release(rows);
    }
}

/// Computes nothing, and takes `forward` for it, probes excepted.
pub(super) struct Idle {
    pub(super) elements: usize,
    pub(super) forward: Duration,
}

impl Engine for Idle {
    fn step(&mut self, batch: &Batch) -> Result<Vec<Outcome>> {
        if !self.forward.is_zero() && batch.rows.iter().any(|row| row.row < RowId::FIRST_PROBE) {
            std::thread::sleep(self.forward);
        }
        let outcome = |row: &RowStep| match row.purpose {
            Purpose::Advance => Outcome::Running,
            Purpose::Preview => Outcome::Preview(vec![0.0; self.elements]),
            Purpose::Finish { .. } => Outcome::Finished { state: vec![0.0; self.elements], before: None },
        };
        Ok(batch.rows.iter().map(outcome).collect())
    }

    fn release(&mut self, _: &[RowId]) {}
}
