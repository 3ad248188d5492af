//! State that threads share and wait at: a mutex with a condition variable.
//!
//! Callers change the state and wake whoever waits; a worker waits until the state has something for it. What guards
//! against lost wake-ups is here alone, and is model-checked: the tests compile this file a second time, over the
//! primitives of a checker that tries the interleavings.

use super::sync::{Condvar, Mutex, MutexGuard};

/// The state and its waiting room.
#[derive(Debug, Default)]
pub(super) struct Desk<T> {
    state: Mutex<T>,
    changed: Condvar,
}

impl<T> Desk<T> {
    /// A desk with this state.
    pub(super) fn new(state: T) -> Self {
        Self { state: Mutex::new(state), changed: Condvar::new() }
    }

    /// Looks at the state or changes it, without waking anyone.
    pub(super) fn with<R>(&self, change: impl FnOnce(&mut T) -> R) -> R {
        change(&mut self.lock())
    }

    /// Changes the state in a way that waiting workers must see.
    pub(super) fn announce<R>(&self, change: impl FnOnce(&mut T) -> R) -> R {
        let result = self.with(change);
        self.changed.notify_all();
        result
    }

    /// Waits until the state has something.
    pub(super) fn wait_for<R>(&self, mut take: impl FnMut(&mut T) -> Option<R>) -> R {
        let mut state = self.lock();
        loop {
            if let Some(taken) = take(&mut state) {
                return taken;
            }
            state = self.changed.wait(state).unwrap_or_else(|poisoned| poisoned.into_inner());
        }
    }

    /// A thread that panicked with the lock left a state that is whole: no change is made in halves that matter.
    fn lock(&self) -> MutexGuard<'_, T> {
        self.state.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}
