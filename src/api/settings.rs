//! What the API room is configured with.

use std::time::Duration;

/// Bounds on a single request, checked before anything is allocated for it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// Most images of a request.
    pub max_count: u32,
    /// Most steps of a time grid.
    pub max_steps: u32,
    /// Most network evaluations of a request, over all of its images.
    pub max_evaluations: u64,
    /// Longest that a request may live, whatever its client allows.
    pub max_deadline: Duration,
    /// Largest request message but for its framing, in bytes.
    pub max_request_bytes: usize,
}

/// Settings of the gRPC edge.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// Bounds on a single request.
    pub limits: Limits,
    /// Most connections at a time.
    pub max_connections: usize,
    /// Most generation requests at a time, over all connections.
    pub max_requests: usize,
    /// Most streams at a time on one connection.
    pub max_streams_per_connection: u32,
    /// Largest piece of an image in one message, in bytes.
    pub chunk_bytes: usize,
    /// A connection that is silent for this long is asked for a sign of life.
    pub keepalive_interval: Duration,
    /// A connection that gives none for this long is closed.
    pub keepalive_timeout: Duration,
    /// A client that takes no message for this long while one waits is cut off.
    pub stall: Duration,
}
