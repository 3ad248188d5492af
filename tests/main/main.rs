//! Everything that a client or an operator can see, over real sockets on free ports: one binary, a module per concern.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "the helpers of tests fail as tests do")]

mod anytime;
mod bench;
mod calls;
mod client;
mod command;
mod determinism;
mod lifecycle;
mod mixed;
mod observability;
mod program;
mod python;
mod real;
mod refusals;
mod robustness;
mod samplers;
mod soak;
mod support;
mod tidy;
