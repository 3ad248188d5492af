//! Arguments → what is measured.

use std::fmt;

use super::Args;
use crate::api::proto::v1;
use crate::error::{Error, Result};
use crate::load::{Mix, Process, Trace};

/// Longest measurement, in seconds: its outcomes are kept in memory.
const MAX_SECONDS: f64 = 86_400.0;

/// What is measured.
#[derive(Debug, Clone)]
pub(super) struct Plan {
    /// One after the other.
    pub(super) points: Vec<Point>,
    pub(super) server: String,
    pub(super) process: Process,
    pub(super) mix: Mix,
    pub(super) trace: Option<Trace>,
    pub(super) deadline_ms: Option<u32>,
    pub(super) min_steps: Option<u32>,
    pub(super) count: u32,
    pub(super) class: Option<u32>,
    pub(super) model: String,
    pub(super) guidance: Option<f32>,
    pub(super) previews: bool,
    pub(super) encoding: v1::OutputEncoding,
    pub(super) priority: v1::Priority,
    pub(super) seconds: f64,
    pub(super) warmup_s: f64,
    pub(super) connections: u32,
    pub(super) in_flight: u32,
    pub(super) seed: u64,
    /// Steps a second that the server can do, if it was told.
    pub(super) capacity: Option<f64>,
}

/// One load.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Point {
    /// Requests a second.
    Rate(f64),
    /// A multiple of the capacity.
    Load(f64),
    /// Clients that wait for their answers.
    Concurrency(u32),
    /// Recorded requests.
    Trace,
}

impl fmt::Display for Point {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Rate(rate) => write!(f, "{rate}/s"),
            Self::Load(load) => write!(f, "{load}×"),
            Self::Concurrency(clients) => write!(f, "{clients} at a time"),
            Self::Trace => f.write_str("trace"),
        }
    }
}

impl Plan {
    /// Reads the arguments.
    ///
    /// # Errors
    /// [`Error::Config`] with everything that is wrong with them, [`Error::File`] for the trace.
    pub(super) fn new(args: &Args) -> Result<Self> {
        let points = points(args);
        let mut problems = Vec::new();
        let above = |value: f64| value.is_finite() && value > 0.0;
        if points.is_empty() {
            problems.push("name a load: --rate, --load, --concurrency or --trace".into());
        }
        let rates = args.rate.iter().map(|rate| ("--rate", rate)).chain(args.load.iter().map(|load| ("--load", load)));
        for (flag, value) in rates.chain(args.capacity.iter().map(|capacity| ("--capacity", capacity))) {
            if !above(*value) {
                problems.push(format!("{flag}: {value} is not a number above 0"));
            }
        }
        if args.concurrency.contains(&0) {
            problems.push("--concurrency: 0 clients send nothing".into());
        }
        for (flag, seconds) in [("--seconds", args.seconds), ("--warmup-seconds", args.warmup_seconds)] {
            let least_fits = if flag == "--seconds" { above(seconds) } else { seconds >= 0.0 };
            if !least_fits || seconds > MAX_SECONDS {
                problems.push(format!("{flag}: {seconds} is not a time of at most {MAX_SECONDS} s"));
            }
        }
        if !problems.is_empty() {
            return Err(Error::Config(problems));
        }
        Ok(Self {
            points,
            server: args.server.clone(),
            process: args.arrivals,
            mix: args.mix.clone(),
            trace: args.trace.as_deref().map(Trace::read).transpose()?,
            deadline_ms: args.deadline_ms,
            min_steps: args.min_steps,
            count: args.count,
            class: args.class,
            model: args.model.clone(),
            guidance: args.guidance,
            previews: args.previews,
            encoding: if args.png { v1::OutputEncoding::Png } else { v1::OutputEncoding::Uint8 },
            priority: args.priority,
            seconds: args.seconds,
            warmup_s: args.warmup_seconds,
            connections: args.connections,
            in_flight: args.in_flight,
            seed: args.seed,
            capacity: args.capacity,
        })
    }

    /// Whether some point is a multiple of the capacity.
    pub(super) fn needs_capacity(&self) -> bool {
        self.points.iter().any(|point| matches!(point, Point::Load(_)))
    }

    /// Requests a second that `capacity` steps a second are, all steps given.
    pub(super) fn requests_at(&self, capacity: Option<f64>) -> f64 {
        capacity.unwrap_or(0.0) / (self.mix.mean() * f64::from(self.count))
    }
}

/// Reads `low`, `normal` or `high`.
pub(super) fn priority(text: &str) -> Result<v1::Priority, String> {
    match text {
        "low" => Ok(v1::Priority::Low),
        "normal" => Ok(v1::Priority::Normal),
        "high" => Ok(v1::Priority::High),
        _ => Err("is none of: low, normal, high".into()),
    }
}

fn points(args: &Args) -> Vec<Point> {
    let rates = args.rate.iter().map(|&rate| Point::Rate(rate));
    let loads = args.load.iter().map(|&load| Point::Load(load));
    let clients = args.concurrency.iter().map(|&clients| Point::Concurrency(clients));
    rates.chain(loads).chain(clients).chain(args.trace.iter().map(|_| Point::Trace)).collect()
}
