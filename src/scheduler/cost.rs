//! What a forward costs: `base + per_row · n` seconds for `n` rows, fitted while serving.
//!
//! Measurements are kept as one point (mean rows, mean seconds, weight) per power of two of `n`, and the line is the
//! least-squares fit of the relative errors through these points. Three properties follow:
//!
//! - **robust**: a measurement counts for at most `CLIP` times, at least 1/`CLIP` of what its point expects, so
//!   one forward disturbed by the operating system moves the line by little, while a lasting change by any factor is
//!   followed within a few dozen forwards;
//! - **forgetting**: within a point by an exponential mean of `POINT_MEMORY` forwards, between points by weights that
//!   decay over `LINE_MEMORY` forwards;
//! - **determined**: weights never fall below `LEAST_WEIGHT`, so the sizes seen in calibration keep the slope
//!   known even when all traffic has the same size, where a plain recursive fit would drift apart.
//!
//! Promises are made from a line that few forwards exceed: the fitted one, times a quantile of how far the last
//! `RESIDUALS` forwards were from it.

use std::collections::VecDeque;
use std::time::Duration;

/// How far one measurement may lie from what is expected, as a factor.
const CLIP: f64 = 2.0;

/// Forwards over which a point averages.
const POINT_MEMORY: f64 = 16.0;

/// Forwards over which a size that is no longer seen loses its say.
const LINE_MEMORY: f64 = 64.0;

/// Weight of a size that has not been seen for long, in measurements: enough to keep the slope, too little to hold the
/// line back when the whole device becomes slower.
const LEAST_WEIGHT: f64 = 1.0 / 64.0;

/// One forward in so many has more rows than it need have.
const EXPLORED: u32 = 32;

/// Forwards whose distance from the line is remembered.
const RESIDUALS: usize = 64;

/// Part of the forwards that a promise must hold for.
const PROMISED: f64 = 0.9;

/// The most that a promise may exceed the fitted line: beyond that a machine is not noisy but ill.
const MOST_CAUTION: f64 = 2.0;

/// Below a nanosecond nothing is measured; keeps ratios finite.
const SHORTEST_SECONDS: f64 = 1e-9;

/// `base + per_row · n`.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Line {
    /// Seconds that a forward takes whatever its size.
    pub base: f64,
    /// Seconds that each row adds.
    pub per_row: f64,
}

/// Measurements of one model's forwards and the line through them.
#[derive(Debug, Clone, Default)]
pub struct Cost {
    /// Entry `i` holds forwards of `2^i ..= 2^(i+1) - 1` rows.
    points: Vec<Point>,
    line: Line,
    /// What the last forwards took, as multiples of what the line said before.
    residuals: VecDeque<f64>,
    /// What promises multiply the line by.
    caution: f64,
    /// Forwards that were measured.
    forwards: u32,
}

#[derive(Debug, Clone, Copy, Default)]
struct Point {
    rows: f64,
    seconds: f64,
    /// Measurements it stands for, with forgetting; 0 before the first.
    weight: f64,
}

impl Cost {
    /// Takes in that a forward of `rows` rows took `elapsed`.
    pub fn observe(&mut self, rows: usize, elapsed: Duration) {
        self.compare(rows, elapsed);
        self.forwards = self.forwards.wrapping_add(1);
        let index = rows.max(1).ilog2() as usize;
        if self.points.len() <= index {
            self.points.resize(index + 1, Point::default());
        }
        for point in self.points.iter_mut().filter(|point| point.weight > 0.0) {
            point.weight = (point.weight * (1.0 - 1.0 / LINE_MEMORY)).max(LEAST_WEIGHT);
        }
        let (rows, seconds) = (rows as f64, elapsed.as_secs_f64().max(SHORTEST_SECONDS));
        let change = self.points[index].observe(rows, seconds, self.line);
        // A device that becomes slower at one size does so at all: sizes that are seen less often follow.
        let weight = self.points[index].weight;
        let others = self.points.iter_mut().enumerate().filter(|(other, point)| *other != index && point.weight > 0.0);
        others.for_each(|(_, point)| point.seconds *= change.powf((1.0 - point.weight / weight).max(0.0)));
        self.line = fit(&self.points);
    }

