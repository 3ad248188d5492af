//! Threads that share the tasks of one forward.
//!
//! A thread that wants work done opens a [`Session`]. Within it, helpers that are awake take tasks one after the other,
//! and so does the caller; it waits only for tasks that somebody has begun, never for a helper to wake up. Between the
//! runs of a session helpers spin, since the next one is microseconds away; between sessions they sleep.

#![allow(unsafe_code)] // A job outlives no run, and every chunk has one owner; both are argued where they are used.

use std::cell::UnsafeCell;
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

use super::window::Window;
use crate::error::{Error, Result};

/// Turns of a spinning helper, or of a caller that waits, before it offers its core to others: about 20 µs.
const SPINS: u32 = 4096;

/// Bits of a ticket for the next task, and for the number of tasks; the rest counts runs.
const TASK_BITS: u32 = 20;
const TASK_MASK: u64 = (1 << TASK_BITS) - 1;

/// Most tasks of a run: as many again may be drawn in vain.
const MAX_TASKS: usize = (1 << (TASK_BITS - 1)) - 1;

/// A caller and its helpers.
pub struct Team {
    shared: Arc<Shared>,
    helpers: Vec<JoinHandle<()>>,
    /// One session at a time.
    session: Mutex<()>,
}

/// A job: called with the number of a thread and of a task.
type Job<'a> = dyn Fn(usize, usize) + Sync + 'a;

struct Shared {
    /// The tasks of the present run: `run | tasks | next`.
    ticket: AtomicU64,
    /// Its job. Written only while no task of a run is undone, read only by who holds one.
    job: UnsafeCell<Option<*const Job<'static>>>,
    /// Its tasks that are done.
    done: AtomicUsize,
    /// Whether one of them panicked.
    panicked: AtomicBool,
    /// Whether a session is open, for helpers that spin.
    open: AtomicBool,
    /// The same for helpers that sleep.
    state: Mutex<State>,
    wake: Condvar,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Closed,
    Open,
    Over,
}

// SAFETY: the only part that is not `Sync` by itself is `job`. It is written by the one thread that holds the session,
// while all tasks are done, and the ticket that makes a task available is released after it. Whoever draws a task has
// acquired that ticket, and the job stays until the task is done. A job is `Sync`.
unsafe impl Sync for Shared {}
// SAFETY: as above; the pointer itself is never owned.
unsafe impl Send for Shared {}

impl Team {
    /// A team of `threads`, the caller among them; at least one.
    ///
    /// # Errors
    /// [`Error::Compute`] when the operating system gives no thread.
    pub fn new(threads: usize) -> Result<Self> {
        let shared = Arc::new(Shared {
            ticket: AtomicU64::new(0),
            job: UnsafeCell::new(None),
            done: AtomicUsize::new(0),
            panicked: AtomicBool::new(false),
            open: AtomicBool::new(false),
            state: Mutex::new(State::Closed),
            wake: Condvar::new(),
        });
        let mut team = Self { shared, helpers: Vec::new(), session: Mutex::new(()) };
        for number in 1..threads {
            let shared = Arc::clone(&team.shared);
            let helper = std::thread::Builder::new().name(format!("compute-{number}"));
            let helper = helper.spawn(move || shared.help(number));
            team.helpers.push(helper.map_err(|e| Error::Compute(format!("cannot start a compute thread: {e}")))?);
        }
        Ok(team)
    }

    /// How many threads there are, the caller among them.
    pub fn threads(&self) -> usize {
        self.helpers.len() + 1
    }

    /// Opens a session; waits while another one is open.
    pub fn session(&self) -> Session<'_> {
        let guard = self.session.lock().unwrap_or_else(PoisonError::into_inner);
        if !self.helpers.is_empty() {
            self.shared.set(State::Open);
        }
        Session { team: self, _guard: guard }
    }
}

impl Drop for Team {
    fn drop(&mut self) {
        self.shared.set(State::Over);
        for helper in self.helpers.drain(..) {
            // A helper catches the panics of its tasks and has none of its own.
            let _ = helper.join();
        }
    }
}

/// The time in which helpers are awake.
pub struct Session<'a> {
    team: &'a Team,
    _guard: MutexGuard<'a, ()>,
}

impl Drop for Session<'_> {
    fn drop(&mut self) {
        if !self.team.helpers.is_empty() {
            self.team.shared.set(State::Closed);
        }
    }
}

