//! Virtual time, and the tags that order images in it.

use crate::domain::Priority;

/// Virtual time per device row: shares are fractions of a row.
const SCALE: u64 = 1 << 16;

/// What a job of high priority may be late to pass an ordinary one, in virtual time: 64 rows.
const HEAD_START: u64 = 64 * SCALE;

/// How much work, in fractions of a device row, each job would have got under equal shares. Never goes back.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct VirtualTime(u64);

impl VirtualTime {
    /// Moves on by a forward of `rows` device rows that `jobs` jobs shared.
    pub(super) fn advance(&mut self, rows: usize, jobs: usize) {
        let share = (rows as u64).saturating_mul(SCALE) / jobs.max(1) as u64;
        self.0 = self.0.saturating_add(share.max(1));
    }
}

/// When the turns of a job's images come: each after the work of one image, at the pace of the job's priority.
#[derive(Debug, Clone, Copy)]
pub(super) struct Tags {
    first: u64,
    spacing: u64,
}

impl Tags {
    /// Tags for images of `work` device rows each, of a job that comes at `now`. Lower priorities let others pass that
    /// come within a time after them: everyone's turn comes, as virtual time goes on.
    pub(super) fn new(now: VirtualTime, work: u64, priority: Priority) -> Self {
        let ordinary = work.max(1).saturating_mul(SCALE);
        let (delay, spacing) = match priority {
            Priority::High => (0, (ordinary / 4).max(1)),
            Priority::Normal => (HEAD_START, ordinary),
            Priority::Low => (4 * HEAD_START, ordinary.saturating_mul(4)),
        };
        Self { first: now.0.saturating_add(delay), spacing }
    }

    /// The tag of image `index`.
    pub(super) fn of(self, index: u32) -> VirtualTime {
        VirtualTime(self.first.saturating_add(self.spacing.saturating_mul(u64::from(index))))
    }
}
