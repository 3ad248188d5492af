//! In front of the service: what must be decided before a request's body is read.
//!
//! tonic reads and decodes a message before it calls the service, for as long as its client likes. So a generation
//! request is counted, takes its place, and has its time begun here, from its headers alone.

use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};

use axum::http::{Request, Response};
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::timeout_at;
use tonic::body::Body;
use tonic::server::NamedService;
use tonic::{Code, Status};

use super::arrival::Arrival;
use super::observe::Observation;
use super::service::Service;
use super::status::status;
use crate::error::Error;

/// The only method whose calls are more than a look into memory.
const GENERATE: &str = "/flowmap.v1.GenerationService/Generate";

/// The generated server `S` behind the admission of [`Service`].
#[derive(Debug, Clone)]
pub(super) struct Admission<S> {
    pub(super) service: Service,
    pub(super) inner: S,
}

/// What a request holds from its headers on.
#[derive(Debug)]
pub(super) struct Admitted {
    pub(super) observation: Observation,
    pub(super) arrival: Arrival,
    pub(super) permit: OwnedSemaphorePermit,
}

/// Carries what a request holds past tonic, among its extensions.
#[derive(Debug, Clone)]
pub(super) struct Seat(Arc<Mutex<Option<Admitted>>>);

impl Seat {
    fn new(admitted: Admitted) -> Self {
        Self(Arc::new(Mutex::new(Some(admitted))))
    }

    /// Once.
    pub(super) fn take(&self) -> Option<Admitted> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// Ends a call that the service never saw.
    fn end(&self, code: Code) {
        if let Some(admitted) = self.take() {
            admitted.observation.end(code);
        }
    }
}

impl<S: NamedService> NamedService for Admission<S> {
    const NAME: &'static str = S::NAME;
}

impl<S> tower_service::Service<Request<Body>> for Admission<S>
where
    S: tower_service::Service<Request<Body>, Response = Response<Body>, Error = Infallible>,
    S::Future: Send + 'static,
{
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Body>, Infallible>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request<Body>) -> Self::Future {
        if request.uri().path() != GENERATE {
            return Box::pin(self.inner.call(request));
        }
        let admitted = match self.service.admit(request.headers()) {
            Ok(admitted) => admitted,
            Err(refusal) => return Box::pin(std::future::ready(Ok(refusal.into_http()))),
        };
        let (until, name) = (admitted.arrival.answer_until(self.service.settings()), admitted.arrival.name());
        let seat = Seat::new(admitted);
        request.extensions_mut().insert(seat.clone());
        let answer = self.inner.call(request);
        Box::pin(async move {
            let Ok(answer) = timeout_at(until.into(), answer).await else {
                seat.end(Code::DeadlineExceeded);
                return Ok(status(&Error::DeadlineExceeded, &name).into_http());
            };
            if let Ok(response) = &answer {
                // Has an effect only where the message did not decode.
                seat.end(Status::from_header_map(response.headers()).map_or(Code::Unknown, |status| status.code()));
            }
            answer
        })
    }
}
