//! Whether this server takes requests, told the same way to gRPC health checks, to HTTP probes and to streams.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};

use tonic_health::ServingStatus;
use tonic_health::pb::health_server::{Health, HealthServer};
use tonic_health::server::{HealthReporter, HealthService};

use super::proto::SERVICE_NAME;
use crate::scheduler::Handle;

/// The server as a whole, in the health protocol.
const WHOLE_SERVER: &str = "";

/// The server's readiness. Not serving until [`serving`](Self::serving) is called.
#[derive(Debug)]
pub struct Readiness {
    taking: AtomicBool,
    /// Set once there is one.
    scheduler: OnceLock<Handle>,
    reporter: HealthReporter,
}

impl Default for Readiness {
    fn default() -> Self {
        Self { taking: AtomicBool::new(false), scheduler: OnceLock::new(), reporter: HealthReporter::new() }
    }
}

impl Readiness {
    /// Models are loaded: from now on this depends on `scheduler`.
    pub fn loaded(&self, scheduler: Handle) {
        // A second one is a mistake of the composition root, and the first goes on to count.
        let _ = self.scheduler.set(scheduler);
    }

    /// Tells everyone that requests are taken from now on.
    pub async fn serving(&self) {
        self.tell(true).await;
    }

    /// Tells everyone to go elsewhere. Requests that come nevertheless are still served.
    pub async fn stopping(&self) {
        self.tell(false).await;
    }

    /// Whether requests are welcome.
    ///
    /// # Errors
    /// Why they are not.
    pub fn check(&self) -> Result<(), &'static str> {
        match self.scheduler.get() {
            None => Err("models are loading"),
            Some(scheduler) if !scheduler.is_alive() => Err("the device worker has ended"),
            Some(_) if !self.taking.load(Ordering::Acquire) => Err("starting or stopping"),
            Some(_) => Ok(()),
        }
    }

    /// The gRPC health service that follows this readiness.
    pub(super) fn health_service(&self) -> HealthServer<impl Health + use<>> {
        HealthServer::new(HealthService::from_health_reporter(self.reporter.clone()))
    }

    async fn tell(&self, serving: bool) {
        self.taking.store(serving, Ordering::Release);
        let status = if serving { ServingStatus::Serving } else { ServingStatus::NotServing };
        for service in [WHOLE_SERVER, SERVICE_NAME] {
            self.reporter.set_service_status(service, status).await;
        }
    }
}