    /// A cost that is known and never changes by itself.
    pub fn known(line: Line) -> Self {
        let mut cost = Self::default();
        for rows in [1, 2, 4, 8, 16, 32, 64, 128] {
            cost.observe(rows, Duration::from_secs_f64(line.at(rows as f64)));
        }
        cost.residuals.clear();
        cost
    }

    /// The line at present; zero before the first measurement.
    pub fn line(&self) -> Line {
        self.line
    }

    /// Seconds that a forward of `rows` rows is expected to take.
    pub(super) fn expected(&self, rows: usize) -> f64 {
        self.line.at(rows as f64)
    }

    /// Seconds that few forwards of `rows` rows exceed.
    pub(super) fn promised(&self, rows: usize) -> f64 {
        self.expected(rows) * self.caution()
    }

    /// What promises multiply the line by: at least 1.
    pub(super) fn caution(&self) -> f64 {
        self.caution.clamp(1.0, MOST_CAUTION)
    }

    /// The part `quantile` of the last forwards took at most this multiple of what was expected; 1 before the first.
    pub(super) fn residual(&self, quantile: f64) -> f64 {
        let mut sorted: Vec<f64> = self.residuals.iter().copied().collect();
        sorted.sort_unstable_by(f64::total_cmp);
        let place = (quantile * (sorted.len().max(1) - 1) as f64).round();
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "a float saturates, then is bounded"
        )]
        sorted.get(place as usize).copied().unwrap_or(1.0)
    }

    /// The fewest of at most `rows` rows whose throughput is at least the part `efficiency` of that of `rows`.
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a float saturates, then is bounded")]
    pub(super) fn economical(&self, rows: usize, efficiency: f64) -> usize {
        let (Line { base, per_row }, most) = (self.line, rows as f64);
        // n / (base + n per_row) >= efficiency most / (base + most per_row), solved for n.
        let whole = base + per_row * most;
        if whole <= 0.0 || efficiency >= 1.0 {
            return rows.max(1);
        }
        let fewest = efficiency * base * most / (whole - efficiency * per_row * most).max(SHORTEST_SECONDS * 1e-3);
        (fewest.ceil() as usize).clamp(1, rows.max(1))
    }

    /// Rows for the next forward, where `economical` would do and at most `most` are possible: now and then twice as
    /// many. Forwards that are all of one size tell nothing of the slope, and a line that was wrong once, on a machine
    /// that was disturbed when it started, would keep them at that size for ever.
    pub(super) fn explored(&self, economical: usize, most: usize) -> usize {
        let is_due = self.forwards.is_multiple_of(EXPLORED);
        if is_due { (2 * economical).min(most).max(economical) } else { economical }
    }

    /// Remembers how far a forward was from the line, once there is one.
    fn compare(&mut self, rows: usize, elapsed: Duration) {
        if self.points.is_empty() {
            return;
        }
        if self.residuals.len() == RESIDUALS {
            self.residuals.pop_front();
        }
        self.residuals.push_back(elapsed.as_secs_f64() / self.expected(rows));
        self.caution = self.residual(PROMISED);
    }

    /// The largest forward of at most `max_rows` rows that is predicted to take no longer than `max_step`; at least 1.
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a float saturates, then is bounded")]
    pub(super) fn rows_within(&self, max_step: Duration, max_rows: usize) -> usize {
        let Line { base, per_row } = self.line;
        let spare = max_step.as_secs_f64() - base;
        let fitting = if spare < 0.0 { 1 } else { (spare / per_row.max(SHORTEST_SECONDS * 1e-3)) as usize };
        fitting.clamp(1, max_rows.max(1))
    }
}

