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

/// Most requests of a measurement: what became of them is kept in memory.
const MAX_REQUESTS: usize = 10_000_000;

/// Sends at `rate` requests a second, or what was recorded, for as long as the plan says.
///
/// # Errors
/// A rate that is none, or makes more requests than are kept.
pub(super) fn run(plan: &Plan, target: &Target, runtime: &Runtime, rate: Option<f64>) -> Result<Measured> {
    let arrivals = arrivals(plan, rate)?;
    let seconds = if rate.is_some() { plan.seconds } else { arrivals.last().map_or(0.0, |last| last.at_s) };
    let warmup_s = if rate.is_some() { plan.warmup_s } else { 0.0 };
    // A request has failed until its task knows better, so that one whose answer never comes is counted as well.
    let failed = |a: &Arrival| Outcome::unanswered(a.at_s - warmup_s, a.steps, Ending::Failed);
    let outcomes = Arc::new(Mutex::new(arrivals.iter().map(failed).collect::<Vec<_>>()));
    let mut late_ms = Vec::with_capacity(arrivals.len());
    let open = Arc::new(Semaphore::new(plan.in_flight as usize));
    let begun = Instant::now() + Duration::from_millis(5);
    for (number, arrival) in arrivals.into_iter().enumerate() {
        let instant = begun + Duration::from_secs_f64(arrival.at_s);
        // This thread does nothing else, and the system wakes it within tens of microseconds.
        std::thread::sleep(instant.saturating_duration_since(Instant::now()));
        late_ms.push(1e3 * instant.elapsed().as_secs_f32());
        let due =
            Due { at_s: arrival.at_s - warmup_s, instant, steps: arrival.steps, deadline_ms: arrival.deadline_ms };
        let Ok(place) = Arc::clone(&open).try_acquire_owned() else {
            lock(&outcomes)[number].ending = Ending::NotSent;
            continue;
        };
        let (target, outcomes) = (target.clone(), Arc::clone(&outcomes));
        runtime.spawn(async move {
            let outcome = target.send(due).await;
            lock(&outcomes)[number] = outcome;
            drop(place);
        });
    }
    let all = runtime.block_on(async { tokio::time::timeout(PATIENCE, open.acquire_many(plan.in_flight)).await });
    // A copy: tasks that were not waited for may still write.
    let outcomes: Vec<Outcome> = lock(&outcomes).iter().filter(|outcome| outcome.at_s >= 0.0).copied().collect();
    Ok(Measured {
        point: Point::Trace,
        capacity: None,
        summary: Summary::new(&outcomes, seconds),
        sent_late_ms: Quantiles::of(late_ms),
        is_whole: all.is_ok(),
    })
}

fn arrivals(plan: &Plan, rate: Option<f64>) -> Result<Vec<Arrival>> {
    let Some(rate) = rate else {
        return Ok(plan.trace.as_ref().map(|trace| trace.arrivals().to_vec()).unwrap_or_default());
    };
    let endless = plan.process.arrivals(rate, &plan.mix, plan.seed).map_err(|e| Error::Config(vec![e]))?;
    let due = endless.take_while(|arrival| arrival.at_s < plan.warmup_s + plan.seconds);
    let due: Vec<Arrival> = due.take(MAX_REQUESTS + 1).collect();
    if due.len() > MAX_REQUESTS {
        let problem = format!("{rate:.0} requests a second are more than {MAX_REQUESTS}; measure for fewer seconds");
        return Err(Error::Config(vec![problem]));
    }
    Ok(due)
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
