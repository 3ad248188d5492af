//! Admission, queue, choice of batches, deadlines, cancellation, fan-out: pure, synchronous, `now` is an argument.
