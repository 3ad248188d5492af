//! What is written to a connection, gathered: one system call for the messages of all streams that have some.
//!
//! HTTP/2 frames are written and flushed one by one, and the task of a connection runs as soon as one of its streams has
//! a message. A forward finishes many images at a time, so that each of them would be a system call and a packet of its
//! own, which is a third of what a small answer costs. Here bytes are collected, and leave when the tasks that were
//! ready beside the connection's have had their turn: a runtime puts a task that wakes itself behind the others. A
//! connection with nobody beside it writes at once.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tonic::transport::server::Connected;

/// Bytes that are gathered at most; what would be more waits until they have left.
const MOST_BYTES: usize = 64 * 1024;

/// Room that a connection keeps between two writes. Beyond it idle connections would hold what one burst took.
const KEPT_BYTES: usize = 8 * 1024;

/// `inner`, which is written to rarely.
#[derive(Debug)]
pub(super) struct Gathering<S> {
    inner: S,
    gathered: Vec<u8>,
    /// Bytes at its beginning that have left.
    gone: usize,
    stage: Stage,
    /// Whether the last write is probably followed by another: a payload behind its header, which HTTP/2 writes alone.
    more: bool,
}

/// How far a flush has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// None has been asked for.
    Idle,
    /// Others have their turn first.
    Yielding,
    /// They have had it.
    Due,
}

impl<S> Gathering<S> {
    /// Gathers what goes to `inner`.
    pub(super) fn new(inner: S) -> Self {
        Self { inner, gathered: Vec::new(), gone: 0, stage: Stage::Idle, more: false }
    }
}