impl Session<'_> {
    /// How many threads may take part.
    pub fn threads(&self) -> usize {
        self.team.threads()
    }

    /// Calls `job` with the number of a thread and each task below `tasks`, on whichever thread is free; returns when
    /// all are done. Only one task at a time has a thread's number.
    ///
    /// Panics where a task did, after all are done.
    pub fn run(&mut self, tasks: usize, job: impl Fn(usize, usize) + Sync) {
        if tasks <= 1 || self.team.helpers.is_empty() {
            return (0..tasks).for_each(|task| job(0, task));
        }
        assert!(tasks <= MAX_TASKS, "{tasks} tasks in one run");
        let shared = &self.team.shared;
        let job: &Job<'_> = &job;
        shared.begin(tasks, job);
        while shared.take_one(0) {}
        shared.wait(tasks);
        assert!(!shared.panicked.swap(false, Ordering::Relaxed), "a task panicked");
    }

    /// Calls `job` with the number of a thread and each chunk of `data` of `size` elements, and its place in the order
    /// of chunks.
    pub fn chunks<T: Send>(&mut self, data: &mut [T], size: usize, job: impl Fn(usize, usize, &mut [T]) + Sync) {
        let (len, start) = (data.len(), Start(data.as_mut_ptr()));
        self.run(len.div_ceil(size), |thread, task| {
            let from = task * size;
            // SAFETY: each task is run once, and the ranges of different tasks do not overlap; the borrow of `data`
            // lasts until `run` has seen all tasks done. `T: Send`.
            let chunk = unsafe { std::slice::from_raw_parts_mut(start.at(from), size.min(len - from)) };
            job(thread, task, chunk);
        });
    }
}

impl Session<'_> {
    /// Calls `job` with the number of a thread and each `share` columns of `matrix`, whose rows are `width` long.
    pub(in crate::model) fn columns(
        &mut self,
        matrix: &mut [f32],
        [width, share]: [usize; 2],
        job: impl Fn(usize, Window<'_>) + Sync,
    ) {
        let whole = Whole(Window::new(matrix, width));
        self.run(width.div_ceil(share), |thread, task| {
            let columns = task * share..width.min((task + 1) * share);
            // SAFETY: each task is run once, and the columns of different tasks do not overlap; `run` returns when all
            // are done.
            job(thread, unsafe { whole.part(columns) });
        });
    }
}

/// A window whose columns go to different threads.
struct Whole<'a>(Window<'a>);

impl<'a> Whole<'a> {
    /// See [`Window::part`].
    ///
    /// # Safety
    /// As there.
    unsafe fn part(&self, columns: Range<usize>) -> Window<'a> {
        // SAFETY: the caller's.
        unsafe { self.0.part(columns) }
    }
}

// SAFETY: only `Session::columns` uses it, which gives every thread columns of its own.
unsafe impl Sync for Whole<'_> {}

/// The start of a slice whose chunks go to different threads.
struct Start<T>(*mut T);

impl<T> Start<T> {
    fn at(&self, index: usize) -> *mut T {
        self.0.wrapping_add(index)
    }
}

// SAFETY: only `Session::chunks` uses it, which gives every thread a range of its own of a slice of `T: Send`.
unsafe impl<T: Send> Sync for Start<T> {}

impl Shared {
    fn set(&self, state: State) {
        *self.state.lock().unwrap_or_else(PoisonError::into_inner) = state;
        self.open.store(state == State::Open, Ordering::Release);
        if state != State::Closed {
            self.wake.notify_all();
        }
    }

    /// Offers the tasks of a new run. The caller holds the session, and all tasks of the last run are done.
    fn begin(&self, tasks: usize, job: &Job<'_>) {
        // SAFETY: only the lifetime changes. The pointer is used by who holds an undone task, and the run that borrows
        // the job does not return before all are done.
        let job: *const Job<'static> = unsafe { std::mem::transmute::<*const Job<'_>, *const Job<'static>>(job) };
        // SAFETY: no task is undone, so nobody reads the job; see `Sync`.
        unsafe { *self.job.get() = Some(job) };
        self.done.store(0, Ordering::Relaxed);
        let run = (self.ticket.load(Ordering::Relaxed) >> (2 * TASK_BITS)).wrapping_add(1);
        let ticket = (run << (2 * TASK_BITS)) | ((tasks as u64) << TASK_BITS);
        self.ticket.store(ticket, Ordering::Release);
    }

