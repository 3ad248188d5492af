//! Fewer steps for those who allow it, before anyone is refused.
//!
//! **The rule.** Steps are capped at a power of two, the largest under which the demand fits the devices: whoever asks
//! for most gives up first, which is the max-min fair division. Between two caps a fraction of the requests gets the
//! lower one, so that demand meets the devices' capacity exactly and no more is given up than must be.
//!
//! **Why it does not oscillate.** Demand is what requests *ask* for, not what they get: nothing that the controller
//! does changes its own input. It is the sum of their densities, each one's work divided by the time that it has
//! (the utilisation test of real-time scheduling: Liu, Layland 1973), where a request counts until that time is over,
//! and for no less than a [`window`](super::limits::BrownOutLimits::window), which makes the sum calm. So a large job
//! with time to spare is no overload, and an overload is forgotten soon after it is gone. A backlog that nobody's
//! deadline presses counts as if it had to be gone within [`PATIENCE`].

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::time::{Duration, Instant};

use super::limits::BrownOutLimits;

/// The caps, from the one that caps nothing (256 is the most that a step count is worth distinguishing).
const CAPS: [u32; 9] = [256, 128, 64, 32, 16, 8, 4, 2, 1];

/// How long a backlog may take that no deadline presses; and the longest that a request counts beside it.
const PATIENCE: Duration = Duration::from_secs(10);

/// Densities are counted in parts of a billion.
const DENSITY_UNIT: f64 = 1e9;

/// The golden ratio's fraction: its multiples are spread evenly and follow no pattern that arrivals could have.
const GOLDEN: f64 = 0.618_033_988_749_894_9;

/// Watches demand and caps steps.
#[derive(Debug)]
pub(super) struct BrownOut {
    limits: Option<BrownOutLimits>,
    /// Device seconds a second that are asked for, at each cap.
    density: [f64; CAPS.len()],
    /// The requests that count, by when they cease to.
    counted: BinaryHeap<Reverse<Counted>>,
}

/// A request that counts until a time: the density of a step in [`DENSITY_UNIT`]s, steps, fewest steps. Whole numbers
/// are ordered, and what was added is taken away again.
type Counted = (Instant, u64, u32, u32);

/// What a request asks for.
#[derive(Debug, Clone, Copy)]
pub(super) struct Demand {
    /// Device seconds that one step of all its images takes.
    pub(super) seconds_per_step: f64,
    /// Steps asked for.
    pub(super) steps: u32,
    /// The fewest that it allows.
    pub(super) min_steps: u32,
    /// Within what it wants to be done.
    pub(super) within: Duration,
}

/// How far steps are given up.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Level {
    /// The cap of those who are spared; `u32::MAX` for none.
    pub(super) cap: u32,
    /// The cap of the others.
    pub(super) lower: u32,
    /// The others, as a fraction.
    pub(super) fraction: f64,
}

impl Level {
    /// Nothing is given up.
    pub(super) const FULL: Self = Self { cap: u32::MAX, lower: u32::MAX, fraction: 0.0 };

    /// Steps of request `number`, which asks for `steps` and allows `min_steps`.
    pub(super) fn steps(self, number: u64, steps: u32, min_steps: u32) -> u32 {
        let place = (number as f64 * GOLDEN).fract();
        let cap = if place < self.fraction { self.lower } else { self.cap };
        steps.min(cap.max(min_steps))
    }

    /// The mean cap, on a scale of its powers of two; infinite for none.
    pub(super) fn mean_cap(self) -> f64 {
        if self == Self::FULL {
            return f64::INFINITY;
        }
        let log = |cap: u32| f64::from(cap).log2();
        (log(self.cap) + self.fraction * (log(self.lower) - log(self.cap))).exp2()
    }
}

impl BrownOut {
    /// A controller without demand; one without limits caps nothing.
    pub(super) fn new(limits: Option<BrownOutLimits>) -> Self {
        Self { limits, density: [0.0; CAPS.len()], counted: BinaryHeap::new() }
    }

    /// Takes in that a request has come.
    pub(super) fn arrive(&mut self, demand: Demand, now: Instant) {
        let Some(limits) = self.limits else { return };
        let within = demand.within.max(limits.window).max(Duration::from_millis(1));
        let per_step = demand.seconds_per_step / within.as_secs_f64() * DENSITY_UNIT;
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "a float saturates; it is positive"
        )]
        let per_step = per_step.round() as u64;
        let floor = demand.min_steps.max(limits.min_steps);
        let counted = (now + within.min(PATIENCE), per_step, demand.steps, floor);
        self.add(&counted, 1.0);
        self.counted.push(Reverse(counted));
    }

    /// How far steps are given up now, by `devices` devices that have `backlog` seconds of work before them.
    pub(super) fn level(&mut self, devices: usize, backlog: f64, now: Instant) -> Level {
        let Some(limits) = self.limits else { return Level::FULL };
        self.forget(now);
        let capacity = limits.utilisation * devices as f64;
        let whole = self.density[0].max(f64::MIN_POSITIVE);
        let demand = self.density.map(|density| density + backlog / PATIENCE.as_secs_f64() * density / whole);
        if demand[0] <= capacity {
            return Level::FULL;
        }
        for (caps, demand) in CAPS.windows(2).zip(demand.windows(2)) {
            if demand[1] <= capacity {
                let fraction = (demand[0] - capacity) / (demand[0] - demand[1]);
                return bounded(Level { cap: caps[0], lower: caps[1], fraction }, limits.min_steps);
            }
        }
        bounded(Level { cap: 1, lower: 1, fraction: 0.0 }, limits.min_steps)
    }

    /// Forgets requests whose time is over.
    fn forget(&mut self, now: Instant) {
        while let Some(Reverse(counted)) = self.counted.peek().copied().filter(|Reverse((until, ..))| *until <= now) {
            self.counted.pop();
            self.add(&counted, -1.0);
        }
        if self.counted.is_empty() {
            self.density = [0.0; CAPS.len()];
        }
    }

    fn add(&mut self, &(_, per_step, steps, floor): &Counted, sign: f64) {
        for (density, cap) in self.density.iter_mut().zip(CAPS) {
            *density += sign * per_step as f64 * f64::from(steps.min(cap.max(floor))) / DENSITY_UNIT;
        }
    }
}

