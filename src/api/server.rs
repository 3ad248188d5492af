//! The gRPC edge: listeners, transport limits, and the services behind them.

use std::future::Future;
use std::net::SocketAddr;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio_stream::StreamExt;
use tonic::transport::Server;

use super::accept::{Patience, accept};
use super::admission::Admission;
use super::gather::Gathering;
use super::proto::FILE_DESCRIPTOR_SET;
use super::proto::v1::generation_service_server::GenerationServiceServer;
use super::readiness::Readiness;
use super::service::Service;
use super::settings::Settings;
use crate::error::{Error, Result};

/// What a request message may be beyond its initial states: the other fields and the framing.
const MESSAGE_OVERHEAD_BYTES: usize = 64 * 1024;
/// Largest set of request headers. Ours are a few hundred bytes; tokens and tracing headers of proxies come on top.
const MAX_HEADER_BYTES: u32 = 16 * 1024;
/// Streams of a connection that its client reset before they were looked at; more closes the connection, which ends
/// a rapid-reset attack.
const MAX_PENDING_RESETS: usize = 32;

/// How long a connection may take to say that it speaks HTTP/2; from then on keepalive watches over it.
const PREFACE_TIMEOUT: Duration = Duration::from_secs(10);
/// What it says: `PRI * HTTP/2.0` and some blank lines.
const PREFACE_BYTES: usize = 24;

/// Opens a listener; port 0 lets the system choose.
///
/// # Errors
/// [`Error::Config`] when the address, told as the setting `key`, cannot be had.
pub async fn bind(key: &str, address: SocketAddr) -> Result<(TcpListener, SocketAddr)> {
    let refused = |e: std::io::Error| Error::Config(vec![format!("{key} = {address}: cannot listen there: {e}")]);
    let listener = TcpListener::bind(address).await.map_err(refused)?;
    let bound = listener.local_addr().map_err(refused)?;
    Ok((listener, bound))
}

/// Serves the generation service, health checks and reflection, until `stop` resolves; then no connection is accepted,
/// and this returns when the streams that are open have ended, however long that takes.
///
/// # Errors
/// [`Error::Unavailable`] when the transport fails.
pub async fn serve_grpc(
    listener: TcpListener,
    service: Service,
    readiness: &Readiness,
    stop: impl Future<Output = ()>,
) -> Result<()> {
    let failed = |e: &dyn std::fmt::Display| Error::Unavailable(format!("the gRPC transport failed: {e}"));
    let settings = service.settings().clone();
    let incoming = accept(listener, settings.max_connections, Patience::Opening(PREFACE_BYTES, PREFACE_TIMEOUT));
    let incoming = incoming.map(|connection| connection.map(Gathering::new));
    let reflection = || {
        tonic_reflection::server::Builder::configure()
            .register_encoded_file_descriptor_set(FILE_DESCRIPTOR_SET)
            .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
            // The details of errors, so that tools can show them.
            .register_encoded_file_descriptor_set(tonic_types::pb::FILE_DESCRIPTOR_SET)
    };
    let largest_message = settings.limits.max_request_bytes.saturating_add(MESSAGE_OVERHEAD_BYTES);
    let inner = GenerationServiceServer::new(service.clone()).max_decoding_message_size(largest_message);
    let generation = Admission { service, inner };
    transport(&settings)
        .add_service(generation)
        .add_service(readiness.health_service())
        .add_service(reflection().build_v1().map_err(|e| failed(&e))?)
        .add_service(reflection().build_v1alpha().map_err(|e| failed(&e))?)
        .serve_with_incoming_shutdown(incoming, stop)
        .await
        .map_err(|e| failed(&e))
}

fn transport(settings: &Settings) -> Server {
    Server::builder()
        .http2_keepalive_interval(Some(settings.keepalive_interval))
        .http2_keepalive_timeout(Some(settings.keepalive_timeout))
        .max_concurrent_streams(settings.max_streams_per_connection)
        .http2_max_header_list_size(MAX_HEADER_BYTES)
        .http2_max_pending_accept_reset_streams(Some(MAX_PENDING_RESETS))
}
