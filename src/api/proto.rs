//! The wire contract of `proto/flowmap/v1/generation.proto`, generated: messages, client and server.
//!
//! Rust programs that call a server use [`GenerationServiceClient`](v1::generation_service_client::GenerationServiceClient).

/// Version 1 of the contract, documented in the proto file.
pub mod v1 {
    #![allow(missing_docs, clippy::all, clippy::too_many_lines, rustdoc::all)]
    tonic::include_proto!("flowmap.v1");
}

/// The contract as an encoded `google.protobuf.FileDescriptorSet`, for reflection.
pub const FILE_DESCRIPTOR_SET: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/flowmap.v1.bin"));

/// Name of the service on the wire, as health checks name it.
pub const SERVICE_NAME: &str = v1::generation_service_server::SERVICE_NAME;
