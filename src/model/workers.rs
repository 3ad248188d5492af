//! Threads that each take whole micro-batches through a network, in serving, training and evaluation.

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
        let name = |number| move |_| format!("compute-{number}");
        let pool = |number| ThreadPoolBuilder::new().num_threads(1).thread_name(name(number)).build();
        let pools = (0..threads.max(1)).map(pool).collect::<Result<_, _>>();
        Ok(Self { pools: pools.map_err(|e| Error::Compute(format!("cannot start a worker thread: {e}")))? })
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.pools.len()
    }

    /// `job` of every item, in their order, each taken by the next worker that is free.
    ///
    /// # Errors
    /// The first error in that order.
    pub fn map<I, T>(&self, items: I, job: impl Fn(I::Item) -> Result<T> + Sync) -> Result<Vec<T>>
    where
        I: IntoIterator<IntoIter: Send>,
        T: Send,
    {
        let items = Mutex::new(items.into_iter().enumerate());
        let done = Mutex::new(Vec::new());
        let next = || items.lock().unwrap_or_else(PoisonError::into_inner).next();
        on_every(&self.pools, &|| {
            while let Some((index, item)) = next() {
                let result = job(item);
                done.lock().unwrap_or_else(PoisonError::into_inner).push((index, result));
            }
        });
        let mut done = done.into_inner().unwrap_or_else(PoisonError::into_inner);
        done.sort_unstable_by_key(|(index, _)| *index);
        done.into_iter().map(|(_, result)| result).collect()
    }
}

/// Runs `work` in every pool and waits for all of them.
fn on_every(pools: &[ThreadPool], work: &(impl Fn() + Sync)) {
    if let Some((pool, rest)) = pools.split_first() {
        pool.in_place_scope(|scope| {
            scope.spawn(|_| work());
            on_every(rest, work);
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_come_in_order_and_the_first_error_wins() -> Result<()> {
        let workers = Workers::new(3)?;
        assert_eq!(workers.map(0..50, |i| Ok(i * i))?, (0..50).map(|i| i * i).collect::<Vec<_>>());
        let failed = workers.map(0..9, |i| if i % 4 == 3 { Err(Error::Compute(i.to_string())) } else { Ok(()) });
        assert_eq!(failed.unwrap_err().to_string(), "computation failed: 3");
        let mut squares = [1, 2, 3];
        workers.map(&mut squares, |n| {
            *n *= *n;
            Ok(())
        })?;
        assert_eq!((squares, workers.count()), ([1, 4, 9], 3));
        Ok(())
    }
}
