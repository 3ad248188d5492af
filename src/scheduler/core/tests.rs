//! The core in virtual time.

mod anytime;
mod world;

use std::collections::BTreeSet;

use super::*;
use crate::domain::Sampler;
use crate::engine::{Outcome, Purpose};
use crate::scheduler::cost::Line;
use crate::scheduler::testing::{job, limits, model};

const TICK: Duration = Duration::from_millis(1);
const DEVICE: DeviceId = DeviceId(0);

/// Two models on one device whose forwards cost nothing.
fn core(max_rows: usize) -> Core {
    let mut core = Core::new(&[model("a", 1), model("b", 1)], &limits(max_rows));
    assert_eq!(core.add_device(Vec::new()), DEVICE);
    core
}

fn admit(core: &mut Core, job: Job, now: Instant) -> u64 {
    core.admit(job, now).unwrap().0.number
}

/// Every row moves, or ends, or is shown.
fn outcomes(forward: &Forward) -> Vec<Outcome> {
    let end = |purpose| match purpose {
        Purpose::Advance => Outcome::Running,
        Purpose::Preview => Outcome::Preview(vec![0.0]),
        Purpose::Finish { keep } => Outcome::Finished { state: vec![0.0], before: keep.then(|| vec![0.5]) },
    };
    forward.batch.rows.iter().map(|step| end(step.purpose)).collect()
}

/// Runs one forward of `device` and returns it with its events.
fn forward_on(core: &mut Core, device: DeviceId, now: Instant) -> Option<(Forward, Vec<Event>)> {
    let forward = core.next_forward(device, now)?;
    let elapsed = forward.expected.max(TICK);
    let events = core.complete(device, Ok(outcomes(&forward)), elapsed, now + elapsed);
    Some((forward, events))
}

fn forward(core: &mut Core, now: Instant) -> Option<(Forward, Vec<Event>)> {
    forward_on(core, DEVICE, now)
}

fn finished(events: &[Event]) -> Vec<u64> {
    let of = |event: &Event| matches!(event.event, JobEvent::Finished(_)).then_some(event.job.number);
    events.iter().filter_map(of).collect()
}

#[test]
fn a_single_image_joins_beside_a_huge_job_at_once() {
    let (mut core, now) = (core(8), Instant::now());
    core.admit(job(0, 1000, 50), now).unwrap();
    for _ in 0..20 {
        forward(&mut core, now);
    }
    let (small, accepted) = core.admit(job(0, 1, 3), now).unwrap();
    assert!(accepted.queue_position < 8, "{accepted:?}");
    for made in 1..=3 {
        let (forward, events) = forward(&mut core, now).unwrap();
        assert_eq!((forward.rows, forward.distinct_plans), (8, 2));
        assert_eq!(finished(&events), if made == 3 { vec![small.number] } else { vec![] });
    }
}

#[test]
fn equal_jobs_run_to_their_ends_in_the_order_of_arrival() {
    let (mut core, now) = (core(2), Instant::now());
    let places: Vec<usize> = (0..6).map(|_| core.admit(job(0, 1, 3), now).unwrap().1.queue_position).collect();
    assert_eq!(places, [0, 1, 2, 3, 4, 5]);
    let ends: Vec<Vec<u64>> = (0..9).map(|_| finished(&forward(&mut core, now).unwrap().1)).collect();
    let none: Vec<u64> = Vec::new();
    assert_eq!(ends[..3], [none.clone(), none.clone(), vec![0, 1]]);
    assert_eq!((&ends[5], &ends[8]), (&vec![2, 3], &vec![4, 5]));
    assert!(core.is_idle());
}

#[test]
fn a_stream_of_newcomers_that_fills_the_device_starves_nobody() {
    let (mut core, now) = (core(4), Instant::now());
    let (old, _) = core.admit(job(0, 20, 8), now).unwrap();
    let mut forwards = 0;
    let ended = loop {
        (0..4).for_each(|_| _ = admit(&mut core, job(0, 1, 1), now));
        let (_, events) = forward(&mut core, now).unwrap();
        forwards += 1;
        if finished(&events).contains(&old.number) || forwards > 5000 {
            break forwards;
        }
    };
    // Its last image has the tag 19 · 8; virtual time passes that at the latest when every newcomer counts as active.
    assert!((160 / 4..5000).contains(&ended), "{ended}");
}

