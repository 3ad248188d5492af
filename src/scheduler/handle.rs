//! The callers' side of the scheduler: a handle that submits, and a ticket that carries the answer.
//!
//! One permit per image bounds everything: it is taken in [`Handle::submit`], goes with the job to the exchange, then
//! with the finished image to the ticket, and is free again once the image was taken, the job has ended, or the ticket
//! was dropped. So images waiting, in flight and finished but not yet taken never exceed
//! [`Limits::max_queued_images`], and a slow reader holds nothing but its own images.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};

use super::Limits;
use super::exchange::{Client, Clock, Delivery, Exchange, Phase, Stage, stopped};
use super::progress::JobId;
use super::slot::Slot;
use crate::domain::{Accepted, Job, JobEvent, ModelInfo};
use crate::error::{Error, Result};

/// The least that a caller is told to wait: below it a retry costs more than it can win.
const SHORTEST_RETRY: Duration = Duration::from_millis(10);

/// The most that a caller is told to wait: predictions further out mean little.
const LONGEST_RETRY: Duration = Duration::from_secs(60);

/// The two ends between callers and `workers` workers that [`run`](super::worker::run) with clones of the board, for the
/// models of `catalogue`. Instruments are bound to the metrics recorder that is installed now.
pub fn channel(catalogue: &Arc<[ModelInfo]>, limits: &Limits, workers: usize, clock: Clock) -> (Handle, Board) {
    let exchange = Arc::new(Exchange::new(catalogue, limits, workers, clock));
    let capacity = limits.max_queued_images.min(Semaphore::MAX_PERMITS);
    let board = Board { exchange: Arc::clone(&exchange), catalogue: Arc::clone(catalogue), limits: limits.clone() };
    let presence = Arc::new(Presence { exchange, capacity, permits: Arc::new(Semaphore::new(capacity)) });
    (Handle { presence }, board)
}

/// What workers draw from.
#[derive(Clone)]
pub struct Board {
    pub(super) exchange: Arc<Exchange>,
    pub(super) catalogue: Arc<[ModelInfo]>,
    pub(super) limits: Limits,
}

/// Submits jobs. Cheap to clone; when the last clone is gone the workers finish what they have and stop.
#[derive(Clone)]
pub struct Handle {
    presence: Arc<Presence>,
}

struct Presence {
    exchange: Arc<Exchange>,
    capacity: usize,
    permits: Arc<Semaphore>,
}

impl Drop for Presence {
    fn drop(&mut self) {
        self.exchange.shift(Phase::Draining);
    }
}

impl fmt::Debug for Handle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Handle").field("free", &self.presence.permits.available_permits()).finish_non_exhaustive()
    }
}

impl Handle {
    /// Hands `job` over, or says at once why not. Never waits for room or for a device.
    ///
    /// # Errors
    /// [`Error::Overloaded`] when the queue is full or the job could not be finished by its deadline,
    /// [`Error::Unavailable`] when the workers are draining or dead. [`Error::Invalid`] for a job without images or with
    /// more than can ever be queued, [`Error::NotFound`] for a model that is not there.
    pub fn submit(&self, job: Job) -> Result<Ticket> {
        let Presence { exchange, .. } = &*self.presence;
        let images = job.sources.len();
        exchange.check_serving()?;
        let permit = self.presence.reserve(images)?;
        let (events, inbox) = mpsc::channel(images + 1);
        let previews = Arc::new(Slot::default());
        let client = Client { events, permit, previews: Arc::clone(&previews) };
        let (id, accepted) = exchange.admit(job, client).map_err(bounded)?;
        Ok(Ticket { accepted, id, inbox, previews, exchange: Arc::clone(exchange), ended: false })
    }

    /// Whether some worker still takes or finishes jobs.
    pub fn is_alive(&self) -> bool {
        *self.presence.exchange.stage.borrow() != Stage::Stopped
    }

    /// Waits until the workers have measured their engines and take jobs.
    ///
    /// # Errors
    /// [`Error::Unavailable`] if they stop instead.
    pub async fn ready(&self) -> Result<()> {
        match self.reach(Stage::Ready).await {
            Stage::Stopped => Err(stopped()),
            Stage::Starting | Stage::Ready => Ok(()),
        }
    }

