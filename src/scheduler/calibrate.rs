//! First measurements of what forwards cost, before the first request.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::Limits;
use super::cost::Cost;
use crate::domain::{Evaluation, ModelInfo, ModelKey, NoiseKey, Rule};
use crate::engine::{Batch, Engine, Outcome, Purpose, RowId, RowStep, Start};
use crate::error::{Error, Result};

/// Forwards of each size; the fastest counts, the first one also warms caches and compiles kernels.
const REPEATS: u32 = 3;

/// What measuring a model may take: a server is ready soon, and every forward that it runs from then on is a measurement
/// as well. On a CPU larger sizes are foreseen from the smaller ones; a GPU gets through all of them in this time.
const LONGEST: Duration = Duration::from_millis(100);

/// Sizes that are measured however long that takes: fewer do not tell the rows from what a forward takes anyway.
const LEAST_SIZES: usize = 2;

/// Measures every model with forwards of 1, 2, 4, … rows, up to `max_rows` or what is expected to take longer than
/// `max_step` or than is left of [`LONGEST`].
///
/// # Errors
/// What the engine reports, of a forward or of a single row: it cannot serve.
pub(super) fn calibrate(
    engine: &mut dyn Engine,
    catalogue: &Arc<[ModelInfo]>,
    limits: &Limits,
    clock: &impl Fn() -> Instant,
) -> Result<Vec<Cost>> {
    let measure = |(model, info): (usize, &ModelInfo)| {
        let (mut cost, begun) = (Cost::default(), clock());
        for (place, rows) in sizes(limits.max_rows).enumerate() {
            let expected = Duration::from_secs_f64(cost.expected(rows));
            let left = LONGEST.saturating_sub(clock().saturating_duration_since(begun));
            if place >= LEAST_SIZES && (expected > limits.max_step || REPEATS * expected > left) {
                break;
            }
            cost.observe(rows, fastest(engine, &probe(ModelKey(model), rows), clock)?);
        }
        report(info, &cost, limits);
        Ok(cost)
    };
    catalogue.iter().enumerate().map(measure).collect()
}

fn report(info: &ModelInfo, cost: &Cost, limits: &Limits) {
    let (line, rows) = (cost.line(), cost.rows_within(limits.max_step, limits.max_rows));
    tracing::info!(model = %info.id, base_s = line.base, per_row_s = line.per_row, rows, "measured what forwards cost");
    if line.base + line.per_row > limits.max_step.as_secs_f64() {
        let max_step_s = limits.max_step.as_secs_f64();
        tracing::warn!(model = %info.id, max_step_s, "one row exceeds the longest step: no rows will share a forward");
    }
}

/// 1, 2, 4, … and `max` itself.
fn sizes(max: usize) -> impl Iterator<Item = usize> {
    let max = max.max(1);
    std::iter::successors(Some(1), move |&n| (n < max).then(|| (n * 2).min(max)))
}

fn fastest(engine: &mut dyn Engine, batch: &Batch, clock: &impl Fn() -> Instant) -> Result<Duration> {
    (0..REPEATS).try_fold(Duration::MAX, |best, _| {
        let begun = clock();
        let outcomes = engine.step(batch)?;
        let elapsed = clock().saturating_duration_since(begun);
        match outcomes
            .into_iter()
            .find_map(|outcome| if let Outcome::Failed(reason) = outcome { Some(reason) } else { None })
        {
            Some(reason) => Err(Error::Compute(reason)),
            None => Ok(best.min(elapsed)),
        }
    })
}

