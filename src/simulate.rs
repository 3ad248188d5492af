//! The scheduler in virtual time, and what else might be in its place.
//!
//! Nothing of the scheduler is modelled: `flowmap` drives the very [`Core`](crate::scheduler::Core) that serves, with
//! made-up forwards of a known cost instead of a network. A simulated hour takes seconds, and the same seed gives the
//! same report to the last digit. So the answer to "what if twice as many come" is a property of the code that serves,
//! not of a model of it.
//!
//! [`scenario`] says what is simulated, [`cluster`] runs it under one [`policy`], [`sweep`] runs all policies at all
//! loads, and [`report`] tells the result. The baselines, `fifo` and `same_steps`, are other servers' rules.

pub mod balancer;
pub mod cluster;
pub mod policy;
pub mod report;
pub mod scenario;
pub mod sweep;

mod fifo;
mod flowmap;
mod noise;
mod same_steps;
#[cfg(test)]
mod tests;

pub use balancer::Balancer;
pub use policy::Kind;
pub use scenario::{Scenario, Slo};
pub use sweep::{Length, Plan, Run, Source};
