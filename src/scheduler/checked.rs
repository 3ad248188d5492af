//! The desk under a checker that tries the interleavings of its threads.

/// The desk's file again, over the checker's primitives.
#[path = "desk.rs"]
#[allow(clippy::duplicate_mod, reason = "that is the point")]
mod desk;

mod sync {
    pub(super) use shuttle::sync::{Condvar, Mutex, MutexGuard};
}

use shuttle::sync::Arc;
use shuttle::thread;

use desk::Desk;

/// Interleavings that are tried of each scene.
const TRIES: usize = 5000;

/// What the exchange does with it: callers hand in and take back, workers draw, one of them ends everything.
#[derive(Default)]
struct Board {
    queued: Vec<u32>,
    done: Vec<u32>,
    cancelled: Vec<u32>,
    draining: bool,
}

enum Turn {
    Job(u32),
    Stop,
}

fn worker(desk: &Desk<Board>) {
    loop {
        let turn = desk.wait_for(|board| match board.queued.pop() {
            Some(job) => Some(Turn::Job(job)),
            None => board.draining.then_some(Turn::Stop),
        });
        match turn {
            Turn::Job(job) => desk.announce(|board| board.done.push(job)),
            Turn::Stop => return,
        }
    }
}

#[test]
fn no_wake_up_is_lost_and_no_job_is_lost_or_done_twice() {
    shuttle::check_random(
        || {
            let desk = Arc::new(Desk::new(Board::default()));
            let workers: Vec<_> = (0..2)
                .map(|_| {
                    let desk = Arc::clone(&desk);
                    thread::spawn(move || worker(&desk))
                })
                .collect();
            let callers: Vec<_> = (0..2)
                .map(|caller| {
                    let desk = Arc::clone(&desk);
                    thread::spawn(move || {
                        desk.announce(|board| board.queued.extend([10 * caller, 10 * caller + 1]));
                        desk.announce(|board| {
                            let mine = board.queued.iter().position(|&job| job == 10 * caller);
                            let taken = mine.map(|at| board.queued.remove(at));
                            board.cancelled.extend(taken);
                        });
                    })
                })
                .collect();
            callers.into_iter().for_each(|caller| caller.join().unwrap());
            desk.announce(|board| board.draining = true);
            // A lost wake-up is a deadlock, which the checker reports.
            workers.into_iter().for_each(|worker| worker.join().unwrap());
            desk.with(|board| {
                let mut all = [&board.done[..], &board.cancelled[..]].concat();
                all.sort_unstable();
                assert_eq!(all, [0, 1, 10, 11]);
            });
        },
        TRIES,
    );
}

/// The check would see the mistake: waking without the lock's protection of the condition loses wake-ups.
#[test]
#[should_panic(expected = "deadlock")]
fn a_forgotten_wake_up_is_found() {
    shuttle::check_random(
        || {
            let desk = Arc::new(Desk::new(Board::default()));
            let theirs = Arc::clone(&desk);
            let worker = thread::spawn(move || worker(&theirs));
            desk.with(|board| board.draining = true);
            worker.join().unwrap();
        },
        TRIES,
    );
}
