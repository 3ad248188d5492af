//! The OS thread that owns a device.

use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::Instant;

use tokio::sync::oneshot;

use super::models::EngineMaker;
use crate::domain::ModelInfo;
use crate::error::{Error, Result};
use crate::scheduler::{self, Commands, Handle, Limits};

/// Name of the thread, as debuggers and `top -H` show it.
const THREAD_NAME: &str = "flowmap-device";

/// A running worker.
#[derive(Debug)]
pub(super) struct Worker {
    /// Submits to it.
    pub(super) handle: Handle,
    thread: JoinHandle<()>,
}

impl Worker {
    /// Starts the thread and waits until its engine is made and measured.
    ///
    /// # Errors
    /// Whatever kept the engine from being made; [`Error::Unavailable`] when its first forwards failed.
    pub(super) async fn start(engine: EngineMaker, models: Arc<[ModelInfo]>, limits: Limits) -> Result<Self> {
        let (handle, commands) = scheduler::channel(&limits);
        let (made, outcome) = oneshot::channel();
        let body = move || run(engine, made, commands, models, limits);
        let spawned = thread::Builder::new().name(THREAD_NAME.into()).spawn(body);
        let thread = spawned.map_err(|e| Error::Unavailable(format!("cannot start the device thread: {e}")))?;
        outcome.await.map_err(|_| Error::Compute("the device thread panicked while it made its engine".into()))??;
        handle.ready().await?;
        Ok(Self { handle, thread })
    }

    /// Waits for the thread, which must have been told to stop.
    pub(super) fn join(self) {
        if self.thread.join().is_err() {
            tracing::error!("the device thread panicked");
        }
    }
}

fn run(
    engine: EngineMaker,
    made: oneshot::Sender<Result<()>>,
    commands: Commands,
    models: Arc<[ModelInfo]>,
    limits: Limits,
) {
    match engine() {
        Ok(engine) => {
            // Nobody listens any more where start-up was given up; the worker then ends with its last handle.
            let _ = made.send(Ok(()));
            scheduler::worker::run(commands, engine, models, limits, Instant::now);
        }
        Err(error) => drop(made.send(Err(error))),
    }
}
