//! Measures: how good the samples of a checkpoint are.
