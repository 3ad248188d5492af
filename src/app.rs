//! The composition root: configuration → channels, workers, listeners.
