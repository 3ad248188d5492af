//! Virtual time, and the tags that order images in it.

/// Virtual time per device row: shares are fractions of a row.
const SCALE: u64 = 1 << 16;

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

/// When the turns of a job's images come: the first at its admission, each further one after the work of one image.
#[derive(Debug, Clone, Copy)]
pub(super) struct Tags {
    first: u64,
    spacing: u64,
}

impl Tags {
    /// Tags from `first` on, for images of `work` device rows each.
    pub(super) fn new(first: VirtualTime, work: u64) -> Self {
        Self { first: first.0, spacing: work.max(1).saturating_mul(SCALE) }
    }

    /// The tag of image `index`.
    pub(super) fn of(self, index: u32) -> VirtualTime {
        VirtualTime(self.first.saturating_add(self.spacing.saturating_mul(u64::from(index))))
    }
}