impl<S: AsyncWrite + Unpin> Gathering<S> {
    /// Takes in the parts and says how many bytes they are; waits first where they would be too many.
    fn gather(&mut self, parts: &[IoSlice<'_>], cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        let bytes: usize = parts.iter().map(|part| part.len()).sum();
        if self.gathered.len() + bytes > MOST_BYTES {
            ready!(self.write_out(cx))?;
            if bytes > MOST_BYTES {
                return Pin::new(&mut self.inner).poll_write_vectored(cx, parts);
            }
        }
        self.more = parts.len() > 1;
        parts.iter().for_each(|part| self.gathered.extend_from_slice(part));
        Poll::Ready(Ok(bytes))
    }

    /// Writes what was gathered.
    fn write_out(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.gone < self.gathered.len() {
            let written = ready!(Pin::new(&mut self.inner).poll_write(cx, &self.gathered[self.gone..]))?;
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.gone += written;
        }
        self.gathered.clear();
        self.gathered.shrink_to(KEPT_BYTES);
        (self.gone, self.stage, self.more) = (0, Stage::Idle, false);
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Gathering<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        // A connection's task begins every turn by reading.
        if self.stage == Stage::Yielding {
            (self.stage, self.more) = (Stage::Due, false);
        }
        Pin::new(&mut self.inner).poll_read(cx, buffer)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Gathering<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.gather(&[IoSlice::new(bytes)], cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        parts: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.gather(parts, cx)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    /// Promises to write soon, as long as that is good for something: the task is woken again where bytes remain.
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let is_early = match self.stage {
            Stage::Idle => true,
            Stage::Yielding => return Poll::Ready(Ok(())),
            Stage::Due => std::mem::take(&mut self.more),
        };
        if self.gathered.is_empty() {
            return Pin::new(&mut self.inner).poll_flush(cx);
        }
        if is_early {
            if self.stage == Stage::Idle {
                self.stage = Stage::Yielding;
            }
            cx.waker().wake_by_ref();
            return Poll::Ready(Ok(()));
        }
        ready!(self.write_out(cx))?;
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.write_out(cx))?;
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}

impl<S: Connected> Connected for Gathering<S> {
    type ConnectInfo = S::ConnectInfo;

    fn connect_info(&self) -> S::ConnectInfo {
        self.inner.connect_info()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::task::{Wake, Waker};

    use super::*;

    /// A connection on which nothing comes, and what each write to it had; full where it may not be written to.
    #[derive(Debug, Default)]
    struct Wire {
        written: Vec<Vec<u8>>,
        is_full: bool,
        is_shut: bool,
    }

    impl AsyncRead for Wire {
        fn poll_read(self: Pin<&mut Self>, _: &mut Context<'_>, _: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
            Poll::Pending
        }
    }

    impl AsyncWrite for Wire {
        fn poll_write(mut self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
            if self.is_full {
                return Poll::Pending;
            }
            self.written.push(bytes.to_vec());
            Poll::Ready(Ok(bytes.len()))
        }

        fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }

        fn poll_shutdown(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            self.is_shut = true;
            Poll::Ready(Ok(()))
        }
    }

    /// Counts how often the connection's task is woken.
    #[derive(Default)]
    struct Wakes(AtomicUsize);

    impl Wake for Wakes {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// A connection and its task.
    struct Scene {
        connection: Gathering<Wire>,
        wakes: Arc<Wakes>,
        waker: Waker,
    }

    impl Scene {
        fn new() -> Self {
            let wakes = Arc::new(Wakes::default());
            Self { connection: Gathering::new(Wire::default()), waker: Arc::clone(&wakes).into(), wakes }
        }

        /// The task has its next turn, which begins with a look for what has come.
        fn turn(&mut self) {
            let (mut space, mut cx) = ([0; 8], Context::from_waker(&self.waker));
            assert!(Pin::new(&mut self.connection).poll_read(&mut cx, &mut ReadBuf::new(&mut space)).is_pending());
        }

        fn write(&mut self, parts: &[&[u8]]) -> Poll<io::Result<usize>> {
            let parts: Vec<_> = parts.iter().map(|part| IoSlice::new(part)).collect();
            Pin::new(&mut self.connection).poll_write_vectored(&mut Context::from_waker(&self.waker), &parts)
        }

        fn flush(&mut self) -> Poll<io::Result<()>> {
            Pin::new(&mut self.connection).poll_flush(&mut Context::from_waker(&self.waker))
        }

        /// Frames as HTTP/2 writes them: each with a flush, and a last flush.
        fn frames(&mut self, frames: &[&[&[u8]]]) {
            for frame in frames {
                assert!(self.write(frame).is_ready() && self.flush().is_ready());
            }
            assert!(self.flush().is_ready());
        }

        fn written(&self) -> Vec<&[u8]> {
            self.connection.inner.written.iter().map(Vec::as_slice).collect()
        }

        fn wakes(&self) -> usize {
            self.wakes.0.load(Ordering::Relaxed)
        }
    }

    #[test]
    fn the_frames_of_two_turns_leave_at_once_after_the_others_had_theirs() {
        let mut scene = Scene::new();
        scene.turn();
        scene.frames(&[&[b"a", b"A"], &[b"b"]]);
        assert_eq!((scene.written().len(), scene.wakes()), (0, 1), "the task is to come again");
        scene.turn();
        scene.frames(&[&[b"c", b"C"], &[b"d", b"D"]]);
        assert_eq!(scene.written(), [b"aAbcCdD"]);
    }

    #[test]
    fn a_frame_that_is_alone_leaves_in_the_next_turn() {
        let mut scene = Scene::new();
        for round in 1..=2 {
            scene.turn();
            scene.frames(&[&[b"a", b"A"]]);
            scene.turn();
            scene.frames(&[]);
            assert_eq!((scene.written().len(), scene.wakes()), (round, round));
        }
    }

    #[test]
    fn while_bytes_remain_the_task_is_woken() {
        let mut scene = Scene::new();
        for turn in 1..10 {
            scene.turn();
            assert!(scene.write(&[b"a", b"A"]).is_ready() && scene.flush().is_ready());
            assert!(scene.connection.gathered.is_empty() || scene.wakes() >= turn, "{turn}");
        }
    }

    #[test]
    fn a_full_connection_takes_no_more_than_its_bound() {
        let mut scene = Scene::new();
        scene.connection.inner.is_full = true;
        let piece = [0; 1000];
        let taken = std::iter::from_fn(|| scene.write(&[&piece]).is_ready().then_some(piece.len())).sum::<usize>();
        assert!((MOST_BYTES - piece.len()..=MOST_BYTES).contains(&taken), "{taken}");
        scene.connection.inner.is_full = false;
        assert!(scene.write(&[&piece]).is_ready());
        assert_eq!(scene.written().concat().len(), taken, "the rest follows what has left");
        assert!(scene.connection.gathered.capacity() <= KEPT_BYTES);
    }

    #[test]
    fn what_was_gathered_leaves_before_the_end() {
        let mut scene = Scene::new();
        scene.frames(&[&[b"a"]]);
        let mut cx = Context::from_waker(Waker::noop());
        assert!(Pin::new(&mut scene.connection).poll_shutdown(&mut cx).is_ready());
        assert!(scene.written() == [b"a"] && scene.connection.inner.is_shut);
    }
}