fn bounded(level: Level, min_steps: u32) -> Level {
    Level { cap: level.cap.max(min_steps), lower: level.lower.max(min_steps), ..level }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: BrownOutLimits =
        BrownOutLimits { utilisation: 1.0, window: Duration::from_millis(400), min_steps: 1 };
    /// Device seconds of a step.
    const STEP: f64 = 1e-3;

    /// Requests of 1, 2, 4 and 8 steps in turn at `per_second`, for two seconds; the controller and the time.
    fn loaded(per_second: u32, min_steps: u32) -> (BrownOut, Instant) {
        let (mut controller, mut now) = (BrownOut::new(Some(LIMITS)), Instant::now());
        for i in 0..2 * per_second {
            now += Duration::from_secs(1) / per_second;
            let steps = 1 << (i % 4);
            let within = Duration::from_millis(100);
            controller.arrive(Demand { seconds_per_step: STEP, steps, min_steps, within }, now);
        }
        (controller, now)
    }

    /// Mean steps of requests of 1, 2, 4 and 8 steps.
    fn mean(level: Level) -> f64 {
        let all = (0..4000u64).map(|i| level.steps(i, 1 << (i % 4), 1));
        all.map(f64::from).sum::<f64>() / 4000.0
    }

    #[test]
    fn nothing_is_given_up_while_all_fits() {
        let (mut controller, now) = loaded(240, 1);
        assert_eq!(controller.level(1, 0.0, now), Level::FULL);
        assert_eq!(Level::FULL.steps(7, 8, 1), 8);
    }

    #[test]
    fn what_is_given_is_what_the_devices_can_do() {
        // At 3.75 steps a request one device is full at 267 requests a second.
        for (rate, devices) in [(300, 1), (400, 1), (700, 1), (700, 2)] {
            let (mut controller, now) = loaded(rate, 1);
            let level = controller.level(devices, 0.0, now);
            let used = f64::from(rate) * mean(level) * STEP / devices as f64;
            assert!((used - 1.0).abs() < 0.05, "{rate}: {used} {level:?}");
        }
    }

    #[test]
    fn who_asks_for_most_gives_up_first() {
        let (mut controller, now) = loaded(300, 1);
        let level = controller.level(1, 0.0, now);
        assert_eq!((level.cap, level.lower), (8, 4));
        assert!((0..100).all(|i| level.steps(i, 4, 1) == 4));
        assert!((0..100).any(|i| level.steps(i, 8, 1) == 4) && (0..100).any(|i| level.steps(i, 8, 1) == 8));
        assert!((0..100).all(|i| level.steps(i, 8, 6) >= 6));
    }

    #[test]
    fn beyond_everything_each_gets_its_least() {
        let (mut controller, now) = loaded(5000, 1);
        let level = controller.level(1, 0.0, now);
        assert_eq!((level.steps(3, 8, 1), level.steps(3, 8, 3), level.mean_cap()), (1, 3, 1.0));
    }

    #[test]
    fn it_recovers_within_a_second() {
        let (mut controller, now) = loaded(800, 1);
        assert_ne!(controller.level(1, 0.0, now), Level::FULL);
        assert_eq!(controller.level(1, 0.0, now + Duration::from_secs(1)), Level::FULL);
    }

    #[test]
    fn a_steady_load_gets_a_steady_level() {
        let (mut controller, mut now) = loaded(400, 1);
        let mut caps = Vec::new();
        for i in 0..4000u32 {
            now += Duration::from_micros(2500);
            let (steps, within) = (1 << (i % 4), Duration::from_millis(100));
            controller.arrive(Demand { seconds_per_step: STEP, steps, min_steps: 1, within }, now);
            caps.push(controller.level(1, 0.0, now).mean_cap());
        }
        let (least, most) = caps.iter().fold((f64::MAX, 0.0f64), |(a, b), &cap| (a.min(cap), b.max(cap)));
        assert!(most / least < 1.1, "{least} {most}");
    }

    #[test]
    fn a_large_job_with_time_is_no_overload_but_a_long_queue_is() {
        let (mut controller, now) = (BrownOut::new(Some(LIMITS)), Instant::now());
        let within = Duration::from_secs(300);
        controller.arrive(Demand { seconds_per_step: 1.0, steps: 8, min_steps: 1, within }, now);
        assert_eq!(controller.level(1, 3.0, now), Level::FULL);
        assert!(controller.level(1, 30.0, now).cap <= 8);
    }

    #[test]
    fn switched_off_it_caps_nothing() {
        let (mut controller, now) = (BrownOut::new(None), Instant::now());
        let within = Duration::from_millis(1);
        controller.arrive(Demand { seconds_per_step: 100.0, steps: 8, min_steps: 1, within }, now);
        assert_eq!(controller.level(1, 100.0, now), Level::FULL);
    }
}
