//! Memory that arrays hand on to one another: a step of training makes the same arrays as the one before.
//!
//! An allocator would return megabytes to the system and fault them in again, page by page, all zeroed.

use std::collections::HashMap;
use std::sync::{LazyLock, Mutex, PoisonError};

/// Buffers that nobody uses, by length. Threads share them: what one makes another may be the last to read.
static SPARE: LazyLock<Mutex<HashMap<usize, Vec<Vec<f32>>>>> = LazyLock::new(Mutex::default);

/// Most spare buffers of a length: more than a step of training has at a time.
const MOST: usize = 512;

/// `len` numbers, whatever they are.
pub(crate) fn take(len: usize) -> Vec<f32> {
    let spare = SPARE.lock().unwrap_or_else(PoisonError::into_inner).get_mut(&len).and_then(Vec::pop);
    spare.unwrap_or_else(|| vec![0.0; len])
}

/// Gives a buffer to whoever asks for one of its length next.
pub(crate) fn give(buffer: Vec<f32>) {
    let mut spare = SPARE.lock().unwrap_or_else(PoisonError::into_inner);
    let alike = spare.entry(buffer.len()).or_default();
    if !buffer.is_empty() && alike.len() < MOST {
        alike.push(buffer);
    }
}

/// A copy of `numbers`.
pub(crate) fn copy(numbers: &[f32]) -> Vec<f32> {
    let mut copy = take(numbers.len());
    copy.copy_from_slice(numbers);
    copy
}

/// `len` zeros.
pub(crate) fn zeros(len: usize) -> Vec<f32> {
    let mut zeros = take(len);
    zeros.fill(0.0);
    zeros
}

/// Room for `len` numbers that are yet to come.
pub(crate) fn empty(len: usize) -> Vec<f32> {
    let mut room = take(len);
    room.clear();
    room
}
