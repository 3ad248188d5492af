//! Train, distil and serve **flow maps**: generators whose number of steps is chosen after training, per request.
//!
//! # Rooms and arrows
//!
//! `main → cli → app → api → scheduler → engine → {flow ← model} → checkpoint`, and
//! `train, eval → {flow, model, checkpoint, data}`. Never a cycle, never an arrow upward; everything may use
//! [`domain`] and [`error`], and the leaves `picture`, `telemetry` and `load`. A test reads the `use crate::…` lines and
//! enforces this.
//!
//! # Invariants
//!
//! - only `api` knows tonic;
//! - only an engine's device thread touches a device;
//! - queue and batcher are synchronous and take `now`;
//! - every channel, queue and loop has a named bound;
//! - no environment is read outside `config`, but for the one variable that `main` sets for candle;
//! - one place maps errors to a status;
//! - a sample is a pure function of (weights, noise, labels, sampler, time grid).

pub mod api;
pub mod app;
pub mod checkpoint;
pub mod cli;
pub mod config;
pub mod data;
pub mod domain;
pub mod engine;
pub mod error;
pub mod eval;
pub mod flow;
pub mod load;
pub mod model;
pub mod picture;
pub mod scheduler;
pub mod shutdown;
pub mod simulate;
pub mod study;
pub mod telemetry;
pub mod train;
