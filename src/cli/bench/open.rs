//! The open loop: requests are sent when they are due, whatever became of those before them.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::runtime::Runtime;
use tokio::sync::Semaphore;

use super::plan::{Plan, Point};
use super::report::Measured;
use super::request::{Due, Target};
use crate::error::{Error, Result};
use crate::load::summary::Quantiles;
use crate::load::{Arrival, Ending, Outcome, Summary};

/// How long the last answers are waited for, at most.
const PATIENCE: Duration = Duration::from_secs(120);

/// Sends at `rate` requests a second, or what was recorded, for as long as the plan says.
///
/// # Errors
/// A rate that is none.
pub(super) fn run(plan: &Plan, target: &Target, runtime: &Runtime, rate: Option<f64>) -> Result<Measured> {
    let arrivals = arrivals(plan, rate)?;
    let seconds = if rate.is_some() { plan.seconds } else { arrivals.last().map_or(0.0, |last| last.at_s) };
    let warmup_s = if rate.is_some() { plan.warmup_s } else { 0.0 };
    let (outcomes, late_ms) = (Arc::new(Mutex::new(Vec::with_capacity(arrivals.len()))), Mutex::new(Vec::new()));
    let open = Arc::new(Semaphore::new(plan.in_flight as usize));
    let begun = Instant::now() + Duration::from_millis(5);
    for arrival in arrivals {
        let instant = begun + Duration::from_secs_f64(arrival.at_s);
        // This thread does nothing else, and the system wakes it within tens of microseconds.
        std::thread::sleep(instant.saturating_duration_since(Instant::now()));
        lock(&late_ms).push(1e3 * instant.elapsed().as_secs_f32());
        let at_s = arrival.at_s - warmup_s;
        let due = Due { at_s, instant, steps: arrival.steps, deadline_ms: arrival.deadline_ms };
        let Ok(place) = Arc::clone(&open).try_acquire_owned() else {
            lock(&outcomes).push(Outcome::unanswered(at_s, arrival.steps, Ending::NotSent));
            continue;
        };
        let (target, outcomes) = (target.clone(), Arc::clone(&outcomes));
        runtime.spawn(async move {
            let outcome = target.send(due).await;
            lock(&outcomes).push(outcome);
            drop(place);
        });
    }
    // Answers that do not come within this are counted as failed: their requests are missing among the outcomes.
    let all = runtime.block_on(async { tokio::time::timeout(PATIENCE, open.acquire_many(plan.in_flight)).await });
    let mut outcomes = std::mem::take(&mut *lock(&outcomes));
    outcomes.retain(|outcome| outcome.at_s >= 0.0);
    outcomes.sort_by(|a, b| a.at_s.total_cmp(&b.at_s));
    let late = Quantiles::of(lock(&late_ms).drain(..));
    Ok(Measured {
        point: Point::Trace,
        capacity: None,
        summary: Summary::new(&outcomes, seconds),
        sent_late_ms: late,
        is_whole: all.is_ok(),
    })
}

fn arrivals(plan: &Plan, rate: Option<f64>) -> Result<Vec<Arrival>> {
    let Some(rate) = rate else {
        return Ok(plan.trace.as_ref().map(|trace| trace.arrivals().to_vec()).unwrap_or_default());
    };
    let endless = plan.process.arrivals(rate, &plan.mix, plan.seed).map_err(|e| Error::Config(vec![e]))?;
    Ok(endless.take_while(|arrival| arrival.at_s < plan.warmup_s + plan.seconds).collect())
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
