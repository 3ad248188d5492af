//! One model's queue: which images the next forward takes.
//!
//! **The rule.** First the *pressed* jobs, by deadline: those that would lose steps, or be late, or make a later one
//! late, if they sat out one forward (imprecise computation, Liu et al. 1991: what must be done is scheduled by earliest
//! deadline, what may be done as long as that stays feasible). The room that is left goes to tenants in turn, by deficit
//! round robin on device rows (Shreedhar, Varghese 1995), and within a tenant by *tag*.
//!
//! **Tags** are fixed at a job's admission and give weighted fair queueing among the jobs of a tenant. The tag of image
//! `i` of a job is `V + i · w`, where `w` is the work of one image in device rows, divided by the job's weight, and `V`
//! is the tenant's virtual time at admission. Virtual time advances by `rows served / active jobs`: it is how much work
//! each job would have got under equal shares (generalised processor sharing: Parekh, Gallager 1993).
//!
//! **What follows.**
//! - An image in flight goes on: its tag is older than those of images that have not begun.
//! - A small job joins a huge one at once: the huge one's later images have tags far ahead of virtual time.
//! - Equal small jobs are served in the order of arrival and run to their ends instead of all taking turns.
//! - Nothing starves: an image with tag `T` is overtaken only by tags below `T` and by pressed jobs. Virtual time, which
//!   never stands still while there is work, gives none of the former once it has passed `T`; the latter are bounded by
//!   admission, and a job without a deadline of its own is pressed, too, when the longest that a request may live is
//!   nearly over.
//! - Where `n` tenants wait and nobody is pressed, each has [`QUANTUM`] rows of every `n · QUANTUM`: an image of a tenant
//!   that has none in flight begins within `⌈n · QUANTUM / rows⌉` forwards, however much the others have queued.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::DeviceId;
use super::progress::{Admission, Cursor, JobId, Progress};
use super::tags::VirtualTime;
use super::time::times;
use crate::domain::Job;

/// Device rows that a tenant gets in its turn: the widest image.
const QUANTUM: i64 = 2;

/// The unfinished jobs of one model.
#[derive(Debug, Default)]
pub(super) struct Queue {
    jobs: BTreeMap<JobId, Progress>,
    by_target: BTreeSet<(Instant, JobId)>,
    tenants: BTreeMap<Arc<str>, Tenant>,
    /// The tenants in the order of their turns.
    turns: VecDeque<Arc<str>>,
}

/// On whose account jobs run.
#[derive(Debug, Default)]
struct Tenant {
    jobs: BTreeSet<JobId>,
    virtual_time: VirtualTime,
    /// Device rows that it may still take in its turn; negative where pressed jobs took more.
    deficit: i64,
}

/// What there is to fill.
#[derive(Debug, Clone, Copy)]
pub(super) struct Room {
    pub(super) device: DeviceId,
    /// Device rows of a forward.
    pub(super) rows: usize,
    /// Devices that draw from this queue.
    pub(super) devices: usize,
    /// From one full forward of this model to the next.
    pub(super) cycle: Duration,
    pub(super) now: Instant,
    /// When everything should be finished.
    pub(super) curfew: Option<Instant>,
}

/// What the next forward takes.
#[derive(Debug, Default)]
pub(super) struct Choice {
    pub(super) images: Vec<(JobId, u32)>,
    /// Their device rows.
    pub(super) rows: usize,
    /// Whether some job will be late if images take more evaluations than they must.
    pub(super) squeezed: bool,
}

/// What a queue holds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Load {
    /// Images that have not begun.
    pub waiting: usize,
    /// Images in flight.
    pub running: usize,
    /// Device rows that all missing evaluations will take, as planned.
    pub work: u64,
}

/// The order of choice within a tenant: the image's tag, then the job that came first.
type Candidate = Reverse<(VirtualTime, JobId, u32, Cursor)>;

impl Queue {
    /// Whether nothing is left of any job or tenant.
    #[cfg(test)]
    pub(super) fn is_pristine(&self) -> bool {
        self.jobs.is_empty() && self.by_target.is_empty() && self.tenants.is_empty() && self.turns.is_empty()
    }

