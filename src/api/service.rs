//! The generation service: takes calls apart, refuses or starts them, and counts each exactly once.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use ::metrics::Counter;
use axum::http::HeaderMap;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tonic::{Code, Request, Response, Status};

use super::admission::{Admitted, Seat};
use super::arrival::Arrival;
use super::catalogue::Catalogue;
use super::generate::Generation;
use super::models;
use super::observe::{Instruments, Observation};
use super::proto::v1;
use super::proto::v1::generation_service_server::GenerationService;
use super::responses::Responses;
use super::settings::Settings;
use super::status::{code, code_name, status};
use super::validate::{self, Parsed};
use crate::error::{Error, Result};
use crate::scheduler::Handle;
use crate::telemetry::metrics;

/// When to retry a server that has as many requests as it takes: streams end at the pace of images, not of seconds.
const REQUESTS_RETRY: Duration = Duration::from_millis(100);

/// The service behind every connection.
#[derive(Debug, Clone)]
pub struct Service {
    shared: Arc<Shared>,
}

/// What all calls see.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) catalogue: Catalogue,
    pub(super) scheduler: Handle,
    pub(super) settings: Settings,
    pub(super) sent_bytes: Counter,
    calls: Calls,
    /// One permit per generation request that is open.
    requests: Arc<Semaphore>,
    /// Whether requests are refused because the server is about to end.
    stopping: AtomicBool,
}

/// The instruments of each method.
#[derive(Debug)]
struct Calls {
    generate: Arc<Instruments>,
    list_models: Arc<Instruments>,
    get_model: Arc<Instruments>,
}

impl Service {
    /// A service that answers for the models of `catalogue`, which must be those of the scheduler, by the same keys.
    /// Instruments are bound to the metrics recorder that is installed now.
    pub fn new(catalogue: Catalogue, scheduler: Handle, settings: Settings) -> Self {
        let requests = Arc::new(Semaphore::new(settings.max_requests.min(Semaphore::MAX_PERMITS)));
        let calls = Calls {
            generate: Instruments::of("Generate"),
            list_models: Instruments::of("ListModels"),
            get_model: Instruments::of("GetModel"),
        };
        let (sent_bytes, stopping) = (metrics::RESPONSE_BYTES.counter([]), AtomicBool::new(false));
        let shared = Shared { catalogue, scheduler, settings, sent_bytes, calls, requests, stopping };
        Self { shared: Arc::new(shared) }
    }

    /// Waits until no generation request is open. Requests that come while it waits are refused.
    pub async fn idle(&self) {
        self.shared.stopping.store(true, Ordering::Release);
        let all = u32::try_from(self.shared.settings.max_requests).unwrap_or(u32::MAX);
        // Fails on a closed semaphore only, and this one is never closed.
        let _ = self.shared.requests.acquire_many(all).await;
    }

    /// Its settings.
    pub(super) fn settings(&self) -> &Settings {
        &self.shared.settings
    }

    /// Counts a generation request and gives it a place, by its headers.
    pub(super) fn admit(&self, headers: &HeaderMap) -> Result<Admitted, Status> {
        let observation = Observation::begin(&self.shared.calls.generate);
        let arrival = match Arrival::now(headers) {
            Ok(arrival) => arrival,
            Err(error) => return Err(refuse(observation, &error, "")),
        };
        match self.place() {
            Ok(permit) => Ok(Admitted { observation, arrival, permit }),
            Err(error) => Err(refuse(observation, &error, &arrival.name())),
        }
    }

    fn place(&self) -> Result<OwnedSemaphorePermit> {
        let Shared { requests, stopping, .. } = &*self.shared;
        Arc::clone(requests).try_acquire_owned().map_err(|_| {
            let (reason, error) = match stopping.load(Ordering::Acquire) {
                true => ("unavailable", Error::Unavailable("the server is shutting down".into())),
                false => ("requests", Error::Overloaded { retry_after: REQUESTS_RETRY, predicted: None }),
            };
            metrics::REJECTIONS.counter([reason]).increment(1);
            error
        })
    }
}

