//! Accepting connections: at most so many at a time, none that keeps silent for long, each without Nagle's delay.
//!
//! tonic's own `tcp_nodelay` does not reach connections of a listener that was bound before, and without it each message
//! waits for the client's delayed acknowledgement, some 40 ms. tonic has no bound on connections either, and neither it
//! nor axum gives up a connection on which no request ever comes.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::time::{Sleep, sleep};
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::server::{Connected, TcpConnectInfo};

/// Pause after a failed accept. It fails when file descriptors run out, and would go on failing until one is freed.
const RETRY: Duration = Duration::from_millis(50);

/// What a new connection is given time for.
#[derive(Debug, Clone, Copy)]
pub(super) enum Patience {
    /// To send this many bytes within this time; whoever serves it watches over it from then on.
    Opening(usize, Duration),
    /// For all that it will ever do.
    Whole(Duration),
}

/// Connections of `listener`, at most `most` at a time; more wait in the system's queue. Dropping the stream closes the
/// listener.
pub(super) fn accept(listener: TcpListener, most: usize, patience: Patience) -> ReceiverStream<io::Result<Connection>> {
    let (sender, receiver) = mpsc::channel(1);
    tokio::spawn(async move {
        tokio::select! {
            () = sender.closed() => (),
            () = pump(&listener, most, patience, &sender) => (),
        }
    });
    ReceiverStream::new(receiver)
}

async fn pump(listener: &TcpListener, most: usize, patience: Patience, sender: &mpsc::Sender<io::Result<Connection>>) {
    let places = Arc::new(Semaphore::new(most.min(Semaphore::MAX_PERMITS)));
    while let Ok(place) = Arc::clone(&places).acquire_owned().await {
        let accepted = listener.accept().await.and_then(|(stream, _)| stream.set_nodelay(true).map(|()| stream));
        match accepted {
            Ok(stream) => drop(sender.send(Ok(Connection::new(stream, place, patience))).await),
            Err(error) => {
                tracing::warn!(%error, "a connection could not be accepted");
                tokio::time::sleep(RETRY).await;
            }
        }
    }
}

/// A connection and its place among the most that there may be.
#[derive(Debug)]
pub(super) struct Connection {
    stream: TcpStream,
    _place: OwnedSemaphorePermit,
    /// Bytes that are still to come before the timer stops.
    awaited: usize,
    timer: Option<Pin<Box<Sleep>>>,
}

impl Connection {
    fn new(stream: TcpStream, place: OwnedSemaphorePermit, patience: Patience) -> Self {
        let (awaited, time) = match patience {
            Patience::Opening(bytes, time) => (bytes, time),
            Patience::Whole(time) => (usize::MAX, time),
        };
        Self { stream, _place: place, awaited, timer: Some(Box::pin(sleep(time))) }
    }

    /// Counts bytes that came.
    fn received(&mut self, bytes: usize) {
        self.awaited = self.awaited.saturating_sub(bytes);
        if self.awaited == 0 {
            self.timer = None;
        }
    }

    /// `outcome`, or an error where there is none and the time is over.
    fn in_time<T>(&mut self, outcome: Poll<io::Result<T>>, cx: &mut Context<'_>) -> Poll<io::Result<T>> {
        match &mut self.timer {
            Some(timer) if outcome.is_pending() => {
                timer.as_mut().poll(cx).map(|()| Err(io::ErrorKind::TimedOut.into()))
            }
            _ => outcome,
        }
    }
}

impl Connected for Connection {
    type ConnectInfo = TcpConnectInfo;

    fn connect_info(&self) -> TcpConnectInfo {
        self.stream.connect_info()
    }
}

impl AsyncRead for Connection {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let outcome = Pin::new(&mut self.stream).poll_read(cx, buffer);
        self.received(buffer.filled().len() - before);
        self.in_time(outcome, cx)
    }
}

impl AsyncWrite for Connection {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let outcome = Pin::new(&mut self.stream).poll_write(cx, bytes);
        self.in_time(outcome, cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let outcome = Pin::new(&mut self.stream).poll_write_vectored(cx, slices);
        self.in_time(outcome, cx)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio_stream::StreamExt;

    use super::*;

    #[tokio::test]
    async fn a_connection_too_many_waits_for_a_place_and_none_is_delayed() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let mut connections = accept(listener, 1, Patience::Whole(Duration::from_secs(60)));
        let _clients = (TcpStream::connect(address).await.unwrap(), TcpStream::connect(address).await.unwrap());
        let first = connections.next().await.unwrap().unwrap();
        assert!(first.stream.nodelay().unwrap());
        let early = tokio::time::timeout(Duration::from_millis(20), connections.next()).await;
        assert!(early.is_err(), "the second connection has no place yet");
        drop(first);
        assert!(connections.next().await.unwrap().is_ok());
    }

    #[tokio::test]
    async fn the_listener_closes_with_the_stream() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        drop(accept(listener, 1, Patience::Whole(Duration::from_secs(60))));
        while TcpStream::connect(address).await.is_ok() {
            tokio::task::yield_now().await;
        }
    }

    #[tokio::test]
    async fn a_connection_that_keeps_silent_is_given_up() {
        let moment = Duration::from_millis(20);
        for (patience, is_given_up) in [
            (Patience::Opening(3, moment), true),
            (Patience::Opening(2, moment), false),
            (Patience::Whole(moment), true),
        ] {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let mut client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
            let mut connection = accept(listener, 1, patience).next().await.unwrap().unwrap();
            client.write_all(b"ab").await.unwrap();
            connection.read_exact(&mut [0; 2]).await.unwrap();
            let silence = tokio::time::timeout(10 * moment, connection.read_u8()).await;
            let gave_up = silence.is_ok_and(|read| read.is_err_and(|e| e.kind() == io::ErrorKind::TimedOut));
            assert_eq!(gave_up, is_given_up, "{patience:?}");
        }
    }
}