    /// Virtual time of a tenant.
    pub(super) fn turn(&self, tenant: &str) -> VirtualTime {
        self.tenants.get(tenant).map(|tenant| tenant.virtual_time).unwrap_or_default()
    }

    /// Takes a job in. Returns how many images of its tenant are ahead of its first one.
    pub(super) fn admit(&mut self, id: JobId, job: Job, admission: Admission) -> usize {
        let name = Arc::clone(&job.tenant);
        if !self.tenants.contains_key(&name) {
            self.turns.push_back(Arc::clone(&name));
        }
        let tenant = self.tenants.entry(name).or_default();
        let progress = Progress::new(job, admission);
        let due = |id: &JobId| self.jobs.get(id).map_or(0, |other| other.due(progress.tag(0)));
        let ahead = tenant.jobs.iter().map(due).sum();
        tenant.jobs.insert(id);
        self.by_target.insert((admission.target, id));
        self.jobs.insert(id, progress);
        ahead
    }

    /// The images of the next forward; at most `room.rows` device rows, except that one image always fits.
    pub(super) fn choose(&mut self, room: &Room) -> Choice {
        let (pressed, squeezed) = self.pressed(room);
        let mut choice = Choice { squeezed, ..Choice::default() };
        for id in &pressed {
            let (Some(job), mut cursor) = (self.jobs.get(id), Cursor::default()) else { continue };
            while let Some(index) = job.advance(&mut cursor, room.device) {
                let width = job.width(index);
                if !choice.fits(width, room.rows) {
                    return choice;
                }
                choice.take(*id, index, width);
                if let Some(tenant) = self.tenants.get_mut(job.tenant()) {
                    tenant.deficit = (tenant.deficit - signed(width)).max(-signed(room.rows));
                }
            }
        }
        self.share(room, &pressed, &mut choice);
        choice
    }

    /// Jobs that may not sit out a forward, by deadline, and whether even so some job will be late unless images end
    /// early.
    fn pressed(&self, room: &Room) -> (Vec<JobId>, bool) {
        let full = (room.rows * room.devices.max(1)).max(1) as u64;
        let mut jobs = Vec::with_capacity(self.by_target.len());
        let (mut first, mut squeezed, mut ahead) = (0, false, 0);
        for &(target, id) in &self.by_target {
            let Some(job) = self.jobs.get(&id) else { continue };
            let target = room.curfew.map_or(target, |curfew| target.min(curfew));
            let is_over = |forwards: u64| room.now + times(room.cycle, forwards) > target;
            ahead += job.mandatory_work();
            jobs.push((id, is_over(job.forwards(full) + 1)));
            if is_over(ahead.div_ceil(full) + 1) {
                // It depends on all that are ahead of it: these go first.
                first = jobs.len();
                // With room for everyone, nobody is helped by another one's end.
                squeezed |= ahead > full;
            }
        }
        let pressed = jobs.iter().enumerate().filter(|(place, (_, alone))| *place < first || *alone);
        (pressed.map(|(_, (id, _))| *id).collect(), squeezed)
    }

    /// Fills what room is left with images of jobs that are not pressed.
    fn share(&mut self, room: &Room, pressed: &[JobId], choice: &mut Choice) {
        let pressed: BTreeSet<&JobId> = pressed.iter().collect();
        let mut candidates: BTreeMap<Arc<str>, BinaryHeap<Candidate>> = BTreeMap::new();
        for (name, tenant) in &self.tenants {
            let jobs = tenant.jobs.iter().filter(|id| !pressed.contains(id));
            let heap: BinaryHeap<Candidate> =
                jobs.filter_map(|&id| candidate(self.jobs.get(&id)?, id, Cursor::default(), room.device)).collect();
            if !heap.is_empty() {
                candidates.insert(Arc::clone(name), heap);
            }
        }
        // A tenant is at the front until its turn is over, the end of a forward notwithstanding.
        let mut idle = 0;
        while idle < self.turns.len() && !candidates.is_empty() {
            let Some(name) = self.turns.front().cloned() else { break };
            let Some(tenant) = self.tenants.get_mut(&name) else { break };
            let Some(heap) = candidates.get_mut(&name) else {
                tenant.deficit = tenant.deficit.min(0);
                self.turns.rotate_left(1);
                idle += 1;
                continue;
            };
            idle = 0;
            tenant.deficit += QUANTUM;
            if !fill(heap, tenant, (&self.jobs, room), choice) {
                return;
            }
            if heap.is_empty() {
                candidates.remove(&name);
            }
            self.turns.rotate_left(1);
        }
    }

