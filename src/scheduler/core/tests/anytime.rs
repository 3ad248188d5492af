//! Deadlines, overload, tenants, previews, continuation, several devices.

use super::*;
use crate::domain::{Evaluation, Image, Priority, Source, StepsReason, TimeGrid};
use crate::scheduler::{BrownOutLimits, Headroom};

/// 4 ms and 0.25 ms a row.
const COST: Line = Line { base: 0.004, per_row: 0.000_25 };

fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

/// One model on `devices` devices that cost [`COST`].
fn timed(limits: &Limits, devices: usize) -> Core {
    let mut core = Core::new(&[model("a", 1)], limits);
    (0..devices).for_each(|_| _ = core.add_device(vec![Cost::known(COST)]));
    core
}

/// A job of one image with a deadline, that allows one step.
fn hasty(steps: u32, deadline: Instant) -> Job {
    Job { deadline: Some(deadline), min_steps: 1, ..job(0, 1, steps) }
}

/// Runs `device` for as long as there is work, in the time that forwards take; the images with when they were done.
fn run(core: &mut Core, mut now: Instant) -> Vec<(u64, Image, Instant)> {
    let mut images = Vec::new();
    while let Some(forward) = core.next_forward(DEVICE, now) {
        now += forward.expected;
        for event in core.complete(DEVICE, Ok(outcomes(&forward)), forward.expected, now) {
            if let JobEvent::Image(image) = event.event {
                images.push((event.job.number, image, now));
            }
        }
        core.tick(now);
    }
    images
}

#[test]
fn a_job_with_time_gets_all_steps_and_one_without_gets_what_fits() {
    for (left_ms, steps, reason) in
        [(100, 8, StepsReason::Asked), (30, 4, StepsReason::Deadline), (5, 1, StepsReason::Deadline)]
    {
        let (mut core, now) = (timed(&limits(32), 1), Instant::now());
        admit(&mut core, hasty(8, now + ms(left_ms)), now);
        let [(_, image, done)] = &run(&mut core, now)[..] else { panic!() };
        assert_eq!((image.times.len() - 1, image.reason), (steps, reason), "{left_ms}");
        assert_eq!(image.times, TimeGrid::uniform(u32::try_from(steps).unwrap()).times());
        assert!(*done <= now + ms(left_ms));
    }
}

#[test]
fn an_image_in_flight_jumps_to_its_end_when_the_next_step_would_be_late() {
    let (mut core, now) = (timed(&limits(32), 1), Instant::now());
    admit(&mut core, hasty(8, now + ms(40)), now);
    // Two steps take five times as long as foreseen.
    for step in 0..2u64 {
        let begun = now + ms(12 * step);
        let forward = core.next_forward(DEVICE, begun).unwrap();
        core.complete(DEVICE, Ok(outcomes(&forward)), forward.expected, begun + ms(12));
    }
    let [(_, image, done)] = &run(&mut core, now + ms(33))[..] else { panic!() };
    assert_eq!((&image.times[..], image.reason), (&[0.0, 0.125, 0.25, 1.0][..], StepsReason::Deadline));
    assert!(*done <= now + ms(40));
}

#[test]
fn a_floor_is_kept() {
    let (mut core, now) = (timed(&limits(32), 1), Instant::now());
    admit(&mut core, Job { min_steps: 3, ..hasty(8, now + ms(13)) }, now);
    let [(_, image, _)] = &run(&mut core, now)[..] else { panic!() };
    assert_eq!(image.times, TimeGrid::uniform(3).times());
}

#[test]
fn what_cannot_be_done_in_time_is_refused_at_once_and_says_how_long_it_would_take() {
    let (mut core, now) = (timed(&limits(32), 1), Instant::now());
    let refused = core.admit(hasty(8, now + ms(4)), now).unwrap_err();
    let Error::Overloaded { retry_after, predicted: Some(predicted) } = refused else { panic!("{refused:?}") };
    assert!(predicted.abs_diff(Duration::from_micros(4250)) < Duration::from_micros(5), "{predicted:?}");
    assert_eq!(retry_after, predicted - ms(4));
    // 100 images ahead, each in one step at least: three full forwards and one more.
    (0..100).for_each(|_| _ = admit(&mut core, hasty(8, now + ms(90)), now));
    assert!(core.admit(hasty(8, now + ms(91)), now).is_ok());
    assert!(core.admit(Job { min_steps: 8, ..hasty(8, now + ms(91)) }, now).is_err());
    assert!(core.admit(hasty(8, now + ms(6)), now).is_ok(), "a closer deadline goes first");
}

