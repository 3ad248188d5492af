//! The loop that one OS thread runs for one device.

use std::sync::Arc;
use std::time::Instant;

use super::{Commands, Limits};
use crate::domain::ModelInfo;
use crate::engine::Engine;

/// Serves `commands` with `engine` until every handle is gone, or one of them drained or aborted it. `catalogue`
/// lists the engine's models by key. Returning, for whatever reason, makes the handles dead.
pub fn run(
    commands: Commands,
    engine: Box<dyn Engine>,
    catalogue: Arc<[ModelInfo]>,
    limits: Limits,
    clock: impl Fn() -> Instant,
) {
    let _ = (commands, engine, catalogue, limits, clock);
}
