//! One model's queue: weighted fair queueing of images.
//!
//! **The rule.** Every image carries a *tag*, fixed at its job's admission, and a forward takes the unfinished images
//! with the smallest tags that fit; equal tags go by arrival. The tag of image `i` of a job is `V + i · w`, where `w`
//! is the work of one image in device rows and `V` is the queue's virtual time at admission. Virtual time advances by
//! `rows served / active jobs` with each forward: it is how much work each job would have got under equal shares
//! (generalised processor sharing: Demers, Keshav, Shenker 1989; Parekh, Gallager 1993).
//!
//! **What follows.**
//! - An image in flight goes on: its tag is older than those of images that have not begun.
//! - A small job joins a huge one at once: the huge one's later images have tags far ahead of virtual time. Images in
//!   flight may thereby pause for some forwards; their states stay on the engine.
//! - Equal small jobs are served in the order of arrival and run to their ends instead of all taking turns.
//! - Nothing starves: an image with tag `T` is overtaken only by tags below `T`, and virtual time, which never stands
//!   still while there is work, gives none of those once it has passed `T`.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};
use std::time::Instant;

use super::progress::{JobId, Progress};
use super::tags::VirtualTime;
use crate::domain::{Guidance, Job};

/// The unfinished jobs of one model.
#[derive(Debug, Default)]
pub(super) struct FairQueue {
    jobs: BTreeMap<JobId, Progress>,
    virtual_time: VirtualTime,
}

/// What a queue holds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Load {
    /// Images that have not begun.
    pub(super) waiting: usize,
    /// Images in flight.
    pub(super) running: usize,
    /// Device rows that all missing evaluations will take.
    pub(super) work: u64,
}

impl FairQueue {
    /// Takes a job in. Returns its evaluations per image and how many images are ahead of its first one.
    pub(super) fn admit(&mut self, id: JobId, job: Job, guidance: Guidance, now: Instant) -> (usize, usize) {
        let ahead = self.jobs.values().map(|other| other.due(self.virtual_time)).sum();
        let progress = Progress::new(job, guidance, self.virtual_time, now);
        let evaluations = progress.evaluations_per_image();
        self.jobs.insert(id, progress);
        (evaluations, ahead)
    }

    /// The images of the next forward, as (job, which of its unfinished images), and their device rows. At most
    /// `budget` rows, except that one image always fits.
    pub(super) fn choose(&self, budget: usize) -> (Vec<(JobId, usize)>, usize) {
        let first = self.jobs.iter().filter_map(|(&id, job)| job.rank(id, 0).map(Reverse));
        let mut candidates: BinaryHeap<_> = first.collect();
        let (mut chosen, mut rows) = (Vec::new(), 0);
        while let Some(Reverse((_, id, nth))) = candidates.pop() {
            let Some(job) = self.jobs.get(&id) else { continue };
            let width = job.nth_image(nth).map_or(0, |index| job.width(index));
            // Stopping here instead of looking for something narrower keeps wide images from being passed over.
            if !chosen.is_empty() && rows + width > budget {
                break;
            }
            rows += width;
            chosen.push((id, nth));
            candidates.extend(job.rank(id, nth + 1).map(Reverse));
        }
        (chosen, rows)
    }

    /// Advances virtual time by a forward of `rows` device rows.
    pub(super) fn served(&mut self, rows: usize) {
        self.virtual_time.advance(rows, self.jobs.len());
    }

    /// A job.
    pub(super) fn get_mut(&mut self, id: JobId) -> Option<&mut Progress> {
        self.jobs.get_mut(&id)
    }

    /// Takes a job out.
    pub(super) fn remove(&mut self, id: JobId) -> Option<Progress> {
        self.jobs.remove(&id)
    }

    /// The jobs whose time has run out.
    pub(super) fn expired(&self, now: Instant) -> Vec<JobId> {
        self.jobs.iter().filter(|(_, job)| job.is_expired(now)).map(|(&id, _)| id).collect()
    }

    /// All jobs.
    pub(super) fn ids(&self) -> Vec<JobId> {
        self.jobs.keys().copied().collect()
    }

    /// Whether there is no job.
    pub(super) fn is_empty(&self) -> bool {
        self.jobs.is_empty()
    }

    /// What the queue holds.
    pub(super) fn load(&self) -> Load {
        self.jobs.values().fold(Load::default(), |load, job| Load {
            waiting: load.waiting + job.waiting(),
            running: load.running + job.running(),
            work: load.work + job.work(),
        })
    }
}
