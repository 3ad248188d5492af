//! How far one job has come: which of its images are waiting, in flight, finished.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::tags::{Tags, VirtualTime};
use crate::domain::{Evaluation, Guidance, Image, Job, ModelKey, Summary};
use crate::engine::{Outcome, RowId, RowStep, Start};

/// Identity of an admitted job; later jobs have greater numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct JobId {
    pub(super) number: u64,
    pub(super) model: ModelKey,
}

/// The order of choice: the image's tag, then the job that came first, then which of the job's unfinished images.
pub(super) type Rank = (VirtualTime, JobId, usize);

/// A job between admission and its end. Images that have not begun cost no memory.
#[derive(Debug)]
pub(super) struct Progress {
    job: Job,
    /// The evaluations of every image, shared by all of them.
    plan: Arc<[Evaluation]>,
    /// How the model takes guidance.
    guidance: Guidance,
    tags: Tags,
    admitted: Instant,
    /// Images in flight, by index and by row id at once: both rise.
    rows: Vec<Row>,
    /// Index of the first image that has not begun.
    waiting_from: u32,
    images: u32,
    finished: u32,
    /// Evaluations made, of all images.
    evaluations: u64,
    /// Device rows that all missing evaluations will take.
    work: u64,
}

/// An image in flight.
#[derive(Debug)]
struct Row {
    id: RowId,
    index: u32,
    /// Evaluations made.
    done: usize,
    begun: Instant,
}

/// What became of a job's row in one forward.
#[derive(Debug)]
pub(super) enum Settled {
    /// The row goes on, or was not this job's any more.
    Running,
    /// An image is finished.
    Image(Image),
    /// The image cannot be made.
    Failed(String),
}

impl Progress {
    /// A job of a model that takes guidance as `guidance`, admitted `now`; its first image's turn comes at `turn`.
    pub(super) fn new(job: Job, guidance: Guidance, turn: VirtualTime, now: Instant) -> Self {
        let plan: Arc<[Evaluation]> = job.sampler.plan(&job.grid).into();
        let widths: u64 = job.labels.iter().map(|&label| guidance.rows(job.guidance, label) as u64).sum();
        let work = widths * plan.len() as u64;
        let images = u32::try_from(job.labels.len()).unwrap_or(u32::MAX);
        Self {
            tags: Tags::new(turn, work / u64::from(images.max(1))),
            plan,
            guidance,
            admitted: now,
            rows: Vec::new(),
            waiting_from: 0,
            images,
            finished: 0,
            evaluations: 0,
            work,
            job,
        }
    }

    /// Evaluations that each image takes.
    pub(super) fn evaluations_per_image(&self) -> usize {
        self.plan.len()
    }

    /// Images that have not begun.
    pub(super) fn waiting(&self) -> usize {
        (self.images - self.waiting_from) as usize
    }

    /// Images in flight.
    pub(super) fn running(&self) -> usize {
        self.rows.len()
    }

    /// Device rows that all missing evaluations will take.
    pub(super) fn work(&self) -> u64 {
        self.work
    }

    /// Images that are not finished.
    pub(super) fn missing(&self) -> u32 {
        self.images - self.finished
    }

    /// Whether the answer is worth nothing any more.
    pub(super) fn is_expired(&self, now: Instant) -> bool {
        self.job.deadline.is_some_and(|deadline| deadline <= now)
    }

    /// Where the `nth` unfinished image of this job, which is job `id`, stands in the order of choice.
    pub(super) fn rank(&self, id: JobId, nth: usize) -> Option<Rank> {
        Some((self.tags.of(self.nth_image(nth)?), id, nth))
    }

    /// Unfinished images whose turn came by `time`.
    pub(super) fn due(&self, time: VirtualTime) -> usize {
        (0..).map_while(|nth| self.nth_image(nth)).take_while(|&index| self.tags.of(index) <= time).count()
    }

    /// Index of the `nth` unfinished image: those in flight first, by age.
    pub(super) fn nth_image(&self, nth: usize) -> Option<u32> {
        match self.rows.get(nth) {
            Some(row) => Some(row.index),
            None => {
                let index = self.waiting_from + u32::try_from(nth - self.rows.len()).ok()?;
                (index < self.images).then_some(index)
            }
        }
    }

    /// Device rows that one evaluation of image `index` takes.
    pub(super) fn width(&self, index: u32) -> usize {
        self.guidance.rows(self.job.guidance, self.label(index))
    }

    /// The next evaluation of the `nth` unfinished image, which begins under the id `fresh` if it has not yet.
    pub(super) fn step(&mut self, nth: usize, fresh: RowId, now: Instant) -> Option<RowStep> {
        let index = self.nth_image(nth)?;
        if nth >= self.rows.len() {
            self.rows.push(Row { id: fresh, index, done: 0, begun: now });
            self.waiting_from += 1;
        }
        let row = self.rows.get(nth)?;
        Some(RowStep {
            row: row.id,
            start: (row.done == 0).then(|| self.start(index)),
            evaluation: *self.plan.get(row.done)?,
            label: self.label(index),
            guidance: self.job.guidance,
            last: row.done + 1 == self.plan.len(),
        })
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
        let (index, done) = (self.rows[at].index, self.rows[at].done + 1);
        self.evaluations += 1;
        self.work = self.work.saturating_sub(self.width(index) as u64);
        match outcome {
            Outcome::Failed(reason) => Settled::Failed(reason),
            Outcome::Running if done < self.plan.len() => {
                self.rows[at].done = done;
                Settled::Running
            }
            Outcome::Running => Settled::Failed("the engine did not return a finished image".into()),
            Outcome::Finished(state) => {
                let row = self.rows.remove(at);
                self.finished += 1;
                Settled::Image(Image {
                    index,
                    state,
                    evaluations: u32::try_from(done).unwrap_or(u32::MAX),
                    queued: row.begun.saturating_duration_since(self.admitted),
                    computed: now.saturating_duration_since(row.begun),
                })
            }
        }
    }

    /// The summary, once every image is finished.
    pub(super) fn summary(&self, now: Instant) -> Option<Summary> {
        (self.finished == self.images).then(|| Summary {
            images: self.images,
            evaluations: self.evaluations,
            total: now.saturating_duration_since(self.admitted),
        })
    }

    /// The rows that an engine holds for this job.
    pub(super) fn row_ids(&self) -> impl Iterator<Item = RowId> + '_ {
        self.rows.iter().map(|row| row.id)
    }

    fn label(&self, index: u32) -> Option<u32> {
        self.job.labels.get(index as usize).copied().flatten()
    }

    fn start(&self, index: u32) -> Start {
        match &self.job.initial {
            Some(states) => Start::State { states: Arc::clone(states), index },
            None => Start::Noise { seed: self.job.seed, index },
        }
    }
}