#[test]
fn a_newcomer_is_refused_that_would_make_another_late() {
    let (mut core, now) = (timed(&limits(32), 1), Instant::now());
    // Four forwards' work, to be done within four forwards.
    (0..4 * 32).for_each(|_| _ = admit(&mut core, hasty(1, now + Duration::from_micros(48_100)), now));
    assert!(matches!(core.admit(hasty(1, now + ms(20)), now), Err(Error::Overloaded { .. })));
    let late = run(&mut core, now).iter().filter(|(_, _, done)| *done > now + ms(49)).count();
    assert_eq!(late, 0);
}

#[test]
fn the_earlier_deadline_goes_first_when_both_are_pressed() {
    let (mut core, now) = (timed(&limits(1), 1), Instant::now());
    let later = admit(&mut core, hasty(1, now + ms(11)), now);
    let sooner = admit(&mut core, hasty(1, now + ms(9)), now);
    let order: Vec<u64> = run(&mut core, now).iter().map(|(job, _, _)| *job).collect();
    assert_eq!(order, [sooner, later]);
}

#[test]
fn a_deadline_goes_before_a_queue_of_jobs_without_one() {
    let (mut core, now) = (timed(&limits(4), 1), Instant::now());
    admit(&mut core, job(0, 500, 8), now);
    let id = admit(&mut core, hasty(4, now + ms(30)), now);
    let images = run(&mut core, now);
    let (_, image, done) = images.iter().find(|(job, ..)| *job == id).unwrap();
    assert!((image.times.len(), image.reason) == (5, StepsReason::Asked) && *done <= now + ms(30), "{image:?}");
}

/// The bound that the queue states: an image of a tenant that has none in flight begins within `⌈2n / rows⌉` forwards.
#[test]
fn a_tenant_with_ten_thousand_images_does_not_hold_up_another() {
    for (rows, tenants) in [(32usize, 2usize), (8, 10), (2, 5)] {
        let (mut core, now) = (core(rows), Instant::now());
        for other in 1..tenants {
            admit(&mut core, Job { tenant: format!("t{other}").into(), ..job(0, 10_000, 8) }, now);
        }
        (0..13).for_each(|_| drop(forward(&mut core, now)));
        let id = admit(&mut core, Job { tenant: "small".into(), ..job(0, 1, 1) }, now);
        let bound = (2 * tenants).div_ceil(rows);
        let waited = (1..=bound).find(|_| finished(&forward(&mut core, now).unwrap().1).contains(&id));
        assert!(waited.is_some(), "{rows} {tenants}");
    }
}

#[test]
fn tenants_get_equal_shares_whatever_the_number_of_their_jobs() {
    let (mut core, now) = (core(8), Instant::now());
    (0..30).for_each(|_| _ = admit(&mut core, Job { tenant: "many".into(), ..job(0, 100, 4) }, now));
    let one = admit(&mut core, Job { tenant: "one".into(), ..job(0, 3000, 4) }, now);
    let (mut of_one, mut all) = (0, 0);
    for _ in 0..100 {
        let forward = core.next_forward(DEVICE, now).unwrap();
        let (_, job) = core.models[0].queue.by_target().find(|(id, _)| id.number == one).unwrap();
        let rows: BTreeSet<RowId> = job.held().map(|(_, row)| row).collect();
        of_one += forward.batch.rows.iter().filter(|step| rows.contains(&step.row)).count();
        all += forward.batch.rows.len();
        core.complete(DEVICE, Ok(outcomes(&forward)), TICK, now);
    }
    assert_eq!((of_one, all), (400, 800));
}

#[test]
fn priority_is_a_share_and_starves_nobody() {
    let (mut core, now) = (core(4), Instant::now());
    let low = admit(&mut core, Job { priority: Priority::Low, ..job(0, 4, 4) }, now);
    let mut ended = None;
    for forwards in 0..5000 {
        (0..4).for_each(|_| _ = admit(&mut core, Job { priority: Priority::High, ..job(0, 1, 1) }, now));
        if finished(&forward(&mut core, now).unwrap().1).contains(&low) {
            ended = Some(forwards);
            break;
        }
    }
    assert!(ended.is_some_and(|forwards| forwards > 10), "{ended:?}");
    // Whoever comes shortly after an ordinary job of the same tenant passes it.
    let mut core = super::core(1);
    admit(&mut core, job(0, 1, 1), now);
    let high = admit(&mut core, Job { priority: Priority::High, ..job(0, 1, 1) }, now);
    assert_eq!(finished(&forward(&mut core, now).unwrap().1), [high]);
}

