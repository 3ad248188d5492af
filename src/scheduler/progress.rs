//! How far one job has come: which of its images are waiting, in flight, finished.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::DeviceId;
use super::image::{InFlight, Outlook};
use super::kept::{Kept, Key};
use super::tags::{Tags, VirtualTime};
use crate::domain::{
    Evaluation, Guidance, Image, Job, ModelKey, NoiseKey, Preview, Source, StepsReason, Summary, TimePairs,
};
use crate::engine::{Outcome, Purpose, RowId, RowStep, Start};

/// Identity of an admitted job; later jobs have greater numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct JobId {
    /// Counts from 0.
    pub number: u64,
    /// The job's model.
    pub model: ModelKey,
}

/// A job between admission and its end. Images that have not begun cost no memory.
#[derive(Debug)]
pub(super) struct Progress {
    job: Job,
    /// The evaluations of every image, by steps: those asked for first, then those that were given instead.
    plans: Vec<(u32, Arc<[Evaluation]>)>,
    /// Steps with which images begin, where nothing else keeps them from it.
    steps: u32,
    /// How the model takes guidance.
    guidance: Guidance,
    /// The jumps that the model knows.
    pairs: TimePairs,
    tags: Tags,
    admitted: Instant,
    /// When it should be finished.
    target: Instant,
    /// Images in flight, by index and by row id at once: both rise.
    rows: Vec<InFlight>,
    /// Index of the first image that has not begun.
    waiting_from: u32,
    /// Device rows that one evaluation of each waiting image takes.
    waiting_width: u64,
    images: u32,
    finished: u32,
    /// Finished images with all the steps that were asked for.
    full: u32,
    /// Evaluations made, of all images.
    evaluations: u64,
}

/// Circumstances of an admission.
#[derive(Debug, Clone, Copy)]
pub(super) struct Admission {
    pub(super) guidance: Guidance,
    pub(super) pairs: TimePairs,
    /// Virtual time of its tenant.
    pub(super) turn: VirtualTime,
    pub(super) now: Instant,
    pub(super) target: Instant,
    /// Steps that overload leaves it.
    pub(super) steps: u32,
}

/// Goes through a job's unfinished images that a device may evaluate: those in flight there, then those waiting.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub(super) struct Cursor(usize);

/// What became of a job's row in one forward.
#[derive(Debug)]
pub(super) enum Settled {
    /// The row goes on, or was not this job's any more.
    Running,
    /// There is something to show.
    Preview(Preview),
    /// An image is finished; the state from which it can be continued, if that was kept.
    Image(Image, Option<(Key, Vec<f32>)>),
    /// The image cannot be made.
    Failed(String),
}

impl Progress {
    /// A job that was admitted under `admission`.
    pub(super) fn new(job: Job, admission: Admission) -> Self {
        let Admission { guidance, pairs, turn, now, target, steps } = admission;
        let asked: Arc<[Evaluation]> = job.sampler.plan(&job.grid).into();
        let width = |source: &Source| guidance.rows(job.guidance, source.label) as u64;
        let waiting_width: u64 = job.sources.iter().map(width).sum();
        let images = u32::try_from(job.sources.len()).unwrap_or(u32::MAX);
        let work = waiting_width * asked.len() as u64 / u64::from(images.max(1));
        Self {
            tags: Tags::new(turn, work, job.priority),
            plans: vec![(u32::try_from(job.grid.steps()).unwrap_or(u32::MAX), asked)],
            steps,
            guidance,
            pairs,
            admitted: now,
            target,
            rows: Vec::new(),
            waiting_from: 0,
            waiting_width,
            images,
            finished: 0,
            full: 0,
            evaluations: 0,
            job,
        }
    }

    /// On whose account the device works.
    pub(super) fn tenant(&self) -> &Arc<str> {
        &self.job.tenant
    }

    /// When it should be finished.
    pub(super) fn target(&self) -> Instant {
        self.target
    }

    /// When its answer is worth nothing any more.
    pub(super) fn deadline(&self) -> Option<Instant> {
        self.job.deadline
    }

    /// Evaluations that an image takes as it is planned now.
    pub(super) fn evaluations_per_image(&self) -> usize {
        (self.steps * self.job.sampler.evaluations_per_step()) as usize
    }

    /// Evaluations after which an image may be finished.
    pub(super) fn floor(&self) -> usize {
        (self.job.min_steps * self.job.sampler.evaluations_per_step()) as usize
    }

    /// Whether an image is always one jump from its end.
    pub(super) fn can_jump(&self) -> bool {
        self.job.sampler.jumps()
    }

    /// Images that have not begun.
    pub(super) fn waiting(&self) -> usize {
        (self.images - self.waiting_from) as usize
    }

    /// Images in flight.
    pub(super) fn running(&self) -> usize {
        self.rows.len()
    }

    /// Images that are not finished.
    pub(super) fn missing(&self) -> u32 {
        self.images - self.finished
    }

