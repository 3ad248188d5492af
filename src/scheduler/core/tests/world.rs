//! Whatever happens, every image ends exactly once: random worlds, small and shrinkable ones and a million requests.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::*;
use crate::domain::{Evaluation, Priority, Source, StepsReason, TimePairs};
use crate::engine::{RowStep, Start};
use crate::load::Random;
use crate::scheduler::{BrownOutLimits, Headroom};

/// One thing that happens to a core.
#[derive(Debug, Clone)]
enum Happening {
    Admit(Wish),
    Cancel(usize),
    Wait(u64),
    Forward(usize, Fate),
}

/// What a request asks for.
#[derive(Debug, Clone)]
struct Wish {
    model: usize,
    images: usize,
    steps: u32,
    min_steps: u32,
    sampler: Sampler,
    guided: bool,
    deadline_ms: Option<u64>,
    tenant: u8,
    priority: Priority,
    previews: bool,
}

/// The jumps that the second model knows.
const SHORTCUT: TimePairs = TimePairs::Dyadic { levels: 3 };

impl Wish {
    /// Such as passes validation: the second model jumps by powers of two only.
    fn fitted(self) -> Self {
        match self.model == 1 && self.sampler.jumps() {
            true => Self { steps: self.steps.next_power_of_two(), sampler: Sampler::FlowMap, ..self },
            false => self,
        }
    }
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

fn wish() -> impl Strategy<Value = Wish> {
    let size = (0usize..2, 1usize..8, 1u32..7, 1u32..7);
    let kind = (prop::sample::select(Sampler::ALL.to_vec()), any::<bool>(), prop::option::weighted(0.4, 0u64..60));
    let priority = prop::sample::select(vec![Priority::Low, Priority::Normal, Priority::High]);
    (size, kind, 0u8..3, priority, any::<bool>()).prop_map(|(size, kind, tenant, priority, previews)| {
        let ((model, images, steps, least), (sampler, guided, deadline_ms)) = (size, kind);
        let jumps = sampler.jumps();
        let min_steps = if jumps { least.min(steps) } else { steps };
        let previews = previews && jumps;
        Wish { model, images, steps, min_steps, sampler, guided, deadline_ms, tenant, priority, previews }
    })
}

fn happening() -> impl Strategy<Value = Happening> {
    let fate = prop_oneof![
        12 => Just(Fate::Good),
        1 => any::<usize>().prop_map(Fate::RowFails),
        1 => Just(Fate::Fails),
        1 => any::<usize>().prop_map(Fate::Cancelled),
    ];
    prop_oneof![
        3 => wish().prop_map(Happening::Admit),
        1 => any::<usize>().prop_map(Happening::Cancel),
        1 => (0u64..10).prop_map(Happening::Wait),
        6 => (0usize..2, fate).prop_map(|(device, fate)| Happening::Forward(device, fate)),
    ]
}

/// A core, and all that is known of its jobs and rows from outside.
struct World {
    core: Core,
    now: Instant,
    max_rows: usize,
    jobs: BTreeMap<JobId, Known>,
    /// Where each row is: its job, its device, its time, its evaluations.
    rows: BTreeMap<RowId, Place>,
    gone: BTreeSet<RowId>,
    count: Count,
}

struct Place {
    job: JobId,
    device: DeviceId,
    plan: Vec<Evaluation>,
    made: usize,
}

struct Known {
    wish: Wish,
    seen: BTreeSet<u32>,
    ended: bool,
    deadline: Option<Instant>,
}

/// Ends of requests.
#[derive(Debug, Default, Clone, Copy, PartialEq)]
struct Count {
    asked: u64,
    refused: u64,
    finished: u64,
    failed: u64,
    cancelled: u64,
    expired: u64,
}

impl World {
    fn new(max_rows: usize, devices: usize) -> Self {
        let limits = Limits {
            headroom: Headroom { fraction: 0.1, most: 5 * TICK },
            brown_out: Some(BrownOutLimits { utilisation: 0.9, window: 50 * TICK, min_steps: 1 }),
            preview_share: 0.5,
            kept_bytes: 1 << 12,
            ..limits(max_rows)
        };
        let shortcut = ModelInfo { time_pairs: SHORTCUT, ..model("b", 1) };
        let mut core = Core::new(&[model("a", 1), shortcut], &limits);
        let cost = Cost::known(Line { base: 0.000_5, per_row: 0.5e-3 / max_rows as f64 });
        (0..devices).for_each(|_| _ = core.add_device(vec![cost.clone(), cost.clone()]));
        let (jobs, rows, gone, count) = Default::default();
        Self { core, now: Instant::now(), max_rows, jobs, rows, gone, count }
    }

