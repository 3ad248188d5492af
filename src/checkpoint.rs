//! Checkpoints: bytes ↔ weights + manifest, and the repository of models by name and version.

pub mod manifest;

pub use manifest::{Architecture, Manifest};