    /// Advances the tenants' virtual times by a forward that was served.
    pub(super) fn served(&mut self, rows: &BTreeMap<Arc<str>, usize>) {
        for (name, &rows) in rows {
            if let Some(tenant) = self.tenants.get_mut(name) {
                tenant.virtual_time.advance(rows, tenant.jobs.len());
            }
        }
    }

    /// A job.
    pub(super) fn get(&self, id: JobId) -> Option<&Progress> {
        self.jobs.get(&id)
    }

    /// A job.
    pub(super) fn get_mut(&mut self, id: JobId) -> Option<&mut Progress> {
        self.jobs.get_mut(&id)
    }

    /// Takes a job out.
    pub(super) fn remove(&mut self, id: JobId) -> Option<Progress> {
        let job = self.jobs.remove(&id)?;
        self.by_target.remove(&(job.target(), id));
        if let Some(tenant) = self.tenants.get_mut(job.tenant()) {
            tenant.jobs.remove(&id);
            if tenant.jobs.is_empty() {
                self.tenants.remove(job.tenant());
                self.turns.retain(|name| name != job.tenant());
            }
        }
        Some(job)
    }

    /// The jobs whose time has run out.
    pub(super) fn expired(&self, now: Instant) -> Vec<JobId> {
        // A job's target is never after its deadline.
        let over = self.by_target.iter().take_while(|(target, _)| *target <= now);
        over.filter(|(_, id)| self.jobs.get(id).is_some_and(|job| job.is_expired(now))).map(|&(_, id)| id).collect()
    }

    /// All jobs, by target.
    pub(super) fn by_target(&self) -> impl Iterator<Item = (JobId, &Progress)> {
        self.by_target.iter().filter_map(|&(_, id)| Some((id, self.jobs.get(&id)?)))
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
            work: load.work + job.planned_work(),
        })
    }
}

impl Choice {
    /// Whether `width` more rows fit into `rows`: not looking for something narrower where they do not keeps wide
    /// images from being passed over.
    fn fits(&self, width: usize, rows: usize) -> bool {
        self.images.is_empty() || self.rows + width <= rows
    }

    fn take(&mut self, id: JobId, index: u32, width: usize) {
        self.rows += width;
        self.images.push((id, index));
    }
}

/// Takes images of one tenant for as long as its deficit lasts; `false` when no room is left.
fn fill(
    heap: &mut BinaryHeap<Candidate>,
    tenant: &mut Tenant,
    (jobs, room): (&BTreeMap<JobId, Progress>, &Room),
    choice: &mut Choice,
) -> bool {
    while let Some(Reverse((_, id, index, cursor))) = heap.peek().copied() {
        let Some(job) = jobs.get(&id) else { return false };
        let width = job.width(index);
        if !choice.fits(width, room.rows) {
            // It has not had its turn; the next forward begins with it.
            tenant.deficit -= QUANTUM;
            return false;
        }
        if tenant.deficit < signed(width) {
            return true;
        }
        heap.pop();
        tenant.deficit -= signed(width);
        choice.take(id, index, width);
        heap.extend(candidate(job, id, cursor, room.device));
    }
    true
}

fn candidate(job: &Progress, id: JobId, mut cursor: Cursor, device: DeviceId) -> Option<Candidate> {
    let index = job.advance(&mut cursor, device)?;
    Some(Reverse((job.tag(index), id, index, cursor)))
}

fn signed(rows: usize) -> i64 {
    i64::try_from(rows).unwrap_or(i64::MAX)
}
