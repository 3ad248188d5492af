//! The closed loop: clients that each send their next request when they have their answer.

use std::time::{Duration, Instant};

use tokio::runtime::Runtime;

use super::plan::{Plan, Point};
use super::report::Measured;
use super::request::{Due, Target};
use crate::error::{Error, Result};
use crate::load::{Outcome, Random, Summary};

/// Clients that find out what a server can do: more than a forward has rows, so that every forward is as full as the
/// server makes it.
const CAPACITY_CLIENTS: u32 = 128;
/// How long that takes, in seconds, half of it to warm up.
const CAPACITY_S: f64 = 8.0;
/// Streams of random numbers, one for each client, begin here.
const STREAM: u64 = 1 << 32;

/// Keeps `clients` requests open for as long as the plan says.
pub(super) fn run(plan: &Plan, target: &Target, runtime: &Runtime, clients: u32) -> Measured {
    let outcomes = drive(plan, target, runtime, clients, (plan.warmup_s, plan.seconds));
    Measured {
        point: Point::Concurrency(clients),
        capacity: None,
        summary: Summary::new(&outcomes, plan.seconds),
        sent_late_ms: None,
        is_whole: true,
    }
}

/// Steps a second that the server does when it never has to wait for requests.
///
/// # Errors
/// [`Error::Unavailable`] where it does none.
pub(super) fn capacity(plan: &Plan, target: &Target, runtime: &Runtime) -> Result<f64> {
    let half = CAPACITY_S / 2.0;
    let outcomes = drive(plan, &target.unhurried(), runtime, CAPACITY_CLIENTS, (half, half));
    // Requests that were open at either end count for the part of their time that lies between: the first are left out,
    // and the last are in.
    let steps: u64 = outcomes.iter().map(|outcome| u64::from(outcome.steps_used)).sum();
    let until = outcomes.iter().filter_map(|o| Some(o.at_s + f64::from(o.latency_s?))).fold(half, f64::max);
    match steps {
        0 => Err(Error::Unavailable("the server finished nothing while its capacity was measured".into())),
        _ => Ok(steps as f64 / until),
    }
}

fn drive(
    plan: &Plan,
    target: &Target,
    runtime: &Runtime,
    clients: u32,
    (warmup_s, seconds): (f64, f64),
) -> Vec<Outcome> {
    let begun = Instant::now();
    let until = begun + Duration::from_secs_f64(warmup_s + seconds);
    let client = |number: u32| {
        let (target, mix) = (target.clone(), plan.mix.clone());
        let mut random = Random::new(plan.seed, STREAM + u64::from(number));
        runtime.spawn(async move {
            let mut outcomes = Vec::new();
            while Instant::now() < until {
                let instant = Instant::now();
                let at_s = (instant - begun).as_secs_f64() - warmup_s;
                let due = Due { at_s, instant, steps: mix.draw(&mut random), deadline_ms: None };
                let outcome = target.send(due).await;
                if outcome.latency_s.is_none() {
                    // A refusal costs nothing: without a pause the client would do nothing but ask.
                    tokio::time::sleep(Duration::from_millis(10)).await;
                }
                outcomes.push(outcome);
            }
            outcomes
        })
    };
    let clients: Vec<_> = (0..clients).map(client).collect();
    let mut all = Vec::new();
    for client in clients {
        // Fails only where the task panicked, and then there are no outcomes.
        all.extend(runtime.block_on(client).unwrap_or_default());
    }
    all.retain(|outcome| outcome.at_s >= 0.0);
    all
}