/// Rows that begin and end in one forward, at a pair of times that most networks were trained at: any take as long.
fn probe(model: ModelKey, rows: usize) -> Batch {
    let step = |i: usize| RowStep {
        row: RowId(RowId::FIRST_PROBE.0 + i as u64),
        start: Some(Start::Noise),
        noise: NoiseKey { seed: 0, index: u32::try_from(i).unwrap_or(u32::MAX) },
        evaluation: Evaluation { s: 0.0, t: 1.0, rule: Rule::Euler },
        label: None,
        guidance: 1.0,
        purpose: Purpose::Finish { keep: false },
    };
    Batch { model, rows: (0..rows).map(step).collect() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::scripted::VirtualClock;

    /// Takes ten times `row` and `row` for each row, twice as long the first time at each size.
    struct Slow {
        clock: VirtualClock,
        row: Duration,
        seen: Vec<usize>,
    }

    impl Engine for Slow {
        fn step(&mut self, batch: &Batch) -> Result<Vec<Outcome>> {
            let rows = batch.rows.len();
            let factor = if self.seen.contains(&rows) { 1 } else { 2 };
            self.clock.advance(factor * self.row * (10 + rows as u32));
            self.seen.push(rows);
            let ends = |row: &RowStep| row.purpose == Purpose::Finish { keep: false };
            assert!(batch.rows.iter().all(|row| row.row >= RowId::FIRST_PROBE && ends(row)));
            Ok(vec![Outcome::Finished { state: Vec::new(), before: None }; rows])
        }

        fn release(&mut self, _: &[RowId]) {}
    }

    fn limits(max_rows: usize, max_step: Duration) -> Limits {
        Limits { max_step, ..crate::scheduler::testing::limits(max_rows) }
    }

    fn calibrated(row: Duration, limits: &Limits) -> (Vec<Cost>, Vec<usize>) {
        let clock = VirtualClock::new();
        let mut engine = Slow { clock: clock.clone(), row, seen: Vec::new() };
        let catalogue: Arc<[ModelInfo]> = vec![crate::scheduler::testing::model("a", 1)].into();
        let costs = calibrate(&mut engine, &catalogue, limits, &|| clock.now()).unwrap();
        (costs, engine.seen)
    }

    #[test]
    fn sizes_double_up_to_the_bound_and_warm_runs_count() {
        let (costs, seen) = calibrated(Duration::from_micros(10), &limits(24, Duration::from_secs(1)));
        assert_eq!(seen, [1, 1, 1, 2, 2, 2, 4, 4, 4, 8, 8, 8, 16, 16, 16, 24, 24, 24]);
        let line = costs[0].line();
        assert!((line.base - 1e-4).abs() < 1e-8 && (line.per_row - 1e-5).abs() < 1e-9, "{line:?}");
    }

    #[test]
    fn sizes_beyond_the_longest_step_are_not_tried() {
        let longest = limits(1 << 20, Duration::from_micros(141));
        assert_eq!(calibrated(Duration::from_micros(10), &longest).1, [1, 1, 1, 2, 2, 2, 4, 4, 4]);
    }

    #[test]
    fn a_slow_engine_is_measured_at_few_sizes() {
        let row = Duration::from_micros(400);
        let (costs, seen) = calibrated(row, &limits(1 << 20, Duration::from_secs(1)));
        assert_eq!(
            seen,
            [1, 1, 1, 2, 2, 2, 4, 4, 4, 8, 8, 8],
            "16 rows would take 10.4 ms, three times, and nothing is left of 100"
        );
        assert!((costs[0].line().per_row / row.as_secs_f64() - 1.0).abs() < 1e-3, "{:?}", costs[0].line());
        let endless = calibrated(Duration::from_secs(1), &limits(1 << 20, Duration::from_secs(1)));
        assert_eq!(endless.1, [1, 1, 1, 2, 2, 2]);
    }

    #[test]
    fn an_engine_that_fails_is_reported() {
        struct Broken(fn() -> Result<Vec<Outcome>>);
        impl Engine for Broken {
            fn step(&mut self, _: &Batch) -> Result<Vec<Outcome>> {
                self.0()
            }
            fn release(&mut self, _: &[RowId]) {}
        }
        let catalogue: Arc<[ModelInfo]> = vec![crate::scheduler::testing::model("a", 1)].into();
        let now = Instant::now();
        for broken in [|| Err(Error::Compute("no".into())), || Ok(vec![Outcome::Failed("not finite".into())])] {
            assert!(calibrate(&mut Broken(broken), &catalogue, &limits(1, Duration::from_secs(1)), &|| now).is_err());
        }
    }
}
