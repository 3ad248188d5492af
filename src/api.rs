//! The network's edges: gRPC and HTTP, conversion with all validation, the only map from errors to a status.
