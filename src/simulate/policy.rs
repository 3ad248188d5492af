//! What decides on the forwards of one server: the scheduler itself, or a rule that other servers have.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use serde::Serialize;

use super::Scenario;
use super::fifo::Fifo;
use super::flowmap::Flowmap;
use super::same_steps::SameSteps;

/// A request for one image. Times are since the simulation began.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Request {
    /// Its number among all requests of the simulation.
    pub number: usize,
    /// Steps that it asks for, at least 1.
    pub steps: u32,
    /// The fewest that it allows: `1 ..= steps`.
    pub min_steps: u32,
    /// When its answer is worth nothing any more.
    pub deadline: Duration,
}

/// What a device does next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Work {
    /// Rows of the forward.
    pub rows: usize,
    /// Forwards of these rows before anything else can be decided: 1, unless batches run to their ends.
    pub forwards: u32,
}

/// How a request ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// With an image, after so many steps.
    Answered(u32),
    /// It was told to come back later.
    Refused,
    /// Its time ran out.
    Expired,
}

/// A request that ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ended {
    /// Its number.
    pub number: usize,
    /// How.
    pub end: End,
}

/// The rules of one server with several devices, in virtual time: `now` never falls from call to call.
pub trait Policy {
    /// A request comes; it is `ended` at once where it is refused.
    fn arrive(&mut self, request: Request, now: Duration, ended: &mut Vec<Ended>);

    /// What `device`, which is free, does next; `None` where nothing is to do.
    fn next(&mut self, device: usize, now: Duration, ended: &mut Vec<Ended>) -> Option<Work>;

    /// `device` has done its work in `elapsed`.
    fn complete(&mut self, device: usize, elapsed: Duration, now: Duration, ended: &mut Vec<Ended>);

    /// When the server expects to finish a new request for one step: what it would tell a balancer.
    fn free_at(&self, now: Duration) -> Duration;
}

/// Every policy.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// The scheduler of this crate.
    Flowmap,
    /// Batches formed anew at every step, first come first served, deadlines not looked at.
    ContinuousFifo,
    /// The same, and a request is refused that would not be finished in time with all its steps.
    ContinuousReject,
    /// Batches of equal numbers of steps that run to their ends, and a timeout in the queue.
    SameSteps,
}

impl Kind {
    /// Every policy.
    pub const ALL: [Self; 4] = [Self::Flowmap, Self::ContinuousFifo, Self::ContinuousReject, Self::SameSteps];

    /// A server under this policy.
    pub(super) fn server(self, scenario: &Scenario, seed: u64) -> Box<dyn Policy> {
        match self {
            Self::Flowmap => Box::new(Flowmap::new(scenario, seed)),
            Self::ContinuousFifo => Box::new(Fifo::new(scenario, false)),
            Self::ContinuousReject => Box::new(Fifo::new(scenario, true)),
            Self::SameSteps => Box::new(SameSteps::new(scenario)),
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Flowmap => "flowmap",
            Self::ContinuousFifo => "continuous-fifo",
            Self::ContinuousReject => "continuous-reject",
            Self::SameSteps => "same-steps",
        })
    }
}

impl FromStr for Kind {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let found = Self::ALL.into_iter().find(|kind| kind.to_string() == text);
        found.ok_or_else(|| {
            format!("'{text}' is no policy; one of: {}", Self::ALL.map(|kind| kind.to_string()).join(", "))
        })
    }
}
