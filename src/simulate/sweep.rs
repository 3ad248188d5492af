//! All policies at all loads, on all cores.

use rayon::prelude::*;
use serde::Serialize;

use super::cluster;
use super::policy::Kind;
use super::scenario::Scenario;
use crate::error::{Error, Result};
use crate::load::{Arrival, Mix, Outcome, Process, Summary, Trace};

/// Most requests of one simulation: their outcomes are kept until they are counted, 80 bytes each.
pub const MAX_REQUESTS: usize = 50_000_000;

/// What is simulated.
#[derive(Debug, Clone)]
pub struct Plan {
    /// The cluster.
    pub scenario: Scenario,
    /// The policies.
    pub policies: Vec<Kind>,
    /// The requests.
    pub source: Source,
}

/// Where requests come from.
#[derive(Debug, Clone)]
pub enum Source {
    /// Made up.
    Process {
        /// When they come.
        process: Process,
        /// What they ask for.
        mix: Mix,
        /// Multiples of what the cluster can do with full forwards and all steps.
        loads: Vec<f64>,
        /// How many.
        length: Length,
    },
    /// Recorded.
    Trace(Trace),
}

/// How long a load lasts.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Length {
    /// So many seconds.
    Seconds(f64),
    /// So many requests.
    Requests(usize),
}

/// What became of one load under one policy.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Run {
    /// The policy.
    pub policy: Kind,
    /// The load as a multiple of what the cluster can do with full forwards and all steps.
    pub load: f64,
    /// What became of the requests.
    pub summary: Summary,
}

/// One load.
#[derive(Debug, Clone, Copy)]
struct Point {
    load: f64,
    rate: f64,
    seconds: f64,
    requests: usize,
}

impl Plan {
    /// Requests of all loads under all policies.
    ///
    /// # Errors
    /// [`Error::Config`] for a load that is none or too long.
    pub fn requests(&self) -> Result<usize> {
        Ok(self.points()?.iter().map(|point| point.requests).sum::<usize>() * self.policies.len())
    }

    /// Simulates every load under every policy; `progress` is told how many more requests have come, from any thread.
    /// Results are in the order of the loads, then of the policies, and do not depend on the number of threads.
    ///
    /// # Errors
    /// As [`Plan::requests`].
    pub fn run(&self, progress: &(dyn Fn(usize) + Sync)) -> Result<Vec<Run>> {
        let points = self.points()?;
        let pairs: Vec<(Point, Kind)> =
            points.iter().flat_map(|&point| self.policies.iter().map(move |&kind| (point, kind))).collect();
        pairs.into_par_iter().map(|(point, kind)| self.one(point, kind, progress)).collect()
    }

    fn one(&self, point: Point, kind: Kind, progress: &(dyn Fn(usize) + Sync)) -> Result<Run> {
        let run = |arrivals: &mut dyn Iterator<Item = Arrival>| -> Vec<Outcome> {
            cluster::run(&self.scenario, kind, arrivals, &|more| progress(more))
        };
        let outcomes = match &self.source {
            Source::Trace(trace) => run(&mut trace.arrivals().iter().copied()),
            Source::Process { process, mix, .. } => {
                let arrivals = process.arrivals(point.rate, mix, self.scenario.seed).map_err(wrong)?;
                run(&mut arrivals.take(point.requests))
            }
        };
        Ok(Run { policy: kind, load: point.load, summary: Summary::new(&outcomes, point.seconds) })
    }

    fn points(&self) -> Result<Vec<Point>> {
        let (mix, loads, length) = match &self.source {
            Source::Trace(trace) => return Ok(vec![self.recorded(trace)]),
            Source::Process { mix, loads, length, .. } => (mix, loads, *length),
        };
        let capacity = self.scenario.capacity(mix.mean());
        let point = |&load: &f64| {
            let rate = load * capacity;
            if !(rate.is_finite() && rate > 0.0) {
                return Err(wrong(format!("--loads: {load} is not a load; it must be a number above 0")));
            }
            #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a float saturates")]
            let (seconds, requests) = match length {
                Length::Seconds(seconds) => (seconds, (rate * seconds).round() as usize),
                Length::Requests(requests) => (requests as f64 / rate, requests),
            };
            if !(1..=MAX_REQUESTS).contains(&requests) {
                return Err(wrong(format!("load {load} has {requests} requests; 1 to {MAX_REQUESTS} are possible")));
            }
            Ok(Point { load, rate, seconds, requests })
        };
        loads.iter().map(point).collect()
    }

    /// A trace is one load, whatever it is.
    fn recorded(&self, trace: &Trace) -> Point {
        let (requests, seconds) = (trace.arrivals().len(), trace.seconds().max(1e-3));
        let steps: f64 = trace.arrivals().iter().map(|arrival| f64::from(arrival.steps)).sum();
        let rate = requests as f64 / seconds;
        Point { load: rate / self.scenario.capacity(steps / requests.max(1) as f64), rate, seconds, requests }
    }
}

fn wrong(problem: String) -> Error {
    Error::Config(vec![problem])
}
