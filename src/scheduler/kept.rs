//! States from which finished images can be continued, in bounded memory, the longest unused forgotten first.
//!
//! A state is a pure function of the model, the noise, the class, the guidance, gamma and the times walked: its key.
//! So whoever names these finds it, on whatever request it was made, and a state that is gone is made again with the
//! same bytes. Nothing has to be handed out, guarded or expired.

use std::sync::Arc;

use lru::LruCache;

use crate::domain::{Gamma, Job, ModelKey, Source};

/// Bytes that an entry takes beside its numbers: key, links, allocations; rounded up.
const ENTRY_BYTES: usize = 256;

/// What a state is a function of.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Key {
    model: ModelKey,
    seed: u64,
    index: u32,
    label: Option<u32>,
    guidance: u32,
    gamma: Option<Gamma>,
    times: Box<[u64]>,
}

impl Key {
    /// The state of `source` in a job like `job`, after the jumps along `times` from noise.
    pub(super) fn new(job: &Job, source: &Source, times: &[f64]) -> Self {
        Self {
            model: job.model,
            seed: source.seed,
            index: source.index,
            label: source.label,
            guidance: job.guidance.to_bits(),
            gamma: job.sampler.gamma(),
            times: times.iter().map(|t| t.to_bits()).collect(),
        }
    }
}

/// The states.
#[derive(Debug)]
pub(super) struct Kept {
    states: LruCache<Key, Arc<[f32]>>,
    bytes: usize,
    most_bytes: usize,
}

impl Kept {
    /// None yet, and never more than `most_bytes`.
    pub(super) fn new(most_bytes: usize) -> Self {
        Self { states: LruCache::unbounded(), bytes: 0, most_bytes }
    }

    /// Whether anything can be kept.
    pub(super) fn is_enabled(&self) -> bool {
        self.most_bytes > 0
    }

    /// The state, if it is still there.
    pub(super) fn get(&mut self, key: &Key) -> Option<Arc<[f32]>> {
        self.states.get(key).cloned()
    }

    /// Keeps a state, and forgets others for it.
    pub(super) fn put(&mut self, key: Key, state: Vec<f32>) {
        self.bytes += size(&key, &state);
        if let Some((key, old)) = self.states.push(key, state.into()) {
            self.bytes -= size(&key, &old);
        }
        while self.bytes > self.most_bytes {
            let Some((key, state)) = self.states.pop_lru() else { break };
            self.bytes -= size(&key, &state);
        }
    }

    /// Memory in use, in bytes.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }
}

fn size(key: &Key, state: &[f32]) -> usize {
    ENTRY_BYTES + size_of_val(&*key.times) + size_of_val(state)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::Sampler;
    use crate::scheduler::testing::job;

    fn key(seed: u64, times: &[f64]) -> Key {
        Key::new(&job(0, 1, 1), &Source::noise(seed, 0, None), times)
    }

    #[test]
    fn what_differs_in_anything_is_another_state() {
        let mut kept = Kept::new(1 << 20);
        kept.put(key(1, &[0.0, 0.5]), vec![1.0]);
        assert_eq!(kept.get(&key(1, &[0.0, 0.5])).as_deref(), Some(&[1.0][..]));
        let source = Source::noise(1, 0, Some(3));
        for other in [
            key(2, &[0.0, 0.5]),
            key(1, &[0.0, 0.25, 0.5]),
            Key::new(&job(1, 1, 1), &Source::noise(1, 0, None), &[0.0, 0.5]),
            Key::new(&Job { guidance: 2.0, ..job(0, 1, 1) }, &Source::noise(1, 0, None), &[0.0, 0.5]),
            Key::new(&Job { sampler: Sampler::CONSISTENCY, ..job(0, 1, 1) }, &Source::noise(1, 0, None), &[0.0, 0.5]),
            Key::new(&job(0, 1, 1), &source, &[0.0, 0.5]),
        ] {
            assert_eq!(kept.get(&other), None, "{other:?}");
        }
    }

    #[test]
    fn memory_is_bounded_and_the_longest_unused_goes_first() {
        let each = size(&key(0, &[0.0, 0.5]), &[0.0; 100]);
        let mut kept = Kept::new(3 * each);
        (0..3).for_each(|seed| kept.put(key(seed, &[0.0, 0.5]), vec![0.0; 100]));
        assert!(kept.get(&key(0, &[0.0, 0.5])).is_some());
        kept.put(key(3, &[0.0, 0.5]), vec![0.0; 100]);
        let there: Vec<bool> = (0..4).map(|seed| kept.get(&key(seed, &[0.0, 0.5])).is_some()).collect();
        assert_eq!(there, [true, false, true, true]);
        kept.put(key(3, &[0.0, 0.5]), vec![0.0; 100]);
        assert_eq!(kept.bytes(), 3 * each);
        kept.put(key(9, &[0.0, 0.5]), vec![0.0; 10_000]);
        assert_eq!(kept.bytes(), 0, "what is larger than everything is not kept");
        assert!(!Kept::new(0).is_enabled());
    }
}
