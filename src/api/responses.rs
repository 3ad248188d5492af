//! The response stream of one request: a short queue that the request's task fills and the transport empties.
//!
//! Both ends see the queue, because either may have to give up on the other: the task learns when the transport has
//! dropped the stream or takes nothing from it, and whether its last message was taken; and it takes back what a client
//! that does not read has left in the queue when its time is over. How the request failed travels beside the messages,
//! so that a full queue never hides a failure.

use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, sleep_until};
use tokio_stream::Stream;
use tonic::Status;

use super::proto::v1;
use super::proto::v1::generate_response::Event;
use super::status::status;
use crate::error::{Error, Result};

/// Messages encoded ahead of the connection: enough to keep it busy, too few to hold memory for a slow reader.
const MESSAGES_AHEAD: usize = 4;

/// The two ends of a stream: messages go into the first, and the second watches over what becomes of them.
pub(super) fn channel() -> (Messages, Overseer, Responses) {
    let (sender, messages) = mpsc::channel(MESSAGES_AHEAD);
    let (dropped, open) = oneshot::channel();
    let queue = Queue { messages, failure: None, waiting_since: None, is_complete: false, ended: false };
    let queue = Arc::new(Mutex::new(queue));
    let overseer = Overseer { queue: Arc::clone(&queue), dropped };
    (Messages { sender, queue: Arc::clone(&queue) }, overseer, Responses { queue, _open: open })
}

/// Where the task puts its messages. Dropped when there will be no more.
#[derive(Debug)]
pub(super) struct Messages {
    sender: mpsc::Sender<Box<v1::GenerateResponse>>,
    queue: Arc<Mutex<Queue>>,
}

/// The response stream of one request.
#[derive(Debug)]
pub struct Responses {
    queue: Arc<Mutex<Queue>>,
    /// Tells the [`Overseer`] by being dropped.
    _open: oneshot::Receiver<()>,
}

/// The task's view of the stream.
#[derive(Debug)]
pub(super) struct Overseer {
    queue: Arc<Mutex<Queue>>,
    dropped: oneshot::Sender<()>,
}

#[derive(Debug)]
struct Queue {
    /// In boxes: a channel makes room for dozens at once, and a stream has few at a time.
    messages: mpsc::Receiver<Box<v1::GenerateResponse>>,
    /// What follows the last message, if it is not a summary.
    failure: Option<Status>,
    /// Since when the transport could have taken something and has not.
    waiting_since: Option<Instant>,
    /// Whether there will be no more messages.
    is_complete: bool,
    /// Whether the transport has taken the summary or the failure.
    ended: bool,
}

impl Messages {
    /// Puts an event into the queue, once there is room.
    ///
    /// # Errors
    /// [`Error::Cancelled`] when nobody will take it.
    pub(super) async fn send(&self, event: Event) -> Result<()> {
        let place = self.sender.reserve().await.map_err(|_| Error::Cancelled)?;
        let mut queue = lock(&self.queue);
        queue.waiting_since.get_or_insert_with(Instant::now);
        place.send(Box::new(v1::GenerateResponse { event: Some(event) }));
        Ok(())
    }

    /// Waits until the transport has taken everything.
    ///
    /// # Errors
    /// [`Error::Cancelled`] when it never will.
    pub(super) async fn taken(&self) -> Result<()> {
        let all = self.sender.reserve_many(self.sender.max_capacity()).await;
        all.map(drop).map_err(|_| Error::Cancelled)
    }
}

impl Drop for Messages {
    fn drop(&mut self) {
        let mut queue = lock(&self.queue);
        queue.is_complete = true;
        queue.waiting_since.get_or_insert_with(Instant::now);
    }
}

impl Overseer {
    /// Why nobody reads on, once nobody does: the transport has dropped the stream, because it has sent everything or its
    /// client is gone; or it has left something waiting for longer than `patience`. Safe to call again.
    pub(super) async fn left(&mut self, patience: Duration) -> Error {
        tokio::select! {
            biased;
            () = self.dropped.closed() => Error::Cancelled,
            () = stalled(&self.queue, patience) => Error::Stalled,
        }
    }

    /// Ends the stream with `failure`, after the messages that are in the queue. The sender must be dropped next.
    pub(super) fn fail(&self, failure: Status) {
        lock(&self.queue).failure = Some(failure);
    }

    /// Frees the messages that were not taken, and with `failure` ends a stream that has not ended. Says whether it
    /// had: whether the client was given everything.
    pub(super) fn close(&self, failure: Status) -> bool {
        let mut queue = lock(&self.queue);
        queue.messages.close();
        while queue.messages.try_recv().is_ok() {}
        queue.failure.get_or_insert(failure);
        queue.ended
    }
}

