//! Stopping: signals, and the order in which things end.
//!
//! The first signal starts the sequence of [`stop`]: refuse (health checks say no) → serve on for `drain_delay` → stop
//! accepting → let open requests finish for at most `grace` → cut off what is left. A second signal skips to the end.

use std::future::Future;
use std::time::Duration;

use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;
use tokio::time::timeout;

use crate::error::{Error, Result};

/// How long requests that are cut off have to tell their clients so.
const FLUSH: Duration = Duration::from_millis(500);

/// Requests to stop that are remembered: no one has a use for a third.
const STOPS_KEPT: usize = 2;

/// How long each part of stopping takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timing {
    /// Between saying no and refusing connections.
    pub drain_delay: Duration,
    /// For open requests to finish.
    pub grace: Duration,
}

/// How a stop ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    /// Every open request finished.
    Finished,
    /// `grace` passed and requests were cut off.
    CutOff,
    /// A second signal came.
    Forced,
}

/// What can be stopped.
pub trait Stoppable {
    /// Tells load balancers to go elsewhere; requests are still served.
    fn refuse(&self) -> impl Future<Output = ()> + Send;
    /// Takes no connection from now on; returns at once.
    fn stop_accepting(&self);
    /// Takes no request from now on, and waits until every open one has ended.
    fn finished(&self) -> impl Future<Output = ()> + Send;
    /// Fails every open request; returns at once.
    fn abort(&self);
}

/// Stops `service` in order; `hurry` resolves when there is no time for that.
pub async fn stop(service: &impl Stoppable, timing: Timing, hurry: impl Future<Output = ()>) -> Ending {
    service.refuse().await;
    let drain = async {
        tokio::time::sleep(timing.drain_delay).await;
        service.stop_accepting();
        timeout(timing.grace, service.finished()).await.is_ok()
    };
    let ending = tokio::select! {
        biased;
        () = hurry => Ending::Forced,
        finished = drain => if finished { Ending::Finished } else { Ending::CutOff },
    };
    if ending != Ending::Finished {
        cut_off(service).await;
    }
    ending
}

/// Ends what is open, without waiting for it to finish.
pub async fn cut_off(service: &impl Stoppable) {
    service.stop_accepting();
    service.abort();
    // Streams learn of the abort; what has not told its client by then is lost with the process.
    let _ = timeout(FLUSH, service.finished()).await;
}

/// Requests to stop, in the order in which they come: the first begins the sequence, the second ends it.
#[derive(Debug)]
pub struct Stops(mpsc::Receiver<()>);

impl Stops {
    /// SIGTERM and SIGINT, from now on: called before anything slow, so that a signal during start-up is not lost.
    ///
    /// # Errors
    /// [`Error::Unavailable`] when the system refuses.
    pub fn signals() -> Result<Self> {
        let on = |kind| signal(kind).map_err(|e| Error::Unavailable(format!("cannot listen for signals: {e}")));
        let (mut terminate, mut interrupt) = (on(SignalKind::terminate())?, on(SignalKind::interrupt())?);
        let (stopper, stops) = Self::manual();
        tokio::spawn(async move {
            loop {
                let signal = tokio::select! {
                    _ = terminate.recv() => "SIGTERM",
                    _ = interrupt.recv() => "SIGINT",
                };
                tracing::info!(signal, "asked to stop");
                stopper.stop();
            }
        });
        Ok(stops)
    }

    /// For a server inside another program: it stops when the [`Stopper`] says so.
    pub fn manual() -> (Stopper, Self) {
        let (sender, receiver) = mpsc::channel(STOPS_KEPT);
        (Stopper(sender), Self(receiver))
    }

    /// Waits for the next one; for ever where none can come. Safe to cancel.
    pub async fn next(&mut self) {
        if self.0.recv().await.is_none() {
            std::future::pending::<()>().await;
        }
    }
}

/// Asks a server to stop.
#[derive(Debug, Clone)]
pub struct Stopper(mpsc::Sender<()>);

impl Stopper {
    /// Asks once; the second time there is no more waiting.
    pub fn stop(&self) {
        // A full channel holds all that can still matter.
        let _ = self.0.try_send(());
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Mutex, MutexGuard};

    use tokio::time::{Instant, sleep};

    use super::*;

    /// Requests that take `busy` to finish once nothing new is accepted, or end at an abort.
    struct Fake {
        busy: Duration,
        since: Instant,
        calls: Mutex<Vec<(&'static str, u128)>>,
    }

    impl Fake {
        fn new(busy_ms: u64) -> Self {
            Self { busy: Duration::from_millis(busy_ms), since: Instant::now(), calls: Mutex::default() }
        }

        fn calls(&self) -> MutexGuard<'_, Vec<(&'static str, u128)>> {
            self.calls.lock().unwrap()
        }

        fn note(&self, call: &'static str) {
            self.calls().push((call, self.since.elapsed().as_millis()));
        }
    }

    impl Stoppable for Fake {
        async fn refuse(&self) {
            self.note("refuse");
        }

        fn stop_accepting(&self) {
            self.note("stop accepting");
        }

        async fn finished(&self) {
            if !self.calls().iter().any(|(call, _)| *call == "abort") {
                sleep(self.busy).await;
            }
            self.note("finished");
        }

        fn abort(&self) {
            self.note("abort");
        }
    }

    async fn check(busy_ms: u64, hurry_ms: u64, ending: Ending, calls: &[(&'static str, u128)]) {
        let fake = Fake::new(busy_ms);
        let timing = Timing { drain_delay: Duration::from_millis(100), grace: Duration::from_millis(1000) };
        let got = stop(&fake, timing, sleep(Duration::from_millis(hurry_ms))).await;
        assert_eq!((got, fake.calls().as_slice()), (ending, calls));
    }

    #[tokio::test(start_paused = true)]
    async fn open_requests_finish() {
        let calls = [("refuse", 0), ("stop accepting", 100), ("finished", 400)];
        check(300, 9000, Ending::Finished, &calls).await;
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_cut_off_may_tell_its_clients() {
        let fake = Fake::new(300);
        cut_off(&fake).await;
        assert_eq!(fake.calls().as_slice(), [("stop accepting", 0), ("abort", 0), ("finished", 0)]);
    }

    #[tokio::test(start_paused = true)]
    async fn grace_is_bounded() {
        let calls =
            [("refuse", 0), ("stop accepting", 100), ("stop accepting", 1100), ("abort", 1100), ("finished", 1100)];
        check(5000, 9000, Ending::CutOff, &calls).await;
    }

    #[tokio::test(start_paused = true)]
    async fn a_second_signal_ends_it_at_once() {
        let during_delay = [("refuse", 0), ("stop accepting", 40), ("abort", 40), ("finished", 40)];
        check(300, 40, Ending::Forced, &during_delay).await;
        let during_grace =
            [("refuse", 0), ("stop accepting", 100), ("stop accepting", 250), ("abort", 250), ("finished", 250)];
        check(300, 250, Ending::Forced, &during_grace).await;
    }
}
