//! What became of all requests: counts, rates and latencies, of all together and by the steps that they asked for.
//!
//! Percentages are of the requests that were *due*, sent or not, so that they add up to 100. Quantiles are exact: the
//! nearest rank of the sorted values (definition 1 of Hyndman and Fan, "Sample quantiles in statistical packages",
//! The American Statistician 50, 1996), each stored as a single, so with a relative error below 10⁻⁷. Latencies are of
//! requests that were answered, late ones included; read them together with the share of those that were not.

use std::collections::BTreeMap;

use serde::Serialize;

use super::{Ending, Outcome};

/// What became of a load.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Summary {
    /// Seconds during which requests were due.
    pub seconds: f64,
    /// Seconds until the last one was answered; at least [`Summary::seconds`].
    pub elapsed_s: f64,
    /// Of all requests.
    #[serde(flatten)]
    pub all: Measures,
    /// By the steps that were asked for, rising; empty where all asked for the same.
    pub classes: Vec<Class>,
}

/// The requests that asked for the same number of steps.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Class {
    /// Steps that were asked for.
    pub steps_asked: u32,
    /// What became of them.
    #[serde(flatten)]
    pub measures: Measures,
}

/// Counts, rates and times of a set of requests.
#[derive(Debug, Clone, PartialEq, Serialize, Default)]
pub struct Measures {
    /// Requests that were due: the sum of the five that follow.
    pub due: u64,
    /// … and were answered in time.
    pub in_time: u64,
    /// … too late.
    pub late: u64,
    /// … with a refusal.
    pub refused: u64,
    /// … or not at all.
    pub failed: u64,
    /// … or were never sent.
    pub not_sent: u64,
    /// Requests that were due, a second.
    pub offered_per_s: f64,
    /// Requests whose images all came, late or not, a second of [`Summary::elapsed_s`].
    pub achieved_per_s: f64,
    /// Images, a second of [`Summary::elapsed_s`].
    pub images_per_s: f64,
    /// Steps of those images, a second of [`Summary::elapsed_s`].
    pub steps_per_s: f64,
    /// Answered in time, per cent of those due.
    pub in_time_percent: f64,
    /// Answered too late or given up at the deadline, per cent of those due.
    pub late_percent: f64,
    /// Refused, per cent of those due.
    pub refused_percent: f64,
    /// Failed, per cent of those due.
    pub failed_percent: f64,
    /// Not sent, per cent of those due.
    pub not_sent_percent: f64,
    /// Milliseconds from when a request was due to its last image, of those answered.
    pub latency_ms: Option<Quantiles>,
    /// Milliseconds from when a request was due to its first image.
    pub first_image_ms: Option<Quantiles>,
    /// Milliseconds from when a request was due to its first preview.
    pub first_preview_ms: Option<Quantiles>,
    /// The most by which a last image missed its deadline, in milliseconds; 0 where none did.
    pub max_lateness_ms: f64,
    /// Mean steps of an image; none where none came.
    pub mean_steps: Option<f64>,
    /// Images with all the steps that were asked for, per cent of those that came.
    pub full_steps_percent: Option<f64>,
}

/// Exact quantiles of a set of numbers.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Quantiles {
    /// How many there are.
    pub count: u64,
    /// Half of them are not above this.
    pub p50: f64,
    /// Nine in ten are not above this.
    pub p90: f64,
    /// 99 in a hundred are not above this.
    pub p99: f64,
    /// The largest.
    pub max: f64,
}

impl Summary {
    /// Counts `outcomes`, which were due within `seconds`.
    pub fn new(outcomes: &[Outcome], seconds: f64) -> Self {
        let answered = outcomes.iter().filter_map(|o| Some(o.at_s + f64::from(o.latency_s?)));
        let elapsed_s = answered.fold(seconds, f64::max);
        let mut classes: BTreeMap<u32, Vec<Outcome>> = BTreeMap::new();
        for outcome in outcomes {
            classes.entry(outcome.steps_asked).or_default().push(*outcome);
        }
        if classes.len() < 2 {
            classes.clear();
        }
        let measure = |outcomes: &[Outcome]| Measures::new(outcomes, seconds, elapsed_s);
        let class = |(steps_asked, outcomes): (u32, Vec<Outcome>)| Class { steps_asked, measures: measure(&outcomes) };
        Self { seconds, elapsed_s, all: measure(outcomes), classes: classes.into_iter().map(class).collect() }
    }
}

impl Measures {
    /// Counts `outcomes`, which were due within `seconds` and answered within `elapsed_s`.
    fn new(outcomes: &[Outcome], seconds: f64, elapsed_s: f64) -> Self {
        let count = |ending| outcomes.iter().filter(|o| o.ending == ending).count() as u64;
        let sum = |of: fn(&Outcome) -> u32| outcomes.iter().map(|o| u64::from(of(o))).sum::<u64>();
        let times = |of: fn(&Outcome) -> Option<f32>| Quantiles::of_seconds_in_ms(outcomes.iter().filter_map(of));
        let due = outcomes.len() as u64;
        let percent = |n: u64| ratio(100 * n, due as f64);
        let (images, steps) = (sum(|o| o.images), sum(|o| o.steps_used));
        let [in_time, late, refused, failed, not_sent] =
            [Ending::InTime, Ending::Late, Ending::Refused, Ending::Failed, Ending::NotSent].map(count);
        let answered = outcomes.iter().filter(|o| o.latency_s.is_some()).count() as u64;
        let lateness_s = outcomes.iter().filter_map(Outcome::lateness_s).fold(0.0, f32::max);
        Self {
            due,
            in_time,
            late,
            refused,
            failed,
            not_sent,
            offered_per_s: ratio(due, seconds),
            achieved_per_s: ratio(answered, elapsed_s),
            images_per_s: ratio(images, elapsed_s),
            steps_per_s: ratio(steps, elapsed_s),
            in_time_percent: percent(in_time),
            late_percent: percent(late),
            refused_percent: percent(refused),
            failed_percent: percent(failed),
            not_sent_percent: percent(not_sent),
            latency_ms: times(|o| o.latency_s),
            first_image_ms: times(|o| o.first_image_s),
            first_preview_ms: times(|o| o.first_preview_s),
            max_lateness_ms: 1e3 * f64::from(lateness_s),
            mean_steps: (images > 0).then(|| ratio(steps, images as f64)),
            full_steps_percent: (images > 0).then(|| ratio(100 * sum(|o| o.full_images), images as f64)),
        }
    }