async fn stalled(queue: &Mutex<Queue>, patience: Duration) {
    loop {
        let since = lock(queue).waiting_since;
        let now = Instant::now();
        // What comes to wait from now on has not waited for too long before it is looked at again.
        let until = since.unwrap_or(now) + patience;
        if until <= now {
            return;
        }
        sleep_until(until).await;
    }
}

impl Stream for Responses {
    type Item = Result<v1::GenerateResponse, Status>;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let mut queue = lock(&self.queue);
        if queue.ended {
            return Poll::Ready(None);
        }
        let message = ready!(queue.messages.poll_recv(cx));
        let more = queue.is_complete || !queue.messages.is_empty();
        queue.waiting_since = more.then(Instant::now);
        queue.ended = message.as_ref().is_none_or(|message| matches!(message.event, Some(Event::Summary(_))));
        let lost = || status(&Error::Compute("a request's task ended without a word".into()), "");
        Poll::Ready(Some(message.map(|message| *message).ok_or_else(|| queue.failure.take().unwrap_or_else(lost))))
    }
}

fn lock(queue: &Mutex<Queue>) -> MutexGuard<'_, Queue> {
    // Nothing panics under this lock.
    queue.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use tokio_stream::StreamExt;
    use tonic::Code;

    use super::*;

    /// Longer than a test takes.
    const PATIENCE: Duration = Duration::from_secs(600);

    fn image() -> Event {
        Event::Image(v1::Image::default())
    }

    fn summary() -> Event {
        Event::Summary(v1::Summary::default())
    }

    #[tokio::test]
    async fn a_failure_comes_after_the_messages_and_ends_the_stream() {
        let (messages, overseer, mut responses) = channel();
        messages.send(image()).await.unwrap();
        overseer.fail(Status::internal("no"));
        drop(messages);
        assert!(responses.next().await.unwrap().is_ok());
        assert_eq!(responses.next().await.unwrap().unwrap_err().code(), Code::Internal);
        assert!(responses.next().await.is_none());
    }

    #[tokio::test]
    async fn what_a_client_does_not_read_is_freed() {
        let (messages, overseer, mut responses) = channel();
        messages.send(image()).await.unwrap();
        messages.send(summary()).await.unwrap();
        drop(messages);
        assert!(responses.next().await.unwrap().is_ok());
        assert!(!overseer.close(Status::deadline_exceeded("late")), "the summary was not taken");
        assert_eq!(responses.next().await.unwrap().unwrap_err().code(), Code::DeadlineExceeded);
        assert!(responses.next().await.is_none());
    }

    #[tokio::test]
    async fn a_client_that_has_the_summary_has_everything() {
        let (messages, mut overseer, mut responses) = channel();
        messages.send(summary()).await.unwrap();
        assert!(responses.next().await.unwrap().is_ok() && responses.next().await.is_none());
        drop(responses);
        assert!(matches!(overseer.left(PATIENCE).await, Error::Cancelled));
        assert!(matches!(overseer.left(PATIENCE).await, Error::Cancelled));
        assert!(overseer.close(Status::cancelled("gone")));
    }

    #[tokio::test(start_paused = true)]
    async fn a_reader_is_given_up_when_something_waits_for_too_long() {
        let second = Duration::from_secs(1);
        let (messages, mut overseer, mut responses) = channel();
        let early = tokio::time::timeout(10 * second, overseer.left(2 * second)).await;
        assert!(early.is_err(), "nothing waits, so nobody is slow");
        messages.send(image()).await.unwrap();
        messages.send(image()).await.unwrap();
        tokio::time::sleep(second).await;
        assert!(responses.next().await.unwrap().is_ok());
        let begun = Instant::now();
        assert!(matches!(overseer.left(2 * second).await, Error::Stalled));
        assert_eq!(begun.elapsed(), 2 * second, "since the last message was taken");
    }

    #[tokio::test(start_paused = true)]
    async fn the_end_of_a_stream_can_be_waited_for_in_vain_as_well() {
        let second = Duration::from_secs(1);
        let (messages, mut overseer, mut responses) = channel();
        messages.send(summary()).await.unwrap();
        assert!(responses.next().await.unwrap().is_ok());
        drop(messages);
        assert!(matches!(overseer.left(second).await, Error::Stalled), "the stream was not dropped");
    }

    #[tokio::test]
    async fn the_queue_is_empty_when_everything_was_taken() {
        let (messages, _overseer, mut responses) = channel();
        messages.send(image()).await.unwrap();
        let early = tokio::time::timeout(Duration::ZERO, messages.taken()).await;
        assert!(early.is_err(), "an image waits");
        assert!(responses.next().await.unwrap().is_ok());
        messages.taken().await.unwrap();
        drop(responses);
    }
}