impl Point {
    /// Takes in a measurement. Returns by what factor the point has risen against `line`.
    fn observe(&mut self, rows: f64, seconds: f64, line: Line) -> f64 {
        if self.weight == 0.0 {
            *self = Self { rows, seconds, weight: 1.0 };
            return 1.0;
        }
        let before = self.seconds / line.at(self.rows);
        let expected = self.seconds * line.at(rows) / line.at(self.rows);
        let seconds = seconds.clamp(expected / CLIP, expected * CLIP);
        self.weight += 1.0;
        let gain = (1.0 / self.weight).max(1.0 / POINT_MEMORY);
        self.rows += gain * (rows - self.rows);
        self.seconds += gain * (seconds - self.seconds);
        self.seconds / line.at(self.rows) / before
    }
}

impl Line {
    /// Seconds of a forward of `rows` rows.
    pub(super) fn at(self, rows: f64) -> f64 {
        (self.base + self.per_row * rows).max(SHORTEST_SECONDS)
    }
}

/// Minimises `Σ w ((base + per_row n) / y - 1)²` over lines that rise from a base that is not negative.
fn fit(points: &[Point]) -> Line {
    let mut sums = [0.0; 5];
    for point in points.iter().filter(|point| point.weight > 0.0) {
        let (u, v) = (1.0 / point.seconds, point.rows / point.seconds);
        for (sum, term) in sums.iter_mut().zip([u * u, u * v, v * v, u, v]) {
            *sum += point.weight * term;
        }
    }
    let [uu, uv, vv, u, v] = sums;
    let determinant = uu * vv - uv * uv;
    if determinant > 1e-9 * uu * vv {
        let base = (u * vv - v * uv) / determinant;
        let per_row = (v * uu - u * uv) / determinant;
        if base >= 0.0 && per_row >= 0.0 {
            return Line { base, per_row };
        }
        if per_row < 0.0 {
            return Line { base: u / uu, per_row: 0.0 };
        }
    }
    // One size alone, or a line from below zero: the cautious reading is that rows are all that costs.
    if vv > 0.0 { Line { base: 0.0, per_row: v / vv } } else { Line::default() }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const BASE: f64 = 4e-3;
    const PER_ROW: f64 = 1e-3;

    fn exact(rows: usize, scale: f64) -> Duration {
        Duration::from_secs_f64(scale * (BASE + PER_ROW * rows as f64))
    }

    fn calibrated() -> Cost {
        let mut cost = Cost::default();
        for rows in [1, 2, 4, 8, 16, 32, 64] {
            cost.observe(rows, exact(rows, 1.0));
        }
        cost
    }

    fn close(a: f64, b: f64, tolerance: f64) -> bool {
        (a / b - 1.0).abs() < tolerance
    }

    #[test]
    fn a_line_is_found_exactly_and_bounds_the_batch() {
        let cost = calibrated();
        assert!(close(cost.line().base, BASE, 1e-6) && close(cost.line().per_row, PER_ROW, 1e-6), "{:?}", cost.line());
        let within = |ms: u64| cost.rows_within(Duration::from_micros(ms * 1000 + 1), 64);
        assert_eq!((within(14), within(1), within(1000)), (10, 1, 64));
    }

    #[test]
    fn one_size_of_traffic_does_not_lose_the_slope() {
        let mut cost = calibrated();
        (0..5000).for_each(|_| cost.observe(64, exact(64, 1.0)));
        assert!(close(cost.line().base, BASE, 1e-3) && close(cost.line().per_row, PER_ROW, 1e-3), "{:?}", cost.line());
    }

    #[test]
    fn an_outlier_moves_little_and_a_lasting_change_is_followed() {
        let mut cost = calibrated();
        (0..100).for_each(|_| cost.observe(16, exact(16, 1.0)));
        let before = cost.line().at(16.0);
        cost.observe(16, Duration::from_secs(30));
        assert!(close(cost.line().at(16.0), before, 0.1), "{} {before}", cost.line().at(16.0));
        (0..100).for_each(|_| cost.observe(16, exact(16, 5.0)));
        assert!(close(cost.line().at(16.0), 5.0 * before, 0.1), "{} {before}", cost.line().at(16.0));
    }

    #[test]
    fn forwards_are_as_short_as_their_throughput_allows() {
        let cost = calibrated();
        let rate = |rows: usize| rows as f64 / cost.expected(rows);
        for efficiency in [0.5, 0.9, 0.95, 0.99] {
            let rows = cost.economical(64, efficiency);
            assert!(rate(rows) >= efficiency * rate(64) * 0.999 && rate(rows - 1) < efficiency * rate(64), "{rows}");
        }
        assert_eq!((cost.economical(64, 1.0), cost.economical(1, 0.5)), (64, 1));
        let free = Cost::known(Line { base: 1e-9, per_row: 1e-3 });
        assert!(free.economical(64, 0.95) <= 2);
        assert_eq!(Cost::default().economical(64, 0.95), 64, "nothing is known");
    }

    #[test]
    fn a_calibration_that_was_wrong_a_thousandfold_is_corrected_by_one_size_of_traffic() {
        let mut cost = Cost::default();
        [1, 2, 4, 8, 16, 32, 64].into_iter().for_each(|rows| cost.observe(rows, exact(rows, 1e-3)));
        (0..400).for_each(|_| cost.observe(1, exact(1, 1.0)));
        assert!(close(cost.expected(1), exact(1, 1.0).as_secs_f64(), 0.1), "{:?}", cost.line());
        // Of the sizes that were never seen again it knows no more than that they are slower, too.
        assert!((0.3..1.2).contains(&(cost.expected(64) / exact(64, 1.0).as_secs_f64())), "{:?}", cost.line());
    }

    #[test]
    fn promises_are_kept_on_a_noisy_machine() {
        let mut cost = calibrated();
        assert!(close(cost.promised(16), cost.expected(16), 0.01));
        // One forward in five takes half as long again.
        for i in 0..200 {
            cost.observe(16, exact(16, if i % 5 == 0 { 1.5 } else { 1.0 }));
        }
        assert!(cost.promised(16) >= exact(16, 1.3).as_secs_f64(), "{}", cost.promised(16));
        assert!(close(cost.residual(0.5), 1.0, 0.15), "{}", cost.residual(0.5));
        (0..64).for_each(|_| cost.observe(16, Duration::from_secs(9)));
        assert!(cost.caution() <= MOST_CAUTION);
    }

    #[test]
    fn a_known_cost_is_what_it_is_said_to_be() {
        let cost = Cost::known(Line { base: BASE, per_row: PER_ROW });
        assert!(close(cost.promised(32), BASE + 32.0 * PER_ROW, 1e-6), "{cost:?}");
    }

    #[test]
    fn before_any_measurement_nothing_is_bounded_but_rows() {
        assert_eq!(Cost::default().rows_within(Duration::from_millis(1), 8), 8);
        assert_eq!(Cost::default().rows_within(Duration::ZERO, 0), 1);
    }

    proptest! {
        #[test]
        fn any_measurements_give_a_rising_line_and_a_legal_bound(
            seen in prop::collection::vec((0usize..2000, 0u64..u64::MAX), 1..60),
            step_ns: u64,
            max_rows in 0usize..500,
        ) {
            let mut cost = Cost::default();
            for (rows, ns) in seen {
                cost.observe(rows, Duration::from_nanos(ns));
                let Line { base, per_row } = cost.line();
                prop_assert!(base.is_finite() && base >= 0.0 && per_row.is_finite() && per_row >= 0.0);
                let bound = cost.rows_within(Duration::from_nanos(step_ns), max_rows);
                prop_assert!((1..=max_rows.max(1)).contains(&bound));
            }
        }
    }
}