#[test]
fn two_models_take_turns() {
    let (mut core, now) = (core(4), Instant::now());
    core.admit(job(0, 100, 50), now).unwrap();
    core.admit(job(1, 1, 4), now).unwrap();
    let models: Vec<usize> = (0..10).map(|_| forward(&mut core, now).unwrap().0.batch.model.0).collect();
    assert_eq!(models, [0, 1, 0, 1, 0, 1, 0, 1, 0, 0]);
}

#[test]
fn the_predicted_time_of_a_forward_bounds_it() {
    let limits = Limits { max_step: Duration::from_micros(15_500), ..limits(64) };
    let mut core = Core::new(&[model("a", 1)], &limits);
    core.add_device(vec![Cost::known(Line { base: 0.010, per_row: 0.001 })]);
    let now = Instant::now();
    core.admit(job(0, 20, 2), now).unwrap();
    assert_eq!(core.next_forward(DEVICE, now).unwrap().rows, 5);
    // 40 rows in forwards of 5, which take 15 ms each, for 20 images.
    assert!(core.time_per_image().abs_diff(Duration::from_millis(6)) < Duration::from_micros(10));
}

#[test]
fn an_image_under_guidance_counts_twice_and_one_always_fits() {
    let guided = || {
        let mut guided = Job { guidance: 2.0, ..job(0, 3, 1) };
        guided.sources.iter_mut().for_each(|source| source.label = Some(0));
        guided
    };
    for (max_rows, images) in [(1, 1), (3, 1), (4, 2)] {
        let mut core = core(max_rows);
        core.admit(guided(), Instant::now()).unwrap();
        let forward = core.next_forward(DEVICE, Instant::now()).unwrap();
        assert_eq!((forward.batch.rows.len(), forward.rows), (images, 2 * images));
    }
}

#[test]
fn a_failed_row_ends_its_job_alone() {
    let (mut core, now) = (core(8), Instant::now());
    let (bad, _) = core.admit(job(0, 3, 2), now).unwrap();
    let (good, _) = core.admit(job(0, 1, 2), now).unwrap();
    let forward_1 = core.next_forward(DEVICE, now).unwrap();
    let mut made = outcomes(&forward_1);
    made[0] = Outcome::Failed("not finite".into());
    let events = core.complete(DEVICE, Ok(made), TICK, now);
    assert!(matches!(&events[..], [Event { job, event: JobEvent::Failed(Error::Compute(_)), lost: 3 }] if *job == bad));
    assert_eq!(core.take_released(DEVICE).len(), 3);
    assert_eq!(finished(&forward(&mut core, now).unwrap().1), [good.number]);
}

#[test]
fn a_failed_forward_ends_its_jobs_and_no_others() {
    let (mut core, now) = (core(2), Instant::now());
    let jobs: Vec<u64> = (0..3).map(|_| core.admit(job(0, 1, 1), now).unwrap().0.number).collect();
    core.next_forward(DEVICE, now).unwrap();
    let events = core.complete(DEVICE, Err(Error::Compute("no memory".into())), TICK, now);
    assert_eq!(events.iter().map(|event| event.job.number).collect::<Vec<_>>(), jobs[..2]);
    assert_eq!(finished(&forward(&mut core, now).unwrap().1), jobs[2..]);
}

#[test]
fn times_are_measured_from_admission_and_first_evaluation() {
    let (mut core, start) = (core(1), Instant::now());
    core.admit(job(0, 1, 2), start).unwrap();
    forward(&mut core, start + 5 * TICK);
    let (_, events) = forward(&mut core, start + 10 * TICK).unwrap();
    let [Event { event: JobEvent::Image(image), .. }, Event { event: JobEvent::Finished(summary), .. }] = &events[..]
    else {
        panic!("{events:?}")
    };
    assert_eq!((image.queued, image.computed, image.evaluations), (5 * TICK, 6 * TICK, 2));
    assert_eq!((summary.total, summary.evaluations, summary.images), (11 * TICK, 2, 1));
}

#[test]
fn what_cannot_be_served_is_refused() {
    let (mut core, now) = (core(1), Instant::now());
    assert!(matches!(core.admit(job(2, 1, 1), now), Err(Error::NotFound(_))));
    assert!(matches!(core.admit(job(0, 0, 1), now), Err(Error::Invalid(_))));
}
