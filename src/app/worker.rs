//! The OS threads that own the devices.

use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::Instant;

use tokio::sync::oneshot;

use super::models::EngineMaker;
use crate::domain::ModelInfo;
use crate::error::{Error, Result};
use crate::scheduler::{self, Board, Handle, Limits};

/// Name of the threads, as debuggers and `top -H` show it.
const THREAD_NAME: &str = "flowmap-device";

/// The running workers, one for each engine.
#[derive(Debug)]
pub(super) struct Workers {
    /// Submits to them.
    pub(super) handle: Handle,
    threads: Vec<JoinHandle<()>>,
}

impl Workers {
    /// Starts the threads and waits until their engines are made and measured.
    ///
    /// # Errors
    /// Whatever kept an engine from being made; [`Error::Unavailable`] when the first forwards failed.
    pub(super) async fn start(engines: Vec<EngineMaker>, models: Arc<[ModelInfo]>, limits: &Limits) -> Result<Self> {
        let (handle, board) = scheduler::channel(&models, limits, engines.len(), Arc::new(Instant::now));
        let mut threads = Vec::with_capacity(engines.len());
        for engine in engines {
            // One after the other: replicas measured side by side on one device would measure each other.
            let (made, outcome) = oneshot::channel();
            let (board, name) = (board.clone(), THREAD_NAME.into());
            let spawned = thread::Builder::new().name(name).spawn(move || run(engine, made, board));
            threads.push(spawned.map_err(|e| Error::Unavailable(format!("cannot start a device thread: {e}")))?);
            outcome
                .await
                .map_err(|_| Error::Compute("the device thread panicked while it made its engine".into()))??;
        }
        handle.ready().await?;
        Ok(Self { handle, threads })
    }

    /// Waits for the threads, which must have been told to stop.
    pub(super) fn join(self) {
        for thread in self.threads {
            if thread.join().is_err() {
                tracing::error!("a device thread panicked");
            }
        }
    }
}

fn run(engine: EngineMaker, made: oneshot::Sender<Result<()>>, board: Board) {
    match engine() {
        Ok(engine) => {
            // Nobody listens any more where start-up was given up; the worker then ends with its last handle.
            let _ = made.send(Ok(()));
            scheduler::worker::run(board, engine);
        }
        Err(error) => drop(made.send(Err(error))),
    }
}
