//! A fake device for tests: virtual time, scripted failures, and a record of everything that it was asked.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::{Batch, Engine, Outcome, Purpose, RowId};
use crate::domain::ModelInfo;
use crate::error::{Error, Result};

/// Time that stands still until it is told to move.
#[derive(Debug, Clone)]
pub struct VirtualClock {
    origin: Instant,
    elapsed_ns: Arc<AtomicU64>,
}

impl VirtualClock {
    /// A clock that stands at some instant.
    #[expect(clippy::new_without_default, reason = "its origin is the present, which is no default")]
    pub fn new() -> Self {
        Self { origin: Instant::now(), elapsed_ns: Arc::default() }
    }

    /// Where it stands.
    pub fn now(&self) -> Instant {
        self.origin + Duration::from_nanos(self.elapsed_ns.load(Ordering::SeqCst))
    }

    /// Moves it forward; clones move with it.
    pub fn advance(&self, by: Duration) {
        let ns = u64::try_from(by.as_nanos()).unwrap_or(u64::MAX);
        self.elapsed_ns.fetch_add(ns, Ordering::SeqCst);
    }
}

/// How a scripted forward ends.
#[derive(Debug)]
pub enum Verdict {
    /// Every row moves.
    Proceed,
    /// The row at this position of the batch fails alone.
    FailRow(usize),
    /// The forward fails.
    Fail(Error),
}

/// What a scripted engine was asked so far.
#[derive(Debug, Clone, Default)]
pub struct Record {
    batches: Arc<Mutex<Vec<Batch>>>,
    released: Arc<Mutex<Vec<RowId>>>,
}

impl Record {
    /// The batches, in order.
    pub fn batches(&self) -> Vec<Batch> {
        lock(&self.batches).clone()
    }

    /// The rows that were released, in order.
    pub fn released(&self) -> Vec<RowId> {
        lock(&self.released).clone()
    }
}

/// Called with every batch before it runs, probes excepted; decides how it ends. May advance a clock, drop a ticket, or
/// panic.
pub type Script = Box<dyn FnMut(&Batch) -> Verdict + Send>;

/// An engine that computes nothing: each row's state is its number of evaluations, in every element.
pub struct Scripted {
    elements: Vec<usize>,
    script: Script,
    evaluations: HashMap<RowId, u32>,
    record: Record,
}

impl Scripted {
    /// An engine for the models of `catalogue` that follows `script`, and its record.
    pub fn new(catalogue: &[ModelInfo], script: impl FnMut(&Batch) -> Verdict + Send + 'static) -> (Self, Record) {
        let record = Record::default();
        let elements = catalogue.iter().map(ModelInfo::elements).collect();
        let engine = Self { elements, script: Box::new(script), evaluations: HashMap::new(), record: record.clone() };
        (engine, record)
    }

    fn advance(&mut self, batch: &Batch, position: usize) -> Outcome {
        let step = &batch.rows[position];
        let elements = self.elements.get(batch.model.0).copied().unwrap_or(0);
        let made = self.evaluations.get(&step.row).copied().unwrap_or(0);
        let state = |evaluations| vec![evaluations as f32; elements];
        match step.purpose {
            Purpose::Advance => {
                self.evaluations.insert(step.row, made + 1);
                Outcome::Running
            }
            Purpose::Preview => Outcome::Preview(state(made + 1)),
            Purpose::Finish { keep } => {
                self.evaluations.remove(&step.row);
                Outcome::Finished { state: state(made + 1), before: keep.then(|| state(made)) }
            }
        }
    }
}

impl Engine for Scripted {
    fn step(&mut self, batch: &Batch) -> Result<Vec<Outcome>> {
        if batch.rows.iter().all(|step| step.row >= RowId::FIRST_PROBE) {
            return Ok(vec![Outcome::Finished { state: Vec::new(), before: None }; batch.rows.len()]);
        }
        lock(&self.record.batches).push(batch.clone());
        let failing = match (self.script)(batch) {
            Verdict::Proceed => None,
            Verdict::FailRow(position) => Some(position),
            Verdict::Fail(error) => return Err(error),
        };
        let outcome = |position| match failing {
            Some(p) if p == position => Outcome::Failed("scripted".into()),
            _ => self.advance(batch, position),
        };
        Ok((0..batch.rows.len()).map(outcome).collect())
    }

    fn release(&mut self, rows: &[RowId]) {
        lock(&self.record.released).extend_from_slice(rows);
        for row in rows {
            self.evaluations.remove(row);
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
