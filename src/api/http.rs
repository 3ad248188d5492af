//! The HTTP edge: metrics and probes, on a port of its own that clients need not reach.

use std::sync::Arc;

use axum::Router;
use axum::extract::State;
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::response::IntoResponse;
use axum::routing::get;
use metrics_exporter_prometheus::PrometheusHandle;
use tokio::net::TcpListener;

use super::Readiness;
use crate::error::{Error, Result};

/// Content type of the Prometheus text format.
const EXPOSITION: &str = "text/plain; version=0.0.4; charset=utf-8";

#[derive(Clone)]
struct Probed {
    readiness: Arc<Readiness>,
    metrics: PrometheusHandle,
}

/// Serves `/metrics`, `/healthz` (the process answers) and `/readyz` (requests are welcome) until it is dropped: it
/// outlives the gRPC edge, so that a drain can be watched.
///
/// # Errors
/// [`Error::Unavailable`] when the listener fails.
pub async fn serve_http(listener: TcpListener, readiness: Arc<Readiness>, metrics: PrometheusHandle) -> Result<()> {
    let router = Router::new()
        .route("/metrics", get(exposition))
        .route("/healthz", get(|| async { "alive\n" }))
        .route("/readyz", get(ready))
        .with_state(Probed { readiness, metrics });
    axum::serve(listener, router).await.map_err(|e| Error::Unavailable(format!("the HTTP listener failed: {e}")))
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
