//! Training: objectives, optimisers, the loop and its state on disk.