    /// Makes images end early that would not be finished by `when`, where their jobs allow it.
    pub fn curfew(&self, when: Instant) {
        self.presence.exchange.curfew(when);
    }

    /// Makes the workers finish the jobs that were submitted before, and stop; later ones are refused.
    pub fn drain(&self) {
        self.presence.exchange.shift(Phase::Draining);
    }

    /// Makes the workers stop after the forwards in progress: every unfinished job fails with [`Error::Unavailable`].
    pub fn abort(&self) {
        self.presence.exchange.shift(Phase::Aborting);
    }

    /// Waits until all workers have stopped, for whatever reason.
    pub async fn stopped(&self) {
        self.reach(Stage::Stopped).await;
    }

    async fn reach(&self, stage: Stage) -> Stage {
        let mut stages = self.presence.exchange.stage.subscribe();
        // The sender lives as long as this handle.
        stages.wait_for(|now| *now >= stage).await.map_or(Stage::Stopped, |stage| *stage)
    }
}

impl Presence {
    fn reserve(&self, images: usize) -> Result<OwnedSemaphorePermit> {
        let count = match u32::try_from(images) {
            Ok(count @ 1..) if images <= self.capacity => count,
            _ => return Err(Error::invalid("count", format!("is {images}, must be 1 to {}", self.capacity))),
        };
        Arc::clone(&self.permits)
            .try_acquire_many_owned(count)
            .map_err(|_| Error::Overloaded { retry_after: self.retry_after(images), predicted: None })
    }

    /// When enough images are likely to be out of the way for `images` more.
    fn retry_after(&self, images: usize) -> Duration {
        let missing = images.saturating_sub(self.permits.available_permits()).max(1);
        let wait = self.exchange.time_per_image().saturating_mul(u32::try_from(missing).unwrap_or(u32::MAX));
        wait.clamp(SHORTEST_RETRY, LONGEST_RETRY)
    }
}

/// The error with a delay that makes sense to a caller.
fn bounded(error: Error) -> Error {
    match error {
        Error::Overloaded { retry_after, predicted } => {
            Error::Overloaded { retry_after: retry_after.clamp(SHORTEST_RETRY, LONGEST_RETRY), predicted }
        }
        other => other,
    }
}

/// A job that was taken. Dropping it cancels what is not finished, before the next forward.
pub struct Ticket {
    /// What the scheduler said on taking it.
    pub accepted: Accepted,
    id: JobId,
    inbox: mpsc::Receiver<Box<Delivery>>,
    previews: Arc<Slot>,
    exchange: Arc<Exchange>,
    ended: bool,
}

impl fmt::Debug for Ticket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ticket").field("id", &self.id).field("ended", &self.ended).finish_non_exhaustive()
    }
}

impl Ticket {
    /// The images in the order they finish, the newest previews between them, then [`JobEvent::Finished`] or
    /// [`JobEvent::Failed`], then `None`. A worker that died in between counts as a failure. Safe to cancel: no event is
    /// lost.
    pub async fn next(&mut self) -> Option<JobEvent> {
        if self.ended {
            return None;
        }
        let delivery = loop {
            tokio::select! {
                biased;
                delivery = self.inbox.recv() => break delivery,
                () = self.previews.filled() => {
                    if let Some(preview) = self.preview() {
                        return Some(JobEvent::Preview(preview));
                    }
                }
            }
        };
        let event = delivery.map_or_else(|| JobEvent::Failed(stopped()), |delivery| delivery.event);
        self.ended = !matches!(event, JobEvent::Image(_));
        Some(event)
    }

    fn preview(&self) -> Option<crate::domain::Preview> {
        let preview = self.previews.take();
        // There may be more of them: one wake-up stands for all that have come since the last.
        if preview.is_some() {
            self.previews.again();
        }
        preview
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        if !self.ended {
            self.exchange.cancel(self.id);
        }
    }
}
