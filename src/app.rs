//! The composition root: configuration → worker, listeners, services; and the order of their ends.
//!
//! [`App::build`] binds and loads, so that whatever can fail has failed before anyone is told that the server is there;
//! [`App::serve`] serves until it is asked to stop.

mod models;
mod worker;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use metrics_exporter_prometheus::PrometheusHandle;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::timeout;

pub use models::{EMBEDDED_DEFAULT, EngineMaker, Parts};
use worker::Workers;

use crate::api::{self, Readiness, Service};
use crate::config::Config;
use crate::error::{Error, Result};
use crate::scheduler::Handle;
use crate::shutdown::{self, Ending, Stoppable, Stops, Timing};
use crate::telemetry::metrics;

/// How often recorded histogram samples are folded into their buckets; between two scrapes they take memory.
const UPKEEP_PERIOD: Duration = Duration::from_secs(5);

/// How long connections may live on after their last request has ended: for the last bytes to leave, and not for
/// health watches, which would never end by themselves.
const LINGER: Duration = Duration::from_millis(500);

/// Part of the grace period in which images that may end early are finished, so that their answers have the rest.
const CURFEW: f64 = 0.8;

/// A server that is bound and loaded, and not yet serving.
#[derive(Debug)]
pub struct App {
    front: Front,
    workers: Workers,
    service: Service,
    timing: Timing,
}

impl App {
    /// Binds, loads and warms up what `config` asks for. Probes are answered from the first moment on.
    ///
    /// # Errors
    /// [`Error::Config`] for what the operator must mend in the configuration, [`Error::File`] for a model.
    pub async fn build(config: &Config) -> Result<Self> {
        let front = Front::open(config).await?;
        let owned = config.clone();
        let parts = tokio::task::spawn_blocking(move || Parts::load(&owned)).await;
        let parts = parts.map_err(|e| Error::Compute(format!("loading failed: {e}")))??;
        Self::put_together(config, front, parts).await
    }

    /// The same with models and an engine of the caller's making.
    ///
    /// # Errors
    /// As [`App::build`].
    pub async fn assemble(config: &Config, parts: Parts) -> Result<Self> {
        Self::put_together(config, Front::open(config).await?, parts).await
    }

    async fn put_together(config: &Config, front: Front, parts: Parts) -> Result<Self> {
        let models = Arc::clone(parts.catalogue.models());
        metrics::register(&models);
        let workers = Workers::start(parts.engines, Arc::clone(&models), &config.scheduler).await?;
        let service = Service::new(parts.catalogue, workers.handle.clone(), config.api.clone());
        front.readiness.loaded(workers.handle.clone());
        let names: Vec<String> = models.iter().map(|model| model.id.to_string()).collect();
        tracing::info!(models = names.join(","), grpc = %front.grpc.1, http = %front.http, "ready to serve");
        Ok(Self { front, workers, service, timing: config.shutdown })
    }

    /// Where gRPC is served.
    pub fn grpc_address(&self) -> SocketAddr {
        self.front.grpc.1
    }

    /// Where metrics and probes are served.
    pub fn http_address(&self) -> SocketAddr {
        self.front.http
    }

    /// Serves until `stops` asks to stop, then ends in order.
    ///
    /// # Errors
    /// [`Error::Unavailable`] when the worker or a listener ended by itself.
    pub async fn serve(self, mut stops: Stops) -> Result<Ending> {
        let Self { front, workers, service, timing } = self;
        let Front { grpc, readiness, mut tasks, .. } = front;
        let (closing, closed) = watch::channel(false);
        let (open, done) = watch::channel(());
        let running = Running {
            readiness: Arc::clone(&readiness),
            service: service.clone(),
            workers: workers.handle.clone(),
            curfew: timing.grace.mul_f64(CURFEW),
            closing,
            done,
        };
        readiness.serving().await;
        tasks.spawn(async move {
            let _open = open;
            api::serve_grpc(grpc.0, service, &readiness, raised(closed)).await
        });
        tokio::select! {
            () = stops.next() => (),
            failure = running.fails(&mut tasks) => {
                running.refuse().await;
                shutdown::cut_off(&running).await;
                return Err(failure);
            }
        }
        let ending = shutdown::stop(&running, timing, stops.next()).await;
        if ending == Ending::Finished {
            workers.join();
        }
        Ok(ending)
    }
}

/// What is there before anything slow is begun: both ports, and probes that are answered.
#[derive(Debug)]
struct Front {
    grpc: (TcpListener, SocketAddr),
    http: SocketAddr,
    readiness: Arc<Readiness>,
    /// Ends with this.
    tasks: JoinSet<Result<()>>,
}

impl Front {
    async fn open(config: &Config) -> Result<Self> {
        let grpc = api::bind("server.grpc_address", config.listen.grpc).await?;
        let (listener, http) = api::bind("server.http_address", config.listen.http).await?;
        let metrics = metrics::install()?;
        let (readiness, mut tasks) = (Arc::new(Readiness::default()), JoinSet::new());
        tasks.spawn(api::serve_http(listener, Arc::clone(&readiness), metrics.clone()));
        tasks.spawn(upkeep(metrics));
        Ok(Self { grpc, http, readiness, tasks })
    }
}

/// A server at work, as far as stopping it goes.
struct Running {
    readiness: Arc<Readiness>,
    service: Service,
    workers: Handle,
    /// Once nothing new is taken, images that may end early are finished within this.
    curfew: Duration,
    closing: watch::Sender<bool>,
    /// Closed when the gRPC server has ended.
    done: watch::Receiver<()>,
}

impl Running {
    /// Resolves when the server cannot go on.
    async fn fails(&self, tasks: &mut JoinSet<Result<()>>) -> Error {
        tokio::select! {
            () = self.workers.stopped() => Error::Unavailable("the device worker has ended; the log says why".into()),
            ended = tasks.join_next() => match ended {
                Some(Ok(Err(error))) => error,
                other => Error::Unavailable(format!("a server task ended: {other:?}")),
            },
        }
    }
}

impl Stoppable for Running {
    async fn refuse(&self) {
        self.readiness.stopping().await;
    }

    fn stop_accepting(&self) {
        self.closing.send_replace(true);
    }

    async fn finished(&self) {
        self.workers.curfew(Instant::now() + self.curfew);
        self.service.idle().await;
        self.workers.drain();
        self.workers.stopped().await;
        let mut done = self.done.clone();
        let _ = timeout(LINGER, async { while done.changed().await.is_ok() {} }).await;
    }

    fn abort(&self) {
        self.workers.abort();
    }
}

async fn raised(mut flag: watch::Receiver<bool>) {
    // An error means that the other end is gone, and with it the reason to serve.
    let _ = flag.wait_for(|raised| *raised).await;
}

async fn upkeep(metrics: PrometheusHandle) -> Result<()> {
    let mut ticks = tokio::time::interval(UPKEEP_PERIOD);
    loop {
        ticks.tick().await;
        metrics.run_upkeep();
    }
}
