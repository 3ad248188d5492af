//! The core in virtual time.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::*;
use crate::domain::{Evaluation, Sampler, TimeGrid};
use crate::engine::Start;
use crate::scheduler::testing::{job, limits, model};

const TICK: Duration = Duration::from_millis(1);

fn core(max_rows: usize) -> Core {
    let catalogue: Arc<[ModelInfo]> = vec![model("a", 1), model("b", 1)].into();
    Core::new(&catalogue, Vec::new(), &limits(max_rows))
}

fn admit(core: &mut Core, job: Job, now: Instant) {
    core.admit(job, now).unwrap();
}

/// Every row moves; those at their last evaluation end.
fn outcomes(forward: &Forward) -> Vec<Outcome> {
    let end = |last| if last { Outcome::Finished(vec![0.0]) } else { Outcome::Running };
    forward.batch.rows.iter().map(|step| end(step.last)).collect()
}

/// Runs one forward and returns it with its events.
fn forward(core: &mut Core, now: Instant) -> Option<(Forward, Vec<Event>)> {
    let forward = core.next_forward(now)?;
    let events = core.complete(Ok(outcomes(&forward)), TICK, now + TICK);
    Some((forward, events))
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
        (0..4).for_each(|_| admit(&mut core, job(0, 1, 1), now));
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
    let catalogue: Arc<[ModelInfo]> = vec![model("a", 1)].into();
    let mut cost = Cost::default();
    for rows in [1usize, 2, 4, 8] {
        cost.observe(rows, Duration::from_millis(10 + rows as u64));
    }
    let limits = Limits { max_step: Duration::from_micros(15_500), ..limits(64) };
    let mut core = Core::new(&catalogue, vec![cost], &limits);
    let now = Instant::now();
    core.admit(job(0, 20, 2), now).unwrap();
    assert_eq!(core.next_forward(now).unwrap().rows, 5);
    // 40 rows in forwards of 5, which take 15 ms each, for 20 images.
    assert!(core.time_per_image().abs_diff(Duration::from_millis(6)) < Duration::from_micros(10));
}

#[test]
fn an_image_under_guidance_counts_twice_and_one_always_fits() {
    let guided = || Job { labels: vec![Some(0); 3], guidance: 2.0, ..job(0, 3, 1) };
    for (max_rows, images) in [(1, 1), (3, 1), (4, 2)] {
        let mut core = core(max_rows);
        core.admit(guided(), Instant::now()).unwrap();
        let forward = core.next_forward(Instant::now()).unwrap();
        assert_eq!((forward.batch.rows.len(), forward.rows), (images, 2 * images));
    }
}

#[test]
fn a_failed_row_ends_its_job_alone() {
    let (mut core, now) = (core(8), Instant::now());
    let (bad, _) = core.admit(job(0, 3, 2), now).unwrap();
    let (good, _) = core.admit(job(0, 1, 2), now).unwrap();
    let forward_1 = core.next_forward(now).unwrap();
    let mut made = outcomes(&forward_1);
    made[0] = Outcome::Failed("not finite".into());
    let events = core.complete(Ok(made), TICK, now);
    assert!(matches!(&events[..], [Event { job, event: JobEvent::Failed(Error::Compute(_)), lost: 3 }] if *job == bad));
    assert_eq!(core.take_released().len(), 3);
    assert_eq!(finished(&forward(&mut core, now).unwrap().1), [good.number]);
}

