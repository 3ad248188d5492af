//! The network's edges: gRPC and HTTP, conversion with all validation, the only map from errors to a status.
//!
//! A request is parsed once, into a [`Job`](crate::domain::Job) that cannot be wrong or into every violation; the
//! scheduler takes it from there. This is the only room that knows tonic.

mod accept;
mod admission;
mod arrival;
mod catalogue;
pub mod client;
mod encode;
mod events;
mod gather;
mod generate;
mod http;
mod models;
mod observe;
pub mod proto;
mod readiness;
mod responses;
mod server;
mod service;
mod settings;
mod status;
mod validate;

pub use catalogue::Catalogue;
pub use client::Client;
pub use http::serve_http;
pub use readiness::Readiness;
pub use server::{bind, serve_grpc};
pub use service::Service;
pub use settings::{Limits, Settings};
