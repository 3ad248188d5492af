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
            self.stage = Stage::Due;
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
