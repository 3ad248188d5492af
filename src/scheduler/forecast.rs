//! Whether a job can be finished in time, before it is taken.
//!
//! Jobs are served by deadline where it matters, so a job's finish depends on the work of earlier deadlines alone: the
//! evaluations without which those cannot end, since all others give way. The forecast is a pure function of that work
//! and of what forwards cost.

use std::time::Instant;

use super::time;

/// What the devices of a queue can do.
#[derive(Debug, Clone, Copy)]
pub(super) struct Forecast {
    /// When the first device is free.
    pub(super) free: Instant,
    /// Device rows of a forward on each device.
    pub(super) rows: u64,
    /// Devices.
    pub(super) devices: u64,
    /// From one full forward to the next, in seconds, the turns of other models included.
    pub(super) cycle: f64,
    /// What of it does not depend on the rows, in seconds.
    pub(super) base: f64,
}

/// A job as a forecast sees it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Shape {
    /// Device rows of one evaluation of all its images.
    pub(super) width: u64,
    /// Evaluations of each image, one after the other.
    pub(super) depth: u64,
}

impl Forecast {
    /// When a job would be finished that `ahead` device rows precede.
    pub(super) fn finish(&self, ahead: u64, job: Shape) -> Instant {
        let full = (self.rows * self.devices).max(1);
        let depth = job.depth.max((job.width * job.depth).div_ceil(full));
        let forwards = if ahead + job.width <= full {
            // All share forwards that are not full.
            let share = (ahead + job.width).div_ceil(self.devices.max(1)) as f64 / self.rows.max(1) as f64;
            (self.base + share * (self.cycle - self.base)) * depth as f64
        } else {
            ((ahead / full) + depth) as f64 * self.cycle
        };
        self.after(forwards)
    }

    /// When `work` device rows would be done.
    pub(super) fn done(&self, work: u64) -> Instant {
        let full = (self.rows * self.devices).max(1);
        self.after(work.div_ceil(full) as f64 * self.cycle)
    }

    fn after(&self, seconds: f64) -> Instant {
        self.free + time::seconds(seconds)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn forecast(devices: u64) -> Forecast {
        Forecast { free: Instant::now(), rows: 32, devices, cycle: 0.012, base: 0.004 }
    }

    fn ms(devices: u64, ahead: u64, width: u64, depth: u64) -> u128 {
        let forecast = forecast(devices);
        (forecast.finish(ahead, Shape { width, depth }) - forecast.free).as_micros() / 10
    }

    #[test]
    fn alone_a_job_takes_its_steps_and_shares_what_is_not_full() {
        assert_eq!(ms(1, 0, 1, 1), 425);
        assert_eq!(ms(1, 0, 1, 8), 3400);
        assert_eq!(ms(1, 15, 1, 1), 800);
        assert_eq!(ms(2, 15, 1, 1), 600);
    }

    #[test]
    fn behind_others_it_waits_for_full_forwards() {
        assert_eq!(ms(1, 32, 1, 1), 2400);
        assert_eq!(ms(1, 100, 1, 2), (3 + 2) * 1200);
        assert_eq!(ms(2, 100, 1, 2), (1 + 2) * 1200);
    }

    #[test]
    fn many_images_take_more_than_their_depth() {
        assert_eq!(ms(1, 0, 320, 1), 10 * 1200);
        assert_eq!(ms(1, 0, u64::from(u32::MAX), 256) / 100_000, 31_536_000, "never");
    }
}
