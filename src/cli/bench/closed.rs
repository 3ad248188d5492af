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
    let mut outcomes = drive(plan, target, runtime, clients, (plan.warmup_s, plan.seconds));
    outcomes.retain(|outcome| outcome.at_s >= 0.0);
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
    match steps_within(&outcomes, half) {
        0 => Err(Error::Unavailable("the server finished nothing while its capacity was measured".into())),
        steps => Ok(steps as f64 / half),
    }
}

/// Steps of the requests that *ended* in the first `seconds`, whenever they began: those that were open at the end of
/// the warm-up make up for those that are open at the end, and the time in which clients run out of requests does not
/// count.
fn steps_within(outcomes: &[Outcome], seconds: f64) -> u64 {
    let ended_s = |o: &Outcome| Some(o.at_s + f64::from(o.latency_s?));
    let within = outcomes.iter().filter(|o| ended_s(o).is_some_and(|at_s| at_s > 0.0 && at_s <= seconds));
    within.map(|o| u64::from(o.steps_used)).sum()
}

/// What became of the requests, those of the warm-up before 0.
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
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn capacity_is_what_ends_in_the_window() {
        // Two clients whose requests of 5 steps take a second each: 10 steps a second, wherever the window lies.
        let request = |at_s| Outcome { steps_used: 5, ..Outcome::answered(at_s, 5, 1.0, None) };
        let outcomes: Vec<_> =
            (-4..8).flat_map(|n| [request(f64::from(n) + 0.25), request(f64::from(n) + 0.75)]).collect();
        assert_eq!(steps_within(&outcomes, 4.0), 40);
        let failed = Outcome::unanswered(1.0, 5, crate::load::Ending::Failed);
        assert_eq!(steps_within(&[failed], 4.0), 0);
    }
}