#[test]
fn a_failed_forward_ends_its_jobs_and_no_others() {
    let (mut core, now) = (core(2), Instant::now());
    let jobs: Vec<u64> = (0..3).map(|_| core.admit(job(0, 1, 1), now).unwrap().0.number).collect();
    core.next_forward(now).unwrap();
    let events = core.complete(Err(Error::Compute("no memory".into())), TICK, now);
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

/// One thing that happens to a core.
#[derive(Debug, Clone)]
enum Happening {
    Admit { model: usize, images: usize, steps: u32, sampler: Sampler, guided: bool, deadline_ms: Option<u64> },
    Cancel(usize),
    Wait(u64),
    Forward(Fate),
}

/// How a forward ends.
#[derive(Debug, Clone)]
enum Fate {
    Good,
    RowFails(usize),
    Fails,
    /// A job is cancelled while the forward is out.
    Cancelled(usize),
}

fn happening() -> impl Strategy<Value = Happening> {
    let fate = prop_oneof![
        12 => Just(Fate::Good),
        1 => any::<usize>().prop_map(Fate::RowFails),
        1 => Just(Fate::Fails),
        1 => any::<usize>().prop_map(Fate::Cancelled),
    ];
    let admit = (
        (0usize..2, 1usize..8, 1u32..6),
        prop::sample::select(Sampler::ALL.to_vec()),
        any::<bool>(),
        prop::option::weighted(0.2, 0u64..40),
    );
    prop_oneof![
        3 => admit.prop_map(|((model, images, steps), sampler, guided, deadline_ms)| {
            Happening::Admit { model, images, steps, sampler, guided, deadline_ms }
        }),
        1 => any::<usize>().prop_map(Happening::Cancel),
        1 => (0u64..10).prop_map(Happening::Wait),
        6 => fate.prop_map(Happening::Forward),
    ]
}

/// A core, and all that is known of its jobs and rows from outside.
struct World {
    core: Core,
    now: Instant,
    max_rows: usize,
    jobs: BTreeMap<JobId, Known>,
    /// Evaluations of each row so far, and its plan.
    rows: BTreeMap<RowId, (usize, Vec<Evaluation>)>,
    gone: BTreeSet<RowId>,
}

struct Known {
    plan: Vec<Evaluation>,
    images: usize,
    seen: BTreeSet<u32>,
    ended: bool,
    deadline: Option<Instant>,
    seed: u64,
}

impl World {
    fn new(max_rows: usize) -> Self {
        let (jobs, rows, gone) = Default::default();
        Self { core: core(max_rows), now: Instant::now(), max_rows, jobs, rows, gone }
    }

    fn live(&self, nth: usize) -> Option<JobId> {
        let live: Vec<JobId> = self.jobs.iter().filter(|(_, known)| !known.ended).map(|(&id, _)| id).collect();
        (!live.is_empty()).then(|| live[nth % live.len()])
    }

    fn happen(&mut self, happening: Happening) {
        match happening {
            Happening::Admit { model, images, steps, sampler, guided, deadline_ms } => {
                let labels = (0..images).map(|i| (i % 3 > 0).then_some(0)).collect();
                let deadline = deadline_ms.map(|ms| self.now + Duration::from_millis(ms));
                let guidance = if guided { 3.0 } else { 1.0 };
                let seed = self.jobs.len() as u64;
                let job = Job { sampler, guidance, labels, deadline, seed, ..job(model, images, steps) };
                let plan = sampler.plan(&TimeGrid::uniform(steps));
                let (id, accepted) = self.core.admit(job, self.now).unwrap();
                assert_eq!(accepted.evaluations as usize, plan.len());
                let known = Known { plan, images, seen: BTreeSet::new(), ended: false, deadline, seed };
                assert!(self.jobs.insert(id, known).is_none());
            }
            Happening::Cancel(nth) => self.cancel(nth),
            Happening::Wait(ms) => self.now += Duration::from_millis(ms),
            Happening::Forward(fate) => drop(self.forward(fate)),
        }
    }

    fn cancel(&mut self, nth: usize) {
        if let Some(id) = self.live(nth) {
            let event = self.core.cancel(id).unwrap();
            self.hear(vec![event]);
            assert!(self.core.cancel(id).is_none());
        }
    }

    /// What a worker does between two forwards, then a forward. Returns whether there was one.
    fn forward(&mut self, fate: Fate) -> bool {
        let events = self.core.expire(self.now);
        self.hear(events);
        self.gone.extend(self.core.take_released());
        let Some(forward) = self.core.next_forward(self.now) else {
            assert!(self.core.is_idle());
            return false;
        };
        assert!(self.core.next_forward(self.now).is_none(), "one forward at a time");
        self.inspect(&forward);
        self.now += TICK;
        let mut made = outcomes(&forward);
        let result = match fate {
            Fate::Good => Ok(made),
            Fate::Fails => Err(Error::Compute("scripted".into())),
            Fate::RowFails(nth) => {
                let nth = nth % made.len();
                made[nth] = Outcome::Failed("scripted".into());
                Ok(made)
            }
            Fate::Cancelled(nth) => {
                self.cancel(nth);
                Ok(made)
            }
        };
        let events = self.core.complete(result, TICK, self.now);
        self.hear(events);
        true
    }

    /// Checks the bounds of a forward and that each row's evaluations are its plan, in order.
    fn inspect(&mut self, forward: &Forward) {
        let distinct: BTreeSet<RowId> = forward.batch.rows.iter().map(|step| step.row).collect();
        assert_eq!(distinct.len(), forward.batch.rows.len(), "a row twice");
        let widths =
            forward.batch.rows.iter().map(|step| if step.guidance != 1.0 && step.label.is_some() { 2 } else { 1 });
        assert_eq!(widths.sum::<usize>(), forward.rows);
        assert!(forward.rows <= self.max_rows || forward.batch.rows.len() == 1);
        for step in &forward.batch.rows {
            assert!(!self.gone.contains(&step.row), "a released row");
            if let Some(Start::Noise { seed, .. }) = step.start {
                let (id, known) = self.jobs.iter().find(|(_, known)| known.seed == seed).unwrap();
                assert!(!known.ended && id.model == forward.batch.model);
                assert!(known.deadline.is_none_or(|deadline| deadline > self.now));
                assert!(self.rows.insert(step.row, (0, known.plan.clone())).is_none(), "a row begins twice");
            }
            let (done, plan) = self.rows.get_mut(&step.row).unwrap();
            assert_eq!(step.evaluation, plan[*done]);
            *done += 1;
            assert_eq!(step.last, *done == plan.len());
        }
    }

    fn hear(&mut self, events: Vec<Event>) {
        for Event { job, event, lost } in events {
            let known = self.jobs.get_mut(&job).unwrap();
            assert!(!known.ended, "an event after the end");
            match event {
                JobEvent::Image(image) => assert!(known.seen.insert(image.index), "an image twice"),
                JobEvent::Finished(summary) => {
                    assert_eq!((known.seen.len(), summary.images as usize), (known.images, known.images));
                    assert_eq!(summary.evaluations as usize, known.images * known.plan.len());
                    known.ended = true;
                }
                JobEvent::Failed(_) => {
                    assert_eq!(known.seen.len() + lost as usize, known.images);
                    known.ended = true;
                }
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    /// Whatever happens: every image ends exactly once, no row is twice in a batch or out of order, batches are within
    /// bounds, and what is left ends in as many forwards as it has evaluations at most.
    #[test]
    fn whatever_happens_every_image_ends_once(
        max_rows in 1usize..9,
        happenings in prop::collection::vec(happening(), 1..80),
    ) {
        let mut world = World::new(max_rows);
        happenings.into_iter().for_each(|happening| world.happen(happening));
        let most: usize = world.jobs.values().map(|known| known.images * known.plan.len()).sum();
        let rest = (0..=most).take_while(|_| world.forward(Fate::Good)).count();
        prop_assert!(rest <= most && world.core.is_idle());
        prop_assert!(world.jobs.values().all(|known| known.ended));
        prop_assert!(world.core.time_per_image().is_zero());
    }

    /// Only what is ahead of a newcomer runs before it, on a full device, whatever else is queued.
    #[test]
    fn no_newcomer_waits_longer_than_its_place(
        max_rows in 1usize..6,
        others in prop::collection::vec((1usize..200, 1u32..9), 1..8),
        head_start in 0usize..60,
    ) {
        let (mut core, now) = (core(max_rows), Instant::now());
        let longest = others.iter().map(|&(_, steps)| steps as usize).max().unwrap_or(1);
        others.iter().for_each(|&(images, steps)| admit(&mut core, job(0, images, steps), now));
        (0..head_start).for_each(|_| drop(forward(&mut core, now)));
        let (id, accepted) = core.admit(Job { seed: 99, ..job(0, 1, 1) }, now).unwrap();
        let bound = accepted.queue_position * longest / max_rows;
        let ends = |core: &mut Core| finished(&forward(core, now).unwrap().1).contains(&id.number);
        let waited = (0..=bound).position(|_| ends(&mut core));
        prop_assert!(waited.is_some(), "{accepted:?} {bound}");
    }
}
