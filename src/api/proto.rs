//! The wire contract of `proto/flowmap/v1/generation.proto`, generated: messages, client and server.
//!
//! Rust programs that call a server use [`api::Client`](super::Client), which joins the pieces of images and turns a
//! status into the crate's error.

use std::time::Duration;

use crate::domain::{Priority, Sampler};

/// Version 1 of the contract, documented in the proto file.
pub mod v1 {
    #![allow(missing_docs, clippy::all, clippy::too_many_lines, rustdoc::all)]
    tonic::include_proto!("flowmap.v1");
}

/// The contract as an encoded `google.protobuf.FileDescriptorSet`, for reflection.
pub const FILE_DESCRIPTOR_SET: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/flowmap.v1.bin"));

/// Name of the service on the wire, as health checks name it.
pub const SERVICE_NAME: &str = v1::generation_service_server::SERVICE_NAME;

/// The null class among labels.
pub const NULL_LABEL: i32 = -1;

/// A duration as the contract tells it.
pub fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

impl From<Sampler> for v1::Sampler {
    fn from(sampler: Sampler) -> Self {
        match sampler {
            Sampler::FlowMap => Self::FlowMap,
            Sampler::Euler => Self::Euler,
            Sampler::Heun => Self::Heun,
            Sampler::Gamma(_) => Self::Gamma,
        }
    }
}

impl From<Priority> for v1::Priority {
    fn from(priority: Priority) -> Self {
        match priority {
            Priority::Low => Self::Low,
            Priority::Normal => Self::Normal,
            Priority::High => Self::High,
        }
    }
}
