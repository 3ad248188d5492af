//! State that threads share and wait at: a mutex with a condition variable.
//!
//! Callers change the state and wake whoever waits; a worker waits until the state has something for it. What guards
//! against lost wake-ups is here alone, and is model-checked: the tests compile this file a second time, over the
//! primitives of a checker that tries the interleavings.

use super::sync::{Condvar, Mutex, MutexGuard};

/// The state and its waiting room.
#[derive(Debug, Default)]
pub(super) struct Desk<T> {
    inside: Mutex<Inside<T>>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct Inside<T> {
    state: T,
    /// Threads that wait: where there is none, a change needs no system call to wake it.
    waiting: usize,
}

impl<T> Desk<T> {
    /// A desk with this state.
    pub(super) fn new(state: T) -> Self {
        Self { inside: Mutex::new(Inside { state, waiting: 0 }), changed: Condvar::new() }
    }

    /// Looks at the state or changes it, without waking anyone.
    pub(super) fn with<R>(&self, change: impl FnOnce(&mut T) -> R) -> R {
        change(&mut self.lock().state)
    }

    /// Changes the state in a way that waiting workers must see.
    pub(super) fn announce<R>(&self, change: impl FnOnce(&mut T) -> R) -> R {
        let mut inside = self.lock();
        let (result, waiting) = (change(&mut inside.state), inside.waiting);
        drop(inside);
        if waiting > 0 {
            self.changed.notify_all();
        }
        result
    }

    /// Waits until the state has something.
    pub(super) fn wait_for<R>(&self, mut take: impl FnMut(&mut T) -> Option<R>) -> R {
        let mut inside = self.lock();
        loop {
            if let Some(taken) = take(&mut inside.state) {
                return taken;
            }
            inside.waiting += 1;
            inside = self.changed.wait(inside).unwrap_or_else(|poisoned| poisoned.into_inner());
            inside.waiting -= 1;
        }
    }

    /// A thread that panicked with the lock left a state that is whole: no change is made in halves that matter.
    fn lock(&self) -> MutexGuard<'_, Inside<T>> {
        self.inside.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}