#[test]
fn under_overload_steps_are_given_up_by_those_who_allow_it() {
    let brown_out = BrownOutLimits { utilisation: 0.98, window: ms(400), min_steps: 1 };
    let limits = Limits { brown_out: Some(brown_out), ..limits(32) };
    let (mut core, mut now) = (timed(&limits, 1), Instant::now());
    let (mut steps, mut all) = (Vec::new(), Vec::new());
    // 600 requests a second for 8 steps, which is 1.8 of what the device can do.
    for i in 0..1200u64 {
        now += Duration::from_micros(1667);
        let rigid = i % 10 == 0;
        let job = Job { min_steps: if rigid { 8 } else { 1 }, ..hasty(8, now + ms(1000)) };
        let (id, accepted) = core.admit(job, now).unwrap();
        if i > 600 && !rigid {
            steps.push(accepted.evaluations);
        }
        assert!(!rigid || accepted.evaluations == 8);
        all.push(id);
        if i % 4 == 0 {
            drop(forward(&mut core, now));
        }
    }
    let (least, most) = (steps.iter().min().unwrap(), steps.iter().max().unwrap());
    // A tenth insists on 8 steps, which leaves the others 3.95 on average of the 98 % that may be used.
    assert_eq!((*least, *most), (2, 4));
    let mean = f64::from(steps.iter().sum::<u32>()) / steps.len() as f64;
    assert!((3.8..4.0).contains(&mean), "{mean}");
}

#[test]
fn devices_draw_from_one_queue_and_keep_their_rows() {
    let (mut core, now) = (timed(&limits(4), 2), Instant::now());
    let id = admit(&mut core, job(0, 12, 3), now);
    let mut homes: std::collections::BTreeMap<RowId, DeviceId> = Default::default();
    let mut ended = Vec::new();
    for turn in 0..20 {
        let device = DeviceId(turn % 2);
        let Some((forward, events)) = forward_on(&mut core, device, now) else { continue };
        for step in &forward.batch.rows {
            assert_eq!(*homes.entry(step.row).or_insert(device), device);
        }
        ended.extend(finished(&events));
    }
    assert_eq!(ended, [id]);
    assert_eq!(homes.values().collect::<BTreeSet<_>>().len(), 2);
    assert!(core.is_idle());
}

#[test]
fn a_device_that_goes_takes_only_its_own_jobs_along() {
    let (mut core, now) = (timed(&limits(1), 2), Instant::now());
    let jobs: Vec<u64> = (0..3).map(|_| admit(&mut core, job(0, 1, 2), now)).collect();
    forward_on(&mut core, DeviceId(0), now);
    forward_on(&mut core, DeviceId(1), now);
    core.next_forward(DeviceId(1), now);
    let events = core.retire(DeviceId(1), &Error::Unavailable("gone".into()));
    assert_eq!(events.iter().map(|event| event.job.number).collect::<Vec<_>>(), [jobs[1]]);
    assert!(core.next_forward(DeviceId(1), now).is_none());
    let ended: Vec<u64> = (0..3).flat_map(|_| finished(&forward(&mut core, now).unwrap().1)).collect();
    assert_eq!(ended, [jobs[0], jobs[2]]);
    admit(&mut core, job(0, 1, 1), now);
    assert_eq!(core.retire(DEVICE, &Error::Unavailable("gone".into())).len(), 1, "the last one takes all");
}

/// The evaluations of the previews in a forward.
fn shown(forward: &Forward) -> Vec<Evaluation> {
    let previews = forward.batch.rows.iter().filter(|step| step.purpose == Purpose::Preview);
    previews.map(|step| step.evaluation).collect()
}

#[test]
fn previews_come_from_the_first_forward_on_and_only_from_spare_room() {
    let limits = Limits { preview_share: 0.25, ..limits(8) };
    let (mut core, now) = (timed(&limits, 1), Instant::now());
    let previews = Some(Vec::new().into());
    admit(&mut core, Job { previews, ..job(0, 1, 4) }, now);
    let (first, events) = forward(&mut core, now).unwrap();
    assert_eq!((shown(&first), first.rows), (vec![Evaluation::finish(0.0)], 2));
    assert!(matches!(&events[..], [Event { event: JobEvent::Preview(preview), .. }] if preview.evaluations == 1));
    // Seven more images leave room for one row, and then an eighth waits.
    admit(&mut core, job(0, 6, 2), now);
    assert_eq!(shown(&forward(&mut core, now).unwrap().0), [Evaluation::finish(0.25)]);
    admit(&mut core, job(0, 3, 2), now);
    assert_eq!(shown(&forward(&mut core, now).unwrap().0), []);
    while forward(&mut core, now).is_some() {}
    // Only those that are wanted, and never in the place of the last evaluation.
    admit(&mut core, Job { previews: Some([2, 3].into()), ..job(0, 1, 3) }, now);
    let seen: Vec<Vec<Evaluation>> = (0..3).map(|_| shown(&forward(&mut core, now).unwrap().0)).collect();
    assert_eq!(seen, [vec![], vec![Evaluation::finish(1.0 / 3.0)], vec![]]);
}

