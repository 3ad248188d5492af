//! Checkpoints: bytes ↔ weights + manifest, and the repository of models by name and version.
//!
//! A checkpoint is a folder of two files: `config.json`, the [`Manifest`], and `model.safetensors`, the weights. The
//! manifest carries the BLAKE3 hash of the weights, so a pair that does not belong together is refused. Reading
//! trusts nothing: each size has a named bound, and what is wrong becomes an
//! [`Error::File`](crate::error::Error::File) that says what, where, and what to do.
//!
//! Whether the tensors are those that a network needs is known only once it is built: [`Weights`] hands them to the
//! builder of a network and reports everything missing, left over or of another shape at once.

pub mod atomic;
pub mod embedded;
pub mod manifest;
pub mod repository;
pub mod store;
pub mod tensors;
pub mod weights;

mod validate;

pub use manifest::{Architecture, DataSpec, Manifest, TimeConvention, TrainingRecord, WeightsRecord};
pub use repository::Repository;
pub use store::Checkpoint;
pub use tensors::Precision;
pub use weights::Weights;