    /// Device rows that the evaluations take without which its images cannot end.
    pub(super) fn mandatory_work(&self) -> u64 {
        let floor = self.floor();
        let row = |row: &InFlight| (row.mandatory(floor) * self.width(row.index)) as u64;
        self.waiting_width * floor as u64 + self.rows.iter().map(row).sum::<u64>()
    }

    /// Device rows that all missing evaluations take, as planned.
    pub(super) fn planned_work(&self) -> u64 {
        let row = |row: &InFlight| (row.remaining() * self.width(row.index)) as u64;
        self.waiting_width * self.evaluations_per_image() as u64 + self.rows.iter().map(row).sum::<u64>()
    }

    /// Forwards that its images need as planned, where `rows` of their device rows fit into each.
    pub(super) fn forwards(&self, rows: u64) -> u64 {
        let longest = self.rows.iter().map(InFlight::remaining).max().unwrap_or(0);
        let waiting = if self.waiting_width > 0 { self.evaluations_per_image() } else { 0 };
        (longest.max(waiting) as u64).max(self.planned_work().div_ceil(rows.max(1)))
    }

    /// Whether the answer is worth nothing any more.
    pub(super) fn is_expired(&self, now: Instant) -> bool {
        self.job.deadline.is_some_and(|deadline| deadline <= now)
    }

    /// When the turn of image `index` comes among those of its tenant.
    pub(super) fn tag(&self, index: u32) -> VirtualTime {
        self.tags.of(index)
    }

    /// Unfinished images whose turn came by `time`.
    pub(super) fn due(&self, time: VirtualTime) -> usize {
        let flying = self.rows.iter().filter(|row| self.tag(row.index) <= time).count();
        flying + (self.waiting_from..self.images).take_while(|&index| self.tag(index) <= time).count()
    }

    /// The next image that `device` may evaluate.
    pub(super) fn advance(&self, cursor: &mut Cursor, device: DeviceId) -> Option<u32> {
        while let Some(row) = self.rows.get(cursor.0) {
            cursor.0 += 1;
            if row.device == device {
                return Some(row.index);
            }
        }
        let index = self.waiting_from + u32::try_from(cursor.0 - self.rows.len()).ok()?;
        cursor.0 += 1;
        (index < self.images).then_some(index)
    }

    /// Device rows that one evaluation of image `index` takes.
    pub(super) fn width(&self, index: u32) -> usize {
        self.guidance.rows(self.job.guidance, self.label(index))
    }

    /// Whether image `index` has not begun.
    pub(super) fn is_waiting(&self, index: u32) -> bool {
        index >= self.waiting_from
    }

    /// Begins image `index`, the first that waits, as row `id` on `device`.
    pub(super) fn begin(
        &mut self,
        index: u32,
        id: RowId,
        device: DeviceId,
        outlook: &Outlook,
        kept: &mut Kept,
    ) -> Start {
        let (steps, reason) = self.entry(outlook);
        let mut row = InFlight {
            id,
            index,
            device,
            plan: self.plan(steps),
            pairs: self.pairs,
            done: 0,
            made: 0,
            finishing: false,
            reason,
            begun: outlook.now,
        };
        let mut start = self.start(index);
        let source = self.job.sources.get(index as usize);
        if let Some((source, walked)) = source.and_then(|source| Some((source, source.walked.as_deref()?))) {
            row.reason = StepsReason::Asked;
            row.plan = self.job.grid.after(walked).map_or(row.plan, |grid| self.job.sampler.plan(&grid).into());
            // What is kept is of jumps from noise, and its key says nothing else.
            let may_be_kept = self.can_jump() && self.job.initial.is_none();
            let key = || Key::new(&self.job, source, walked);
            if let Some(states) = may_be_kept.then(key).and_then(|key| kept.get(&key)) {
                row.done = walked.len() - 1;
                start = Start::State { states, index: 0, noised_to: None };
            }
        }
        self.waiting_width = self.waiting_width.saturating_sub(self.width(index) as u64);
        self.waiting_from = index + 1;
        self.rows.push(row);
        start
    }

    /// The next evaluation of image `index`, which is in flight; `start` where it has just begun.
    pub(super) fn step(&mut self, index: u32, start: Option<Start>, outlook: &Outlook, keeps: bool) -> Option<RowStep> {
        let (can_jump, from_noise) = (self.can_jump(), self.job.initial.is_none());
        let (label, noise) = (self.label(index), self.noise_key(index));
        let at = self.rows.binary_search_by_key(&index, |row| row.index).ok()?;
        let row = &mut self.rows[at];
        if can_jump {
            row.decide(outlook);
        }
        let evaluation = row.next()?;
        let keep = keeps && can_jump && from_noise && row.done > 0;
        let purpose = if row.remaining() == 1 { Purpose::Finish { keep } } else { Purpose::Advance };
        Some(RowStep { row: row.id, start, noise, evaluation, label, guidance: self.job.guidance, purpose })
    }

