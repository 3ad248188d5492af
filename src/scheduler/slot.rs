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