    /// Draws a task and does it; false where none is left.
    fn take_one(&self, thread: usize) -> bool {
        let left = |ticket: u64| (ticket & TASK_MASK) < ((ticket >> TASK_BITS) & TASK_MASK);
        if !left(self.ticket.load(Ordering::Relaxed)) {
            return false;
        }
        let drawn = self.ticket.fetch_add(1, Ordering::AcqRel);
        if !left(drawn) {
            return false;
        }
        // SAFETY: this thread holds an undone task, so the job is there and is not written; see `Sync`.
        let job = unsafe { (*self.job.get()).map(|job| &*job) };
        let task = (drawn & TASK_MASK) as usize;
        let done = catch_unwind(AssertUnwindSafe(|| job.map(|job| job(thread, task))));
        if done.is_err() {
            self.panicked.store(true, Ordering::Relaxed);
        }
        self.done.fetch_add(1, Ordering::Release);
        true
    }

    /// Waits until the tasks that others took are done.
    fn wait(&self, tasks: usize) {
        let mut turns = 0;
        while self.done.load(Ordering::Acquire) < tasks {
            pause(&mut turns);
        }
    }

    /// What a helper does all its life.
    fn help(&self, thread: usize) {
        while self.sleep() {
            let mut turns = 0;
            while self.open.load(Ordering::Acquire) {
                if self.take_one(thread) {
                    turns = 0;
                } else {
                    pause(&mut turns);
                }
            }
        }
    }

    /// Sleeps until a session opens; false where none ever will again.
    fn sleep(&self) -> bool {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let state = self.wake.wait_while(state, |state| *state == State::Closed);
        *state.unwrap_or_else(PoisonError::into_inner) == State::Open
    }
}

/// Waits for a moment, the longer the more turns it has been: another thread may need the core.
fn pause(turns: &mut u32) {
    if *turns < SPINS {
        *turns += 1;
        std::hint::spin_loop();
    } else {
        std::thread::yield_now();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_chunk_is_visited_once_by_one_thread_at_a_time() {
        let team = Team::new(3).unwrap();
        for round in 0..50 {
            let mut session = team.session();
            let busy = [const { AtomicBool::new(false) }; 3];
            for len in [0, 1, 7, 100, 1000] {
                let mut data = vec![0usize; len];
                session.chunks(&mut data, 7, |thread, index, chunk| {
                    assert!(!busy[thread].swap(true, Ordering::SeqCst), "two tasks on one thread");
                    chunk.iter_mut().for_each(|x| *x += index + round + 1);
                    busy[thread].store(false, Ordering::SeqCst);
                });
                assert!(data.iter().enumerate().all(|(i, &x)| x == i / 7 + round + 1), "{data:?}");
            }
        }
    }

    #[test]
    fn columns_are_shared_without_gaps() {
        let team = Team::new(3).unwrap();
        for share in [1, 3, 16, 40] {
            let mut matrix = vec![0.0; 5 * 37];
            team.session().columns(&mut matrix, [37, share], |_, mut window| {
                for row in 0..5 {
                    for column in window.columns() {
                        window.place(row, column, 1)[0] += (row * 37 + column) as f32;
                    }
                }
            });
            assert!(matrix.iter().enumerate().all(|(i, &x)| x == i as f32), "{matrix:?}");
        }
    }

    #[test]
    fn helpers_take_their_share_and_a_session_sees_what_they_wrote() {
        let team = Team::new(2).unwrap();
        let mut session = team.session();
        let helped = AtomicBool::new(false);
        // The caller's task lasts until a helper has had one.
        session.run(2, |thread, _| {
            if thread == 1 {
                helped.store(true, Ordering::Release);
            }
            while !helped.load(Ordering::Acquire) {
                std::thread::yield_now();
            }
        });
        assert!(helped.into_inner());
    }

    #[test]
    fn a_panic_comes_out_after_all_tasks_and_the_team_goes_on() {
        let team = Team::new(2).unwrap();
        let count = AtomicUsize::new(0);
        let run = || {
            team.session().run(20, |_, task| {
                count.fetch_add(1, Ordering::Relaxed);
                assert_ne!(task, 3);
            });
        };
        assert!(catch_unwind(AssertUnwindSafe(run)).is_err());
        assert_eq!(count.swap(0, Ordering::Relaxed), 20);
        team.session().run(5, |_, _| _ = count.fetch_add(1, Ordering::Relaxed));
        assert_eq!(count.into_inner(), 5);
    }
}
