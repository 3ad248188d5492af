//! The response stream of one request: a short queue that the request's task fills and the transport empties.
//!
//! Both ends see the queue, because either may have to give up on the other: the task learns when the transport has
//! dropped the stream, and whether its last message was taken; and it takes back what a client that does not read has
//! left in the queue when its time is over. How the request failed travels beside the messages, so that a full queue
//! never hides a failure.

use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};

use tokio::sync::{mpsc, oneshot};
use tokio_stream::Stream;
use tonic::Status;

use super::proto::v1;
use super::proto::v1::generate_response::Event;
use super::status::status;
use crate::error::Error;

/// Messages encoded ahead of the connection: enough to keep it busy, too few to hold memory for a slow reader.
const MESSAGES_AHEAD: usize = 4;

/// The two ends of a stream: messages go into the first, and the second watches over what becomes of them.
pub(super) fn channel() -> (mpsc::Sender<v1::GenerateResponse>, Overseer, Responses) {
    let (sender, messages) = mpsc::channel(MESSAGES_AHEAD);
    let (dropped, open) = oneshot::channel();
    let queue = Arc::new(Mutex::new(Queue { messages, failure: None, ended: false }));
    (sender, Overseer { queue: Arc::clone(&queue), dropped }, Responses { queue, _open: open })
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
    messages: mpsc::Receiver<v1::GenerateResponse>,
    /// What follows the last message, if it is not a summary.
    failure: Option<Status>,
    /// Whether the transport has taken the summary or the failure.
    ended: bool,
}

impl Overseer {
    /// Resolves when the transport has dropped the stream: it has sent everything, or its client is gone. Safe to call
    /// again.
    pub(super) async fn dropped(&mut self) {
        self.dropped.closed().await;
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

impl Stream for Responses {
    type Item = Result<v1::GenerateResponse, Status>;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let mut queue = lock(&self.queue);
        if queue.ended {
            return Poll::Ready(None);
        }
        let message = ready!(queue.messages.poll_recv(cx));
        queue.ended = message.as_ref().is_none_or(|message| matches!(message.event, Some(Event::Summary(_))));
        let lost = || status(&Error::Compute("a request's task ended without a word".into()), "");
        Poll::Ready(Some(message.ok_or_else(|| queue.failure.take().unwrap_or_else(lost))))
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

    fn message(event: Event) -> v1::GenerateResponse {
        v1::GenerateResponse { event: Some(event) }
    }

    fn image() -> v1::GenerateResponse {
        message(Event::Image(v1::Image::default()))
    }

    fn summary() -> v1::GenerateResponse {
        message(Event::Summary(v1::Summary::default()))
    }

    #[tokio::test]
    async fn a_failure_comes_after_the_messages_and_ends_the_stream() {
        let (sender, overseer, mut responses) = channel();
        sender.try_send(image()).unwrap();
        overseer.fail(Status::internal("no"));
        drop(sender);
        assert!(responses.next().await.unwrap().is_ok());
        assert_eq!(responses.next().await.unwrap().unwrap_err().code(), Code::Internal);
        assert!(responses.next().await.is_none());
    }

    #[tokio::test]
    async fn what_a_client_does_not_read_is_freed() {
        let (sender, overseer, mut responses) = channel();
        sender.try_send(image()).unwrap();
        sender.try_send(summary()).unwrap();
        drop(sender);
        assert!(responses.next().await.unwrap().is_ok());
        assert!(!overseer.close(Status::deadline_exceeded("late")), "the summary was not taken");
        assert_eq!(responses.next().await.unwrap().unwrap_err().code(), Code::DeadlineExceeded);
        assert!(responses.next().await.is_none());
    }

    #[tokio::test]
    async fn a_client_that_has_the_summary_has_everything() {
        let (sender, mut overseer, mut responses) = channel();
        sender.try_send(summary()).unwrap();
        assert!(responses.next().await.unwrap().is_ok() && responses.next().await.is_none());
        drop(responses);
        overseer.dropped().await;
        overseer.dropped().await;
        assert!(overseer.close(Status::cancelled("gone")));
    }
}
