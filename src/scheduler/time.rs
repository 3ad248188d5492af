//! Times that never overflow, whatever was measured or asked for.

use std::time::Duration;

/// A year: never, and safe to add to any instant.
pub(super) const NEVER: Duration = Duration::from_secs(365 * 86_400);

/// `seconds`, at least nothing and at most [`NEVER`].
pub(super) fn seconds(seconds: f64) -> Duration {
    Duration::try_from_secs_f64(seconds.max(0.0)).map_or(NEVER, |time| time.min(NEVER))
}

/// `duration` times `count`, at most [`NEVER`].
pub(super) fn times(duration: Duration, count: u64) -> Duration {
    let product = duration.checked_mul(u32::try_from(count).unwrap_or(u32::MAX));
    product.map_or(NEVER, |product| product.min(NEVER))
}
