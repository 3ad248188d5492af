//! Threads that each take whole micro-batches through a network, in training and in evaluation.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use rayon::{ThreadPool, ThreadPoolBuilder};

use crate::error::{Error, Result};

/// A fixed number of threads for data-parallel work.
///
/// Each is a rayon pool of one: candle's own parallel loops inside a micro-batch then stay on their thread, so nothing
/// is handed over and nothing waits.
pub struct Workers {
    pools: Vec<ThreadPool>,
}

impl Workers {
    /// `threads` workers, at least one.
    ///
    /// # Errors
    /// [`Error::Compute`] when the operating system gives no thread.
    pub fn new(threads: usize) -> Result<Self> {
        let pool = |_| ThreadPoolBuilder::new().num_threads(1).build();
        let pools = (0..threads.max(1)).map(pool).collect::<Result<_, _>>();
        Ok(Self { pools: pools.map_err(|e| Error::Compute(format!("cannot start a worker thread: {e}")))? })
    }

    /// `job(0) … job(jobs - 1)`, in that order, computed on all workers.
    ///
    /// # Errors
    /// The first error in that order.
    pub fn map<T: Send>(&self, jobs: usize, job: impl Fn(usize) -> Result<T> + Sync) -> Result<Vec<T>> {
        let next = AtomicUsize::new(0);
        let done = Mutex::new(Vec::with_capacity(jobs));
        let work = || {
            loop {
                let index = next.fetch_add(1, Ordering::Relaxed);
                if index >= jobs {
                    return;
                }
                let result = job(index);
                done.lock().unwrap_or_else(PoisonError::into_inner).push((index, result));
            }
        };
        std::thread::scope(|scope| {
            self.pools.iter().for_each(|pool| drop(scope.spawn(|| pool.install(work))));
        });
        let mut done = done.into_inner().unwrap_or_else(PoisonError::into_inner);
        done.sort_unstable_by_key(|(index, _)| *index);
        done.into_iter().map(|(_, result)| result).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_come_in_order_and_the_first_error_wins() -> Result<()> {
        let workers = Workers::new(3)?;
        assert_eq!(workers.map(50, |i| Ok(i * i))?, (0..50).map(|i| i * i).collect::<Vec<_>>());
        let failed = workers.map(9, |i| if i % 4 == 3 { Err(Error::Compute(i.to_string())) } else { Ok(()) });
        assert_eq!(failed.unwrap_err().to_string(), "computation failed: 3");
        Ok(())
    }
}
