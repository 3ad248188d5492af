//! A network compiled for serving on a CPU: a list of fused steps over buffers that are there from the start.
//!
//! A [`Recorder`] sees what the network does; what belongs together becomes one step (a product with its activation, its
//! gate or its table; a norm with its modulation), weights are packed, and values share buffers. A forward then costs its
//! arithmetic: no graph, no allocation.
//!
//! Every row of every step is computed by the same chain of operations, whatever other rows there are and whichever
//! thread takes it. So a sample's bits depend neither on its batch nor on the number of threads.

mod graph;
mod lower;
mod recorder;
mod step;

use std::sync::{Mutex, PoisonError};

use candle_core::Result;

use super::kernels::team::{Session, Team};
use super::ops::Network;
use lower::{Program, Step};
pub use recorder::Recorder;
use step::{Context, Part};

/// Images that a thread takes through the network as a group: as many as make the weights, which come from the
/// third-level cache, cheap beside the arithmetic that they serve.
const GROUP_IMAGES: usize = 8;

/// Most images of a group of a network so small that more of them fit into [`SMALL_NUMBERS`].
const SMALL_IMAGES: usize = 64;

/// Numbers in the buffers of a small network's group: half of a second-level cache.
const SMALL_NUMBERS: usize = 64 << 10;

/// Numbers in the buffers of any group: 64 MiB.
const MOST_NUMBERS: usize = 16 << 20;

/// Multiplications of a step from which threads share it: about 5 µs of one.
const SHARED_COST: usize = 200_000;

/// What a network is asked for one row.
#[derive(Debug, Clone, Copy)]
pub struct Query<'a> {
    /// The state, row-major.
    pub x: &'a [f32],
    /// The time before the jump.
    pub s: f32,
    /// The time after it.
    pub t: f32,
    /// The class; the null class is the number of classes.
    pub label: u32,
}

/// A compiled network.
#[derive(Debug)]
pub struct Plan {
    program: Program,
    /// Numbers in a state.
    elements: usize,
    /// Classes, the null class among them.
    labels: usize,
    /// Images of a group.
    group: usize,
    /// Memories that nobody uses.
    spare: Mutex<Vec<Memory>>,
}

impl Plan {
    /// Compiles `network` for states of `elements` numbers and labels below `labels`.
    ///
    /// # Errors
    /// Where shapes do not go together or weights are not `f32`.
    pub fn new(network: &impl Network, elements: usize, labels: usize) -> Result<Self> {
        let (graph, answer) = Recorder::record(network, elements)?;
        let program = lower::lower(&graph, answer)?;
        let numbers: usize = program.buffers.iter().sum();
        let small = (SMALL_NUMBERS / numbers.max(1)).min(SMALL_IMAGES);
        let group = small.max(GROUP_IMAGES).min(MOST_NUMBERS / numbers.max(1)).max(1);
        Ok(Self { program, elements, labels, group, spare: Mutex::default() })
    }

    /// Numbers in a state and in an answer.
    pub fn elements(&self) -> usize {
        self.elements
    }

