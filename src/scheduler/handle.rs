//! The callers' side of a worker: a handle that submits, and a ticket that carries the answer.
//!
//! One permit per image bounds everything: it is taken in [`Handle::submit`], goes with the job to the worker, then
//! with the finished image to the ticket, and is free again once the image was taken, the job has ended, or the ticket
//! was dropped. So images waiting, in flight and finished but not yet taken never exceed
//! [`Limits::max_queued_images`], and a slow reader holds nothing but its own images.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};

use crate::domain::{Accepted, Job, JobEvent};
use crate::error::{Error, Result};

/// The least that a caller is told to wait: below it a retry costs more than it can win.
const SHORTEST_RETRY: Duration = Duration::from_millis(10);

/// The most that a caller is told to wait: predictions further out mean little.
const LONGEST_RETRY: Duration = Duration::from_secs(60);

/// Bounds of one worker.
#[derive(Debug, Clone)]
pub struct Limits {
    /// Rows in one forward; an image under two-call guidance counts as two.
    pub max_rows: usize,
    /// How long one forward may be predicted to take. A newcomer, a deadline or a cancellation waits for the device
    /// that long at most; a newcomer for one forward of each other model that has work, too. At least one image is
    /// always evaluated.
    pub max_step: Duration,
    /// Images that are waiting, in flight, or finished but not yet taken.
    pub max_queued_images: usize,
    /// Jobs on their way to the worker, which looks between two forwards.
    pub queue_slots: usize,
}

/// The two ends between callers and the worker that [`run`](super::worker::run)s `Commands`.
pub fn channel(limits: &Limits) -> (Handle, Commands) {
    let (sender, receiver) = mpsc::channel(limits.queue_slots.max(1));
    let capacity = limits.max_queued_images.min(Semaphore::MAX_PERMITS);
    let shared = Arc::new(Shared {
        capacity,
        permits: Arc::new(Semaphore::new(capacity)),
        phase: AtomicU8::new(Phase::Serving as u8),
        ns_per_image: AtomicU64::new(0),
    });
    (Handle { commands: sender, shared: Arc::clone(&shared) }, Commands { receiver, shared })
}

/// Submits jobs to one worker. Cheap to clone; when the last clone is gone the worker finishes what it has and stops.
#[derive(Debug, Clone)]
pub struct Handle {
    commands: mpsc::Sender<Command>,
    shared: Arc<Shared>,
}

impl Handle {
    /// Hands `job` to the worker and waits, one forward at most, until it was taken.
    ///
    /// # Errors
    /// At once and without waiting for room: [`Error::Overloaded`] when the queue is full, [`Error::Unavailable`] when
    /// the worker is draining or dead. [`Error::Invalid`] for a job without images or with more than can ever be
    /// queued, [`Error::NotFound`] for a model that the worker does not have.
    pub async fn submit(&self, job: Job) -> Result<Ticket> {
        let images = job.labels.len();
        self.shared.check_serving()?;
        let permit = self.shared.reserve(images)?;
        let (events, inbox) = mpsc::channel(images + 1);
        let (reply, accepted) = oneshot::channel();
        let submission = Submission { job, permit, events, reply };
        self.commands.try_send(Command::Submit(Box::new(submission))).map_err(|refused| match refused {
            TrySendError::Full(_) => Error::Overloaded { retry_after: self.shared.retry_after(images) },
            TrySendError::Closed(_) => stopped(),
        })?;
        let accepted = accepted.await.map_err(|_| stopped())??;
        Ok(Ticket { accepted, inbox, ended: false })
    }

    /// Whether the worker still takes or finishes jobs.
    pub fn is_alive(&self) -> bool {
        !self.commands.is_closed()
    }

    /// Waits until the worker has measured its engine and takes jobs.
    ///
    /// # Errors
    /// [`Error::Unavailable`] if it stops instead.
    pub async fn ready(&self) -> Result<()> {
        let (reply, answered) = oneshot::channel();
        self.commands.send(Command::Ready(reply)).await.map_err(|_| stopped())?;
        answered.await.map_err(|_| stopped())
    }

    /// Makes the worker finish the jobs that were submitted before, and stop; later ones are refused.
    pub fn drain(&self) {
        self.shift(Phase::Draining);
    }

    /// Makes the worker stop after the forward in progress: every unfinished job fails with [`Error::Unavailable`].
    pub fn abort(&self) {
        self.shift(Phase::Aborting);
    }

    /// Waits until the worker has stopped, for whatever reason.
    pub async fn stopped(&self) {
        self.commands.closed().await;
    }

    fn shift(&self, phase: Phase) {
        self.shared.phase.fetch_max(phase as u8, Ordering::SeqCst);
        // A full channel needs no waking: its worker is about to look.
        let _ = self.commands.try_send(Command::Wake);
    }
}

/// A job that the worker took. Dropping it cancels what is not finished.
#[derive(Debug)]
pub struct Ticket {
    /// What the worker said on taking it.
    pub accepted: Accepted,
    inbox: mpsc::Receiver<Delivery>,
    ended: bool,
}

impl Ticket {
    /// The images in the order they finish, then [`JobEvent::Finished`] or [`JobEvent::Failed`], then `None`. A worker
    /// that died in between counts as a failure. Safe to cancel: no event is lost.
    pub async fn next(&mut self) -> Option<JobEvent> {
        if self.ended {
            return None;
        }
        let event = match self.inbox.recv().await {
            Some(delivery) => delivery.event,
            None => JobEvent::Failed(stopped()),
        };
        self.ended = !matches!(event, JobEvent::Image(_));
        Some(event)
    }
}