#[test]
fn a_preview_makes_nobody_late() {
    let limits = Limits { preview_share: 1.0, ..limits(8) };
    let (mut core, now) = (timed(&limits, 1), Instant::now());
    // Eight forwards of one row take 34 ms, of two rows 36 ms.
    let tight = Job { previews: Some(Vec::new().into()), ..hasty(8, now + ms(35)) };
    admit(&mut core, tight, now);
    let forward = core.next_forward(DEVICE, now).unwrap();
    assert_eq!(shown(&forward), []);
}

#[test]
fn a_finished_image_is_continued_from_its_last_state_or_from_scratch() {
    for (kept_bytes, evaluations) in [(1 << 20, 2), (0, 3)] {
        let limits = Limits { kept_bytes, ..limits(8) };
        let (mut core, now) = (timed(&limits, 1), Instant::now());
        admit(&mut core, job(0, 1, 2), now);
        let [(_, coarse, _)] = &run(&mut core, now)[..] else { panic!() };
        assert_eq!(coarse.times, [0.0, 0.5, 1.0]);
        let walked = Some(coarse.times[..2].into());
        let source = Source { walked, ..Source::noise(0, 0, None) };
        admit(&mut core, Job { sources: vec![source], ..job(0, 1, 4) }, now);
        let first = core.next_forward(DEVICE, now).unwrap();
        let start = first.batch.rows[0].start.clone();
        let from_state = matches!(start, Some(crate::engine::Start::State { .. }));
        assert_eq!(
            (from_state, first.batch.rows[0].evaluation.s),
            if kept_bytes > 0 { (true, 0.5) } else { (false, 0.0) }
        );
        core.complete(DEVICE, Ok(outcomes(&first)), TICK, now);
        let [(_, fine, _)] = &run(&mut core, now)[..] else { panic!() };
        assert_eq!((&fine.times[..], fine.evaluations), (&[0.0, 0.5, 0.75, 1.0][..], evaluations));
        assert_eq!(fine.reason, StepsReason::Asked);
    }
}

#[test]
fn another_sampler_does_not_go_on_from_what_jumps_have_reached() {
    let (mut core, now) = (timed(&Limits { kept_bytes: 1 << 20, ..limits(8) }, 1), Instant::now());
    admit(&mut core, job(0, 1, 2), now);
    run(&mut core, now);
    let source = Source { walked: Some([0.0, 0.5].into()), ..Source::noise(0, 0, None) };
    admit(&mut core, Job { sources: vec![source], sampler: Sampler::Heun, ..job(0, 1, 4) }, now);
    let first = core.next_forward(DEVICE, now).unwrap();
    assert!(matches!(first.batch.rows[0].start, Some(crate::engine::Start::Noise)), "{first:?}");
    assert_eq!(first.batch.rows[0].evaluation.s, 0.0);
}

#[test]
fn a_curfew_ends_early_what_may_end_early() {
    let (mut core, now) = (timed(&limits(8), 1), Instant::now());
    let free = admit(&mut core, Job { min_steps: 1, ..job(0, 1, 200) }, now);
    let rigid = admit(&mut core, job(0, 1, 20), now);
    (0..3).for_each(|_| drop(forward(&mut core, now)));
    core.curfew(now + ms(20));
    let images = run(&mut core, now);
    let reason =
        |id| images.iter().find(|(job, ..)| *job == id).map(|(_, image, _)| (image.reason, image.times.len() - 1));
    assert!(matches!(reason(free), Some((StepsReason::Shutdown, 4..=8))), "{:?}", reason(free));
    assert_eq!(reason(rigid), Some((StepsReason::Asked, 20)));
}

#[test]
fn headroom_is_kept_before_the_deadline() {
    let headroom = Headroom { fraction: 0.5, most: ms(40) };
    let (mut core, now) = (timed(&Limits { headroom, ..limits(8) }, 1), Instant::now());
    admit(&mut core, hasty(8, now + ms(50)), now);
    let [(_, image, done)] = &run(&mut core, now)[..] else { panic!() };
    assert!(*done <= now + ms(25) && image.reason == StepsReason::Deadline, "{image:?}");
    let start = now + ms(1000);
    assert_eq!(headroom.target(start, start + ms(1000)), start + ms(960));
}
