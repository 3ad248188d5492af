//! Previews on their way to a reader: the newest of each image, and never more.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

use crate::domain::Preview;

/// Holds at most one preview of each image in flight.
#[derive(Debug, Default)]
pub(super) struct Slot {
    newest: Mutex<BTreeMap<u32, Preview>>,
    filled: Notify,
}

impl Slot {
    /// Puts a preview in the place of an older one of the same image.
    pub(super) fn put(&self, preview: Preview) {
        self.lock().insert(preview.index, preview);
        self.filled.notify_one();
    }

    /// Makes the next wait end at once.
    pub(super) fn again(&self) {
        self.filled.notify_one();
    }

    /// Forgets the preview of an image that is finished.
    pub(super) fn forget(&self, index: u32) {
        self.lock().remove(&index);
    }

    /// A preview, if there is one.
    pub(super) fn take(&self) -> Option<Preview> {
        self.lock().pop_first().map(|(_, preview)| preview)
    }

    /// Waits until one was put in since the last wait.
    pub(super) async fn filled(&self) {
        self.filled.notified().await;
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<u32, Preview>> {
        // Nothing panics under this lock.
        self.newest.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn preview(index: u32, evaluations: u32) -> Preview {
        Preview { index, state: Vec::new(), evaluations }
    }

    #[tokio::test]
    async fn the_newest_of_each_image_stays_and_a_finished_image_has_none() {
        let slot = Slot::default();
        for (index, evaluations) in [(0, 1), (1, 1), (0, 2), (2, 1)] {
            slot.put(preview(index, evaluations));
        }
        slot.forget(2);
        slot.filled().await;
        let taken: Vec<(u32, u32)> =
            std::iter::from_fn(|| slot.take()).map(|preview| (preview.index, preview.evaluations)).collect();
        assert_eq!(taken, [(0, 2), (1, 1)]);
    }
}