    /// The preview that may go beside `step`, which is about to be made, and its device rows; if one is wanted there.
    pub(super) fn preview(&self, step: &RowStep) -> Option<(RowStep, usize)> {
        let wanted = self.job.previews.as_deref()?;
        let at = self.rows.binary_search_by_key(&step.row, |row| row.id).ok()?;
        let row = &self.rows[at];
        let (evaluation, evaluations) = row.preview().filter(|_| step.purpose == Purpose::Advance)?;
        let is_wanted = wanted.is_empty() || wanted.binary_search(&evaluations).is_ok();
        let preview = || RowStep { evaluation, purpose: Purpose::Preview, ..step.clone() };
        is_wanted.then(|| (preview(), self.width(row.index)))
    }

    /// How long images that begin at `now` have waited.
    pub(super) fn queued(&self, now: Instant) -> Duration {
        now.saturating_duration_since(self.admitted)
    }

    /// Takes in what became of row `id`.
    pub(super) fn settle(&mut self, id: RowId, outcome: Outcome, now: Instant) -> Settled {
        let Ok(at) = self.rows.binary_search_by_key(&id, |row| row.id) else {
            return Settled::Running;
        };
        if let Outcome::Preview(state) = outcome {
            let row = &self.rows[at];
            let evaluations = u32::try_from(row.done + 1).unwrap_or(u32::MAX);
            return Settled::Preview(Preview { index: row.index, state, evaluations });
        }
        let row = &mut self.rows[at];
        let is_last = row.remaining() == 1;
        row.made += 1;
        self.evaluations += 1;
        match outcome {
            Outcome::Failed(reason) => Settled::Failed(reason),
            Outcome::Running if !is_last => {
                row.done += 1;
                Settled::Running
            }
            Outcome::Finished { state, before } if is_last => self.finish(at, state, before, now),
            _ => Settled::Failed("the engine returned something else than a finished image".into()),
        }
    }

    fn finish(&mut self, at: usize, state: Vec<f32>, before: Option<Vec<f32>>, now: Instant) -> Settled {
        let row = self.rows.remove(at);
        self.finished += 1;
        self.full += u32::from(row.reason == StepsReason::Asked);
        let source = self.job.sources.get(row.index as usize);
        let key = |source| Key::new(&self.job, source, &row.walked());
        let kept = before.zip(source).map(|(before, source)| (key(source), before));
        let image = Image {
            index: row.index,
            state,
            times: row.visited(),
            evaluations: row.made,
            reason: row.reason,
            queued: row.begun.saturating_duration_since(self.admitted),
            computed: now.saturating_duration_since(row.begun),
        };
        Settled::Image(image, kept)
    }

    /// The summary, once every image is finished.
    pub(super) fn summary(&self, now: Instant) -> Option<Summary> {
        (self.finished == self.images).then(|| Summary {
            images: self.images,
            full: self.full,
            evaluations: self.evaluations,
            total: now.saturating_duration_since(self.admitted),
        })
    }

    /// The rows that engines hold for this job, and where.
    pub(super) fn held(&self) -> impl Iterator<Item = (DeviceId, RowId)> + '_ {
        self.rows.iter().map(|row| (row.device, row.id))
    }

    /// Steps with which an image begins now, and why.
    fn entry(&self, outlook: &Outlook) -> (u32, StepsReason) {
        let fewer = if self.can_jump() { outlook.entry(self.steps) } else { self.steps };
        let steps = self.pairs.steps_from(fewer, self.job.sampler, &self.job.grid).min(self.steps);
        match steps {
            _ if steps < self.steps => (steps, outlook.cause),
            _ if steps < self.plans[0].0 => (steps, StepsReason::Overload),
            _ => (steps, StepsReason::Asked),
        }
    }

    /// The evaluations of an image in `steps` steps.
    fn plan(&mut self, steps: u32) -> Arc<[Evaluation]> {
        if let Some((_, plan)) = self.plans.iter().find(|(known, _)| *known == steps) {
            return Arc::clone(plan);
        }
        let plan: Arc<[Evaluation]> = self.job.sampler.plan(&self.job.grid.coarsen(steps)).into();
        self.plans.push((steps, Arc::clone(&plan)));
        plan
    }

    fn label(&self, index: u32) -> Option<u32> {
        self.job.sources.get(index as usize).and_then(|source| source.label)
    }

    fn noise_key(&self, index: u32) -> NoiseKey {
        self.job.sources.get(index as usize).map_or(NoiseKey { seed: 0, index }, Source::noise_key)
    }

    fn start(&self, index: u32) -> Start {
        match &self.job.initial {
            Some(initial) => Start::State { states: Arc::clone(&initial.states), index, noised_to: initial.noised_to },
            None => Start::Noise,
        }
    }
}
