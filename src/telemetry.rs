//! Tracing and the one table of metrics.