    fn live(&self, nth: usize) -> Option<JobId> {
        let mut live = self.jobs.iter().filter(|(_, known)| !known.ended).map(|(&id, _)| id);
        let count = live.clone().count();
        if count == 0 { None } else { live.nth(nth % count) }
    }

    fn happen(&mut self, happening: Happening) {
        match happening {
            Happening::Admit(wish) => self.admit(wish),
            Happening::Cancel(nth) => self.cancel(nth),
            Happening::Wait(ms) => self.now += Duration::from_millis(ms),
            Happening::Forward(device, fate) => drop(self.forward(DeviceId(device), fate)),
        }
    }

    fn admit(&mut self, wish: Wish) {
        let wish = wish.fitted();
        let deadline = wish.deadline_ms.map(|ms| self.now + Duration::from_millis(ms));
        let seed = self.count.asked;
        let label = |i: usize| (!i.is_multiple_of(3)).then_some(0);
        let job = Job {
            tenant: wish.tenant.to_string().into(),
            priority: wish.priority,
            sampler: wish.sampler,
            min_steps: wish.min_steps,
            sources: (0..wish.images).map(|i| Source::noise(seed, i as u32, label(i))).collect(),
            guidance: if wish.guided { 3.0 } else { 1.0 },
            deadline,
            previews: wish.previews.then(|| Vec::new().into()),
            ..job(wish.model, wish.images, wish.steps)
        };
        self.count.asked += 1;
        match self.core.admit(job, self.now) {
            Ok((id, accepted)) => {
                let each = wish.sampler.evaluations_per_step();
                assert!((wish.min_steps * each..=wish.steps * each).contains(&accepted.evaluations));
                let known = Known { wish, seen: BTreeSet::new(), ended: false, deadline };
                assert!(self.jobs.insert(id, known).is_none());
            }
            Err(Error::Overloaded { retry_after, predicted }) => {
                assert!(deadline.is_some() && predicted.is_some() && !retry_after.is_zero());
                self.count.refused += 1;
            }
            Err(other) => panic!("{other}"),
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
    fn forward(&mut self, device: DeviceId, fate: Fate) -> bool {
        let events = self.core.tick(self.now);
        self.hear(events);
        for device in (0..self.core.devices.len()).map(DeviceId) {
            for row in self.core.take_released(device) {
                assert_eq!(self.rows.remove(&row).map(|place| place.device), Some(device));
                self.gone.insert(row);
            }
        }
        let Some(forward) = self.core.next_forward(device, self.now) else { return false };
        assert!(self.core.next_forward(device, self.now).is_none(), "one forward at a time");
        self.inspect(device, &forward);
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
        let events = self.core.complete(device, result, TICK, self.now);
        self.hear(events);
        true
    }

    /// Checks the bounds of a forward and that each row walks its grid without a gap.
    fn inspect(&mut self, device: DeviceId, forward: &Forward) {
        let moving = forward.batch.rows.iter().filter(|step| step.purpose != Purpose::Preview);
        let distinct: BTreeSet<RowId> = moving.clone().map(|step| step.row).collect();
        assert_eq!(distinct.len(), moving.count(), "a row twice");
        let width = |step: &RowStep| if step.guidance != 1.0 && step.label.is_some() { 2 } else { 1 };
        assert_eq!(forward.batch.rows.iter().map(width).sum::<usize>(), forward.rows);
        assert!(forward.rows <= self.max_rows || forward.batch.rows.len() == 1);
        for step in &forward.batch.rows {
            assert!(!self.gone.contains(&step.row), "a released row");
            let (pairs, (s, t)) =
                (self.core.models[forward.batch.model.0].info.time_pairs, step.evaluation.network_times());
            assert!(pairs.contains(s, t), "a jump that the model does not know: {s} {t}");
            if step.purpose == Purpose::Preview {
                assert_eq!((step.evaluation.t, self.rows[&step.row].device), (1.0, device));
                continue;
            }
            if step.start.is_some() {
                self.begin(device, step, forward.batch.model);
            }
            self.walk(device, step);
        }
    }

    fn begin(&mut self, device: DeviceId, step: &RowStep, model: ModelKey) {
        assert!(matches!(step.start, Some(Start::Noise)), "nothing is continued here");
        let job =
            self.core.models[model.0].queue.by_target().find(|(_, job)| job.held().any(|(_, row)| row == step.row));
        let id = job.unwrap().0;
        let known = &self.jobs[&id];
        assert!(!known.ended && known.deadline.is_none_or(|deadline| deadline > self.now));
        let place = Place { job: id, device, plan: Vec::new(), made: 0 };
        assert!(self.rows.insert(step.row, place).is_none(), "a row begins twice");
    }

    fn walk(&mut self, device: DeviceId, step: &RowStep) {
        let place = self.rows.get_mut(&step.row).unwrap();
        let wish = &self.jobs[&place.job].wish;
        assert_eq!(place.device, device);
        let was = place
            .plan
            .last()
            .map_or(0.0, |last| if last.rule == crate::domain::Rule::HeunPredict { last.s } else { last.t });
        assert_eq!(step.evaluation.s, was, "a gap");
        place.plan.push(step.evaluation);
        place.made += 1;
        let each = wish.sampler.evaluations_per_step() as usize;
        assert!(place.made <= wish.steps as usize * each);
        if matches!(step.purpose, Purpose::Finish { .. }) {
            assert!(step.evaluation.t == 1.0 && place.made >= wish.min_steps as usize * each);
        }
    }

    fn hear(&mut self, events: Vec<Event>) {
        for Event { job, event, lost } in events {
            let known = self.jobs.get_mut(&job).unwrap();
            assert!(!known.ended, "an event after the end");
            let images = known.wish.images;
            match event {
                JobEvent::Preview(preview) => {
                    assert!(known.wish.previews && !known.seen.contains(&preview.index), "after the image");
                    assert!((1..known.wish.steps).contains(&preview.evaluations));
                }
                JobEvent::Image(image) => {
                    let steps = image.times.len() as u32 - 1;
                    assert!((known.wish.min_steps..=known.wish.steps).contains(&steps));
                    assert_eq!(steps == known.wish.steps, image.reason == StepsReason::Asked);
                    assert!(known.seen.insert(image.index), "an image twice");
                }
                JobEvent::Finished(summary) => {
                    assert_eq!((known.seen.len(), summary.images as usize), (images, images));
                    self.count.finished += 1;
                    known.ended = true;
                }
                JobEvent::Failed(error) => {
                    assert_eq!(known.seen.len() + lost as usize, images);
                    *match error {
                        Error::Cancelled => &mut self.count.cancelled,
                        Error::DeadlineExceeded => &mut self.count.expired,
                        _ => &mut self.count.failed,
                    } += 1;
                    known.ended = true;
                }
            }
        }
    }

    /// Runs everything to its end, in at most as many forwards as there are evaluations.
    fn rest(&mut self) {
        let most: usize = self.jobs.values().map(|known| 2 * known.wish.images * known.wish.steps as usize).sum();
        let devices = self.core.devices.len();
        for _ in 0..=most {
            let worked = (0..devices).map(|device| self.forward(DeviceId(device), Fate::Good)).filter(|&w| w).count();
            if worked == 0 {
                break;
            }
        }
        let Count { asked, refused, finished, failed, cancelled, expired } = self.count;
        assert_eq!(asked, refused + finished + failed + cancelled + expired, "{:?}", self.count);
        assert!(self.core.is_idle() && self.jobs.values().all(|known| known.ended));
        assert!(self.core.time_per_image().is_zero());
        assert!(self.core.models.iter().all(|model| model.queue.is_pristine()), "nothing is left behind");
        assert!(self.core.devices.iter().all(|device| device.released.is_empty() && device.running.is_none()));
        assert!(self.core.kept_bytes() <= 1 << 12);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    /// Every image ends exactly once, no row is twice in a batch, leaves its device or misses a step of its grid,
    /// batches are within bounds, floors are kept, and what is left ends.
    #[test]
    fn whatever_happens_every_image_ends_once(
        max_rows in 1usize..9,
        devices in 1usize..3,
        happenings in prop::collection::vec(happening(), 1..80),
    ) {
        let mut world = World::new(max_rows, devices);
        happenings.into_iter().for_each(|happening| world.happen(happening));
        world.rest();
    }
}

/// Draws happenings.
struct Dice(Random);

impl Dice {
    fn below(&mut self, bound: u64) -> u64 {
        self.0.next_u64() % bound
    }

    fn happening(&mut self) -> Happening {
        match self.below(100) {
            0..50 => Happening::Admit(self.wish()),
            50..54 => Happening::Cancel(self.below(1000) as usize),
            54..60 => Happening::Wait(self.below(2)),
            dice => Happening::Forward((dice % 2) as usize, self.fate()),
        }
    }

    fn wish(&mut self) -> Wish {
        let steps = 1 + self.below(6) as u32;
        let sampler = if self.below(8) == 0 { Sampler::Heun } else { Sampler::FlowMap };
        let jumps = sampler.jumps();
        Wish {
            model: self.below(2) as usize,
            images: 1 + self.below(3) as usize,
            steps,
            min_steps: if jumps { 1 + self.below(steps.into()) as u32 } else { steps },
            sampler,
            guided: self.below(4) == 0,
            deadline_ms: (self.below(10) > 0).then(|| 2 + self.below(40)),
            tenant: self.below(5) as u8,
            priority: [Priority::Low, Priority::Normal, Priority::High][self.below(3) as usize],
            previews: jumps && self.below(4) == 0,
        }
    }

    fn fate(&mut self) -> Fate {
        match self.below(200) {
            0 => Fate::Fails,
            1 => Fate::RowFails(self.below(64) as usize),
            2 | 3 => Fate::Cancelled(self.below(64) as usize),
            _ => Fate::Good,
        }
    }
}

/// A million requests, in worlds that are emptied now and then.
#[test]
fn a_million_requests_end_once_each() {
    const REQUESTS: u64 = 1_000_000;
    const THREADS: u64 = 2;
    const WORLD: u64 = 2000;
    let soak = |thread: u64| {
        let (mut dice, mut total) = (Dice(Random::new(1, thread)), Count::default());
        while total.asked < REQUESTS / THREADS {
            let mut world = World::new(8 + dice.below(57) as usize, 1 + dice.below(2) as usize);
            while world.count.asked < WORLD {
                world.happen(dice.happening());
                world.jobs.retain(|_, known| !known.ended);
            }
            world.rest();
            total.asked += world.count.asked;
            total.refused += world.count.refused;
            total.finished += world.count.finished;
            total.failed += world.count.failed;
            total.cancelled += world.count.cancelled;
            total.expired += world.count.expired;
        }
        total
    };
    let counts: Vec<Count> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..THREADS).map(|thread| scope.spawn(move || soak(thread))).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    for count in counts {
        assert!(count.asked >= REQUESTS / THREADS, "{count:?}");
        let kinds = [count.refused, count.finished, count.failed, count.cancelled, count.expired];
        assert!(kinds.iter().all(|&kind| kind > 100), "every end is met: {count:?}");
    }
}