    /// Answers `queries` with `v_{s,t}(x)`, one after the other, on this thread.
    ///
    /// # Errors
    /// A state of another length, a label that is none, or an `out` of another length.
    pub fn answer(&self, queries: &[Query<'_>], out: &mut [f32]) -> Result<()> {
        self.check(queries, out)?;
        let mut memory = self.memory();
        for (queries, out) in queries.chunks(self.group).zip(out.chunks_mut(self.group * self.elements)) {
            self.alone(&mut memory, queries, out);
        }
        self.put_back(memory);
        Ok(())
    }

    /// As [`answer`](Self::answer), on all threads of `team`: each takes groups of images through the whole network, and
    /// all share every step of the images that are left over.
    ///
    /// # Errors
    /// As [`answer`](Self::answer).
    pub fn answer_with(&self, team: &Team, queries: &[Query<'_>], out: &mut [f32]) -> Result<()> {
        let threads = team.threads();
        if threads == 1 {
            return self.answer(queries, out);
        }
        self.check(queries, out)?;
        let mut session = team.session();
        let apart = queries.len() - queries.len() % threads;
        let (apart, together) = queries.split_at(apart);
        let (out_apart, out_together) = out.split_at_mut(apart.len() * self.elements);
        // Rounds of one group for each thread, all of one size.
        let rounds = apart.len().div_ceil(threads * self.group).max(1);
        let group = apart.len().div_ceil(threads * rounds).max(1);
        session.chunks(out_apart, group * self.elements, |_, index, out| {
            let mut memory = self.memory();
            let first = index * group;
            self.alone(&mut memory, &apart[first..apart.len().min(first + group)], out);
            self.put_back(memory);
        });
        let mut memory = self.memory();
        for (queries, out) in together.chunks(self.group).zip(out_together.chunks_mut(self.group * self.elements)) {
            self.together(&mut session, &mut memory, queries, out);
        }
        self.put_back(memory);
        Ok(())
    }

    fn check(&self, queries: &[Query<'_>], out: &[f32]) -> Result<()> {
        let is_wrong = |query: &&Query<'_>| query.x.len() != self.elements || query.label as usize >= self.labels;
        if let Some(query) = queries.iter().find(is_wrong) {
            let (x, label) = (query.x.len(), query.label);
            candle_core::bail!(
                "a query of {x} numbers and label {label}, not {} and one of {}",
                self.elements,
                self.labels
            )
        }
        if out.len() != queries.len() * self.elements {
            candle_core::bail!("room for {} numbers, not for {} answers", out.len(), queries.len());
        }
        Ok(())
    }

    /// One group on this thread.
    fn alone(&self, memory: &mut Memory, queries: &[Query<'_>], out: &mut [f32]) {
        for step in &self.program.steps {
            memory.write(step, queries, |cx, out, scratch| step.run(cx, 0, out, &scratch[0]));
        }
        memory.read(self.program.answer, out);
    }

    /// One group, every step on all threads.
    fn together(&self, session: &mut Session<'_>, memory: &mut Memory, queries: &[Query<'_>], out: &mut [f32]) {
        memory.scratch_for(session.threads(), &self.program);
        for step in &self.program.steps {
            memory.write(step, queries, |cx, out, scratch| {
                let [rows, width] = step.shape;
                let all = queries.len() * rows;
                if all * step.kind.cost(width) < SHARED_COST {
                    return step.run(cx, 0, out, &scratch[0]);
                }
                if let Some(share) = step.kind.share(queries.len(), session.threads()) {
                    return session.columns(out, [width, share], |thread, out| {
                        let mut scratch = scratch[thread].lock().unwrap_or_else(PoisonError::into_inner);
                        step.kind.run_columns(cx, out, &mut scratch);
                    });
                }
                let share = all.div_ceil(session.threads()).next_multiple_of(step.kind.unit());
                session.chunks(out, share * width, |thread, index, out| {
                    step.run(cx, index * share, out, &scratch[thread]);
                });
            });
        }
        memory.read(self.program.answer, out);
    }

    /// Memory that nobody else uses.
    fn memory(&self) -> Memory {
        let spare = self.spare.lock().unwrap_or_else(PoisonError::into_inner).pop();
        spare.unwrap_or_else(|| Memory::new(&self.program, self.group))
    }

    fn put_back(&self, memory: Memory) {
        self.spare.lock().unwrap_or_else(PoisonError::into_inner).push(memory);
    }
}

impl Step {
    /// Computes the rows from `first` on that `out` has room for.
    fn run(&self, cx: Context<'_>, first: usize, out: &mut [f32], scratch: &Mutex<Vec<f32>>) {
        let mut scratch = scratch.lock().unwrap_or_else(PoisonError::into_inner);
        self.kind.run(cx, self.shape, first, Part { out, scratch: &mut scratch });
    }
}

/// Buffers for one group.
#[derive(Debug)]
struct Memory {
    /// By the numbers of the program's buffers.
    buffers: Vec<Vec<f32>>,
    /// One for each thread that takes part in a step.
    scratch: Vec<Mutex<Vec<f32>>>,
}

impl Memory {
    fn new(program: &Program, images: usize) -> Self {
        let buffers = program.buffers.iter().map(|len| vec![0.0; len * images]).collect();
        let mut memory = Self { buffers, scratch: Vec::new() };
        memory.scratch_for(1, program);
        memory
    }

    /// Makes sure that `threads` threads have their own scratch.
    fn scratch_for(&mut self, threads: usize, program: &Program) {
        let len = || program.steps.iter().map(|step| step.kind.scratch()).max().unwrap_or(0);
        while self.scratch.len() < threads {
            self.scratch.push(Mutex::new(vec![0.0; len()]));
        }
    }

    /// Lets `run` write the result of `step`, which reads every other buffer.
    fn write(
        &mut self,
        step: &Step,
        queries: &[Query<'_>],
        run: impl FnOnce(Context<'_>, &mut [f32], &[Mutex<Vec<f32>>]),
    ) {
        let mut out = std::mem::take(&mut self.buffers[step.buffer]);
        let [rows, width] = step.shape;
        run(Context { buffers: &self.buffers, queries }, &mut out[..queries.len() * rows * width], &self.scratch);
        self.buffers[step.buffer] = out;
    }

    /// Copies the beginning of a buffer.
    fn read(&self, buffer: usize, out: &mut [f32]) {
        out.copy_from_slice(&self.buffers[buffer][..out.len()]);
    }
}