    /// Requests that were sent.
    pub fn sent(&self) -> u64 {
        self.due - self.not_sent
    }
}

impl Quantiles {
    /// Of these numbers; none where there are none. Numbers that are not finite are left out.
    pub fn of(values: impl IntoIterator<Item = f32>) -> Option<Self> {
        let mut sorted: Vec<f32> = values.into_iter().filter(|value| value.is_finite()).collect();
        sorted.sort_unstable_by(f32::total_cmp);
        let max = f64::from(*sorted.last()?);
        // The nearest rank: the smallest value that at least this many hundredths are not above.
        let at = |hundredths: usize| f64::from(sorted[(hundredths * sorted.len()).div_ceil(100) - 1]);
        Some(Self { count: sorted.len() as u64, p50: at(50), p90: at(90), p99: at(99), max })
    }

    fn of_seconds_in_ms(seconds: impl IntoIterator<Item = f32>) -> Option<Self> {
        Self::of(seconds.into_iter().map(|s| 1e3 * s))
    }
}

fn ratio(n: u64, of: f64) -> f64 {
    if of > 0.0 { n as f64 / of } else { 0.0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answered(at_s: f64, steps_asked: u32, steps_used: u32, latency_s: f32) -> Outcome {
        let full_images = u32::from(steps_used == steps_asked);
        Outcome {
            images: 1,
            full_images,
            steps_used,
            first_image_s: Some(latency_s),
            ..Outcome::answered(at_s, steps_asked, latency_s, Some(0.25))
        }
    }

    #[test]
    fn everything_that_was_due_is_counted_once() {
        let outcomes = [
            answered(0.0, 4, 4, 0.125),
            answered(1.0, 4, 2, 0.25),
            answered(1.0, 8, 8, 0.5),
            answered(3.5, 8, 6, 1.5),
            Outcome::unanswered(2.0, 8, Ending::Late),
            Outcome::unanswered(2.0, 8, Ending::Refused),
            Outcome::unanswered(2.0, 8, Ending::Failed),
            Outcome::unanswered(2.0, 8, Ending::NotSent),
        ];
        let Summary { elapsed_s, all, classes, .. } = Summary::new(&outcomes, 4.0);
        assert_eq!((all.due, all.sent(), elapsed_s), (8, 7, 5.0));
        assert_eq!((all.in_time, all.late, all.refused, all.failed, all.not_sent), (2, 3, 1, 1, 1));
        assert_eq!((all.offered_per_s, all.achieved_per_s, all.images_per_s, all.steps_per_s), (2.0, 0.8, 0.8, 4.0));
        assert_eq!((all.in_time_percent, all.late_percent, all.refused_percent), (25.0, 37.5, 12.5));
        let latency = all.latency_ms.unwrap();
        assert_eq!((latency.count, latency.p50, latency.p90, latency.max), (4, 250.0, 1500.0, 1500.0));
        assert_eq!((all.mean_steps, all.full_steps_percent, all.max_lateness_ms), (Some(5.0), Some(50.0), 1250.0));
        let counted: Vec<_> = classes.iter().map(|class| (class.steps_asked, class.measures.due)).collect();
        assert_eq!(counted, [(4, 2), (8, 6)]);
        assert_eq!(classes[0].measures.latency_ms.unwrap().max, 250.0);
    }

    #[test]
    fn nothing_gives_no_numbers_that_are_none() {
        let Summary { all, classes, .. } = Summary::new(&[], 0.0);
        assert_eq!((all.offered_per_s, all.in_time_percent, all.latency_ms, all.mean_steps), (0.0, 0.0, None, None));
        assert!(classes.is_empty());
    }

    #[test]
    fn quantiles_are_nearest_ranks() {
        let values = (1..=200).rev().map(|n| n as f32);
        let q = Quantiles::of(values.chain([f32::NAN])).unwrap();
        assert_eq!((q.count, q.p50, q.p90, q.p99, q.max), (200, 100.0, 180.0, 198.0, 200.0));
        let one = Quantiles::of([3.0]).unwrap();
        assert_eq!((one.p50, one.p99, one.max), (3.0, 3.0, 3.0));
        assert_eq!(Quantiles::of([]), None);
    }

    #[test]
    fn a_class_is_left_out_where_it_is_everything() {
        assert!(Summary::new(&[answered(0.0, 4, 4, 0.1); 3], 1.0).classes.is_empty());
    }

    #[test]
    fn it_is_written_as_one_flat_object() {
        let summary = Summary::new(&[answered(0.0, 4, 4, 0.125), answered(0.0, 1, 1, 0.125)], 1.0);
        let value = serde_json::to_value(summary).unwrap();
        assert_eq!((&value["due"], &value["latency_ms"]["p50"]), (&2.into(), &125.0.into()));
        assert_eq!((&value["classes"][0]["steps_asked"], &value["classes"][0]["due"]), (&1.into(), &1.into()));
    }
}
