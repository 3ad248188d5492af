//! The HTTP edge: metrics and probes, on a port of its own that clients need not reach.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::http::header::{CONNECTION, CONTENT_TYPE};
use axum::http::{HeaderValue, StatusCode};
use axum::middleware::map_response;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::serve::Listener;
use metrics_exporter_prometheus::PrometheusHandle;
use tokio::net::TcpListener;
use tokio_stream::StreamExt;
use tokio_stream::wrappers::ReceiverStream;

use super::Readiness;
use super::accept::{Connection, Patience, accept};
use crate::error::{Error, Result};

/// Most connections at a time: probes and scrapes are few, and each is over in milliseconds.
const MAX_CONNECTIONS: usize = 64;
/// How long a connection may take for its only request and the answer.
const CONNECTION_TIMEOUT: Duration = Duration::from_secs(10);

/// Content type of the Prometheus text format.
const EXPOSITION: &str = "text/plain; version=0.0.4; charset=utf-8";

#[derive(Clone)]
struct Probed {
    readiness: Arc<Readiness>,
    metrics: PrometheusHandle,
}

/// Serves `/metrics`, `/healthz` (the process answers) and `/readyz` (requests are welcome) until it is dropped: it
/// outlives the gRPC edge, so that a drain can be watched. A connection carries one request.
///
/// # Errors
/// [`Error::Unavailable`] when the listener fails.
pub async fn serve_http(listener: TcpListener, readiness: Arc<Readiness>, metrics: PrometheusHandle) -> Result<()> {
    let router = Router::new()
        .route("/metrics", get(exposition))
        .route("/healthz", get(|| async { "alive\n" }))
        .route("/readyz", get(ready))
        .layer(map_response(only_one))
        .with_state(Probed { readiness, metrics });
    let failed = |e| Error::Unavailable(format!("the HTTP listener failed: {e}"));
    let address = listener.local_addr().map_err(failed)?;
    let connections = accept(listener, MAX_CONNECTIONS, Patience::Whole(CONNECTION_TIMEOUT));
    axum::serve(Incoming { connections, address }, router).await.map_err(failed)
}

/// Bounded connections, as axum takes them.
struct Incoming {
    connections: ReceiverStream<io::Result<Connection>>,
    address: SocketAddr,
}

impl Listener for Incoming {
    type Io = Connection;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Connection, SocketAddr) {
        loop {
            match self.connections.next().await {
                Some(Ok(connection)) => return (connection, self.address),
                Some(Err(_)) => (),
                // The stream ends with this listener only.
                None => std::future::pending().await,
            }
        }
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        Ok(self.address)
    }
}

async fn only_one(mut response: Response) -> Response {
    response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
    response
}

async fn exposition(State(probed): State<Probed>) -> impl IntoResponse {
    ([(CONTENT_TYPE, EXPOSITION)], probed.metrics.render())
}

async fn ready(State(probed): State<Probed>) -> (StatusCode, String) {
    match probed.readiness.check() {
        Ok(()) => (StatusCode::OK, "ready\n".into()),
        Err(reason) => (StatusCode::SERVICE_UNAVAILABLE, format!("{reason}\n")),
    }
}