#[tonic::async_trait]
impl GenerationService for Service {
    type GenerateStream = Responses;

    /// Answers at once: all waiting happens inside the stream, where the request's own deadline bounds it.
    async fn generate(&self, request: Request<v1::GenerateRequest>) -> Result<Response<Responses>, Status> {
        // The admission in front puts it there; a service without one admits its calls itself.
        let admitted = match request.extensions().get::<Seat>().and_then(Seat::take) {
            Some(admitted) => admitted,
            None => self.admit(request.metadata().as_ref())?,
        };
        let Admitted { observation, arrival, permit } = admitted;
        let (request, Shared { catalogue, settings, .. }) = (request.into_inner(), &*self.shared);
        match validate::parse(&request, catalogue, &settings.limits, &arrival) {
            Ok(Parsed { job, encoding }) => {
                let generation = Generation { shared: Arc::clone(&self.shared), job, encoding, permit };
                Ok(Response::new(generation.spawn(observation)))
            }
            Err(error) => Err(refuse(observation, &error, &validate::request_name(&request, &arrival))),
        }
    }

    async fn list_models(&self, _: Request<v1::ListModelsRequest>) -> Result<Response<v1::ListModelsResponse>, Status> {
        let observation = Observation::begin(&self.shared.calls.list_models);
        let list = models::list(&self.shared.catalogue);
        observation.end(Code::Ok);
        Ok(Response::new(list))
    }

    async fn get_model(&self, request: Request<v1::GetModelRequest>) -> Result<Response<v1::GetModelResponse>, Status> {
        let observation = Observation::begin(&self.shared.calls.get_model);
        match models::find(&self.shared.catalogue, request.get_ref()) {
            Ok(found) => {
                observation.end(Code::Ok);
                Ok(Response::new(found))
            }
            Err(error) => Err(refuse(observation, &error, "")),
        }
    }
}

/// Ends a call that was never started.
fn refuse(observation: Observation, error: &Error, request_id: &str) -> Status {
    let (code, status) = (code(error), status(error, request_id));
    // What the client is told, which is bounded: the error itself is as long as the request is wrong.
    tracing::info!(request_id, code = code_name(code), cause = status.message(), "request refused");
    observation.end(code);
    status
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::validate::tests::{catalogue, limits};
    use crate::scheduler;

    fn service(max_requests: usize) -> Service {
        let second = Duration::from_secs(1);
        let bounds = scheduler::Limits {
            max_rows: 1,
            max_step: second,
            efficiency: 1.0,
            max_queued_images: 1,
            headroom: scheduler::Headroom { fraction: 0.0, most: second },
            brown_out: None,
            preview_share: 0.0,
            kept_bytes: 0,
        };
        let settings = Settings {
            limits: limits(),
            max_connections: 1,
            max_requests,
            max_streams_per_connection: 1,
            chunk_bytes: 1024,
            keepalive_interval: second,
            keepalive_timeout: second,
            stall: second,
        };
        let catalogue = catalogue();
        let (scheduler, _) = scheduler::channel(catalogue.models(), &bounds, 1, Arc::new(std::time::Instant::now));
        Service::new(catalogue, scheduler, settings)
    }

    #[tokio::test]
    async fn a_request_that_comes_while_the_server_stops_is_sent_elsewhere() {
        let service = service(1);
        let refused = || service.admit(&HeaderMap::new()).unwrap_err().code();
        let open = service.admit(&HeaderMap::new()).unwrap();
        assert_eq!(refused(), Code::ResourceExhausted);
        let mut idle = std::pin::pin!(service.idle());
        let early = tokio::time::timeout(Duration::ZERO, idle.as_mut()).await;
        assert!(early.is_err(), "a request is open");
        assert_eq!(refused(), Code::Unavailable);
        drop(open);
        idle.await;
    }
}
