//! What bounds the scheduler, and what it may give up.

use std::time::{Duration, Instant};

/// Bounds and policy of the scheduler.
#[derive(Debug, Clone)]
pub struct Limits {
    /// Rows in one forward; an image under two-call guidance counts as two.
    pub max_rows: usize,
    /// How long one forward may be predicted to take. A newcomer, a deadline or a cancellation waits for the device
    /// that long at most; a newcomer for one forward of each other model that has work, too. At least one image is
    /// always evaluated.
    pub max_step: Duration,
    /// The throughput that a forward must reach, as a fraction of that of the largest: forwards have as few rows as
    /// reach it, because a short forward is what newcomers, deadlines, previews and cancellations wait for. Where more
    /// is asked of the devices than they can do, the rest is reduced to a quarter of what is missing.
    pub efficiency: f64,
    /// Images that are waiting, in flight, or finished but not yet taken.
    pub max_queued_images: usize,
    /// What is kept free of the time from admission to deadline, for encoding, the network, and what was not foreseen.
    pub headroom: Headroom,
    /// How steps are given up under overload; `None` for not at all.
    pub brown_out: Option<BrownOutLimits>,
    /// Share of a forward's rows that previews may add, as a fraction of the rows that were there; always one row.
    pub preview_share: f64,
    /// Memory for the states from which finished images can be continued, in bytes.
    pub kept_bytes: usize,
}

/// The part of a request's time that is not planned with.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Headroom {
    /// As a fraction of the time from admission to deadline.
    pub fraction: f64,
    /// At most this.
    pub most: Duration,
}

impl Headroom {
    /// When a job that was admitted at `admitted` should be finished, to be with its client by `deadline`.
    pub(super) fn target(&self, admitted: Instant, deadline: Instant) -> Instant {
        let whole = deadline.saturating_duration_since(admitted);
        let free = whole.mul_f64(self.fraction.clamp(0.0, 1.0)).min(self.most);
        deadline.checked_sub(free).unwrap_or(deadline)
    }
}

/// When steps are given up under overload.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct BrownOutLimits {
    /// The utilisation of the devices, `0 ..= 1`, beyond which requests get fewer steps.
    pub utilisation: f64,
    /// How far back demand is measured. Longer is calmer, shorter recovers sooner.
    pub window: Duration,
    /// The fewest steps that overload may leave a request, whatever it would allow.
    pub min_steps: u32,
}