/// The worker's end of the channel.
#[derive(Debug)]
pub struct Commands {
    pub(super) receiver: mpsc::Receiver<Command>,
    pub(super) shared: Arc<Shared>,
}

/// What a handle tells its worker.
#[derive(Debug)]
pub(super) enum Command {
    /// A job. Boxed: the other commands are a word.
    Submit(Box<Submission>),
    /// A question whether the worker is past its start-up.
    Ready(oneshot::Sender<()>),
    /// Nothing, but the phase has changed.
    Wake,
}

/// A job on its way, with all that is needed to answer it.
#[derive(Debug)]
pub(super) struct Submission {
    pub(super) job: Job,
    /// One permit per image.
    pub(super) permit: OwnedSemaphorePermit,
    /// Holds every image and the end, so that the worker never waits for a reader.
    pub(super) events: mpsc::Sender<Delivery>,
    pub(super) reply: oneshot::Sender<Result<Accepted>>,
}

/// An event on its way to a ticket.
#[derive(Debug)]
pub(super) struct Delivery {
    pub(super) event: JobEvent,
    /// The image's permit, free again when the ticket's owner takes the event.
    pub(super) _permit: Option<OwnedSemaphorePermit>,
}

/// How far a worker is told to wind down; only ever grows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub(super) enum Phase {
    /// Takes jobs.
    Serving = 0,
    /// Finishes what it has.
    Draining = 1,
    /// Drops what it has.
    Aborting = 2,
}

/// What both sides see.
#[derive(Debug)]
pub(super) struct Shared {
    capacity: usize,
    permits: Arc<Semaphore>,
    phase: AtomicU8,
    /// Predicted device time per queued image, written by the worker.
    ns_per_image: AtomicU64,
}

impl Shared {
    pub(super) fn phase(&self) -> Phase {
        match self.phase.load(Ordering::SeqCst) {
            0 => Phase::Serving,
            1 => Phase::Draining,
            _ => Phase::Aborting,
        }
    }

    pub(super) fn publish_time_per_image(&self, time: Duration) {
        self.ns_per_image.store(u64::try_from(time.as_nanos()).unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    fn check_serving(&self) -> Result<()> {
        if self.phase() == Phase::Serving { Ok(()) } else { Err(draining()) }
    }

    fn reserve(&self, images: usize) -> Result<OwnedSemaphorePermit> {
        let count = match u32::try_from(images) {
            Ok(count @ 1..) if images <= self.capacity => count,
            _ => return Err(Error::invalid("count", format!("is {images}, must be 1 to {}", self.capacity))),
        };
        Arc::clone(&self.permits)
            .try_acquire_many_owned(count)
            .map_err(|_| Error::Overloaded { retry_after: self.retry_after(images) })
    }

    /// When enough images are likely to be out of the way for `images` more.
    fn retry_after(&self, images: usize) -> Duration {
        let missing = images.saturating_sub(self.permits.available_permits()).max(1);
        let per_image = Duration::from_nanos(self.ns_per_image.load(Ordering::Relaxed));
        let wait = per_image.saturating_mul(u32::try_from(missing).unwrap_or(u32::MAX));
        wait.clamp(SHORTEST_RETRY, LONGEST_RETRY)
    }
}

/// The worker refuses new jobs.
pub(super) fn draining() -> Error {
    Error::Unavailable("the server is shutting down".into())
}

fn stopped() -> Error {
    Error::Unavailable("the device worker has stopped".into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scheduler::testing::{job, limits};

    fn full(per_image: Duration) -> Duration {
        let (handle, _commands) = channel(&Limits { max_queued_images: 4, ..limits(1) });
        handle.shared.publish_time_per_image(per_image);
        let _three = handle.shared.reserve(3).unwrap();
        match handle.shared.reserve(3) {
            Err(Error::Overloaded { retry_after }) => retry_after,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_full_queue_says_when_enough_images_will_be_done() {
        assert_eq!(full(Duration::from_millis(150)), Duration::from_millis(300));
        assert_eq!(full(Duration::ZERO), SHORTEST_RETRY);
        assert_eq!(full(Duration::MAX), LONGEST_RETRY);
    }

    #[test]
    fn a_phase_only_ever_grows() {
        let (handle, commands) = channel(&limits(1));
        handle.abort();
        handle.drain();
        assert_eq!(commands.shared.phase(), Phase::Aborting);
    }

    #[tokio::test]
    async fn a_worker_that_dies_over_a_job_fails_it_once() {
        let (handle, mut commands) = channel(&limits(1));
        let worker = async {
            let Some(Command::Submit(submission)) = commands.receiver.recv().await else { panic!("no job") };
            submission.reply.send(Ok(Accepted { evaluations: 1, queue_position: 0 })).unwrap();
        };
        let (ticket, ()) = tokio::join!(handle.submit(job(0, 1, 1)), worker);
        let mut ticket = ticket.unwrap();
        assert!(matches!(ticket.next().await, Some(JobEvent::Failed(Error::Unavailable(_)))));
        assert!(ticket.next().await.is_none());
    }
}
