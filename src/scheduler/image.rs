//! One image in flight: the evaluations that it takes, how far it has come, and whether to take another one.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::DeviceId;
use crate::domain::{Evaluation, Rule, StepsReason, TimePairs};
use crate::engine::RowId;

/// How much longer than foreseen a plan may take before an image begins with fewer steps, in forwards: forwards are as
/// often shorter than the one at hand as they are longer.
const ENTRY_TOLERANCE: f64 = 0.5;

/// An image between its first evaluation and its last.
#[derive(Debug)]
pub(super) struct InFlight {
    pub(super) id: RowId,
    /// Its place in the job.
    pub(super) index: u32,
    /// Where its state is.
    pub(super) device: DeviceId,
    /// All its evaluations, those before a kept state included.
    pub(super) plan: Arc<[Evaluation]>,
    /// The jumps that its model knows: where it may end early.
    pub(super) pairs: TimePairs,
    /// How many of them lie behind it.
    pub(super) done: usize,
    /// How many were made for it here.
    pub(super) made: u32,
    /// Whether its next evaluation is the jump to the end, whatever the plan says.
    pub(super) finishing: bool,
    /// Why it gets the evaluations that it gets.
    pub(super) reason: StepsReason,
    pub(super) begun: Instant,
}

/// What decides on an image's steps: its deadline, and what its next forward takes.
#[derive(Debug, Clone, Copy)]
pub(super) struct Outlook {
    /// When the forward begins.
    pub(super) now: Instant,
    /// What a forward of this size takes.
    pub(super) step: Duration,
    /// When the image should be finished.
    pub(super) target: Instant,
    /// Evaluations after which it may be finished.
    pub(super) floor: usize,
    /// Why time is short, if it is.
    pub(super) cause: StepsReason,
    /// Whether another job would be late if this one took more than it must.
    pub(super) squeezed: bool,
}

impl Outlook {
    /// Whether `evaluations` forwards are over by the target, with `tolerance` forwards of grace.
    fn fits(&self, evaluations: usize, tolerance: f64) -> bool {
        let steps = (evaluations as f64 - tolerance).max(0.0);
        self.now + self.step.mul_f64(steps) <= self.target
    }

    /// The steps with which an image begins that would have `steps`: the most that fit, of a half, a quarter, … of them.
    /// An image that cannot have all steps thus leaves time to those that can.
    pub(super) fn entry(&self, steps: u32) -> u32 {
        let floor = u32::try_from(self.floor).unwrap_or(u32::MAX).min(steps);
        let mut fitting = steps;
        while fitting > floor && !self.fits(fitting as usize, ENTRY_TOLERANCE) {
            fitting = (fitting.next_power_of_two() / 2).max(floor);
        }
        fitting
    }
}

impl InFlight {
    /// Evaluations that are still to be made, as planned.
    pub(super) fn remaining(&self) -> usize {
        if self.finishing { 1 } else { self.plan.len().saturating_sub(self.done) }
    }

    /// Evaluations that must still be made before it may end, where it may end after `floor` of them.
    pub(super) fn mandatory(&self, floor: usize) -> usize {
        let may_end = (floor.max(self.done + 1)..self.plan.len()).find(|&evaluations| self.may_end_after(evaluations));
        may_end.map_or(self.remaining(), |evaluations| evaluations - self.done).clamp(1, self.remaining().max(1))
    }

    /// Whether the model knows the jump to the end that would be evaluation number `evaluations`. Such that know all
    /// that lead forward can end anywhere; a shortcut model from where the rest is a power of two.
    fn may_end_after(&self, evaluations: usize) -> bool {
        let jump = self.plan.get(evaluations.wrapping_sub(1)).zip(self.plan.last());
        jump.is_some_and(|(from, last)| self.pairs.contains(from.s, last.t))
    }

    /// Decides whether the next evaluation is the jump to the end. `floor` must be that of a sampler that can jump.
    pub(super) fn decide(&mut self, outlook: &Outlook) {
        let may_finish = self.remaining() > 1 && self.done + 1 >= outlook.floor && self.may_end_after(self.done + 1);
        if !may_finish {
            return;
        }
        let late = !outlook.fits(2, 0.0);
        if late || outlook.squeezed {
            self.finishing = true;
            let is_own = late || outlook.cause == StepsReason::Shutdown;
            self.reason = if is_own { outlook.cause } else { StepsReason::Overload };
        }
    }

    /// The next evaluation; `None` after the last.
    pub(super) fn next(&self) -> Option<Evaluation> {
        let planned = *self.plan.get(self.done)?;
        let end = self.plan.last().map_or(planned.t, |last| last.t);
        Some(if self.finishing { Evaluation { s: planned.s, t: end, rule: Rule::Jump } } else { planned })
    }

    /// Where it would be after a jump to its end from where it is, and the evaluations that this would make in all;
    /// `None` where that is its next evaluation anyway, and where its model does not know the jump.
    pub(super) fn preview(&self) -> Option<(Evaluation, u32)> {
        let (planned, last) = (self.plan.get(self.done)?, self.plan.last()?);
        let is_jump = matches!(planned.rule, Rule::Jump | Rule::Renoise { .. });
        let differs = self.remaining() > 1 && is_jump && self.may_end_after(self.done + 1);
        let evaluations = u32::try_from(self.done + 1).unwrap_or(u32::MAX);
        differs.then_some((Evaluation { s: planned.s, t: last.t, rule: Rule::Jump }, evaluations))
    }

    /// The times that it has visited, up to the state that its next evaluation starts from.
    pub(super) fn walked(&self) -> Vec<f64> {
        let steps = self.plan.iter().take(self.done + 1).filter(|evaluation| evaluation.rule != Rule::HeunCorrect);
        steps.map(|evaluation| evaluation.s).collect()
    }

    /// The times that it will have visited once its last evaluation is made.
    pub(super) fn visited(&self) -> Vec<f64> {
        let mut times = self.walked();
        times.extend(self.plan.last().map(|last| last.t));
        times
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::{Sampler, TimeGrid};

    const STEP: Duration = Duration::from_millis(10);

    fn image(steps: u32, done: usize) -> InFlight {
        InFlight {
            id: RowId(0),
            index: 0,
            device: DeviceId(0),
            plan: Sampler::FlowMap.plan(&TimeGrid::uniform(steps)).into(),
            pairs: TimePairs::Triangle,
            done,
            made: 0,
            finishing: false,
            reason: StepsReason::Asked,
            begun: Instant::now(),
        }
    }

    fn outlook(left_ms: u64, floor: usize) -> Outlook {
        let now = Instant::now();
        let target = now + Duration::from_millis(left_ms);
        Outlook { now, step: STEP, target, floor, cause: StepsReason::Deadline, squeezed: false }
    }

    #[test]
    fn an_image_ends_early_exactly_when_another_step_would_be_late() {
        for (left_ms, floor, finishes) in [(20, 1, false), (19, 1, true), (19, 3, true), (19, 4, false), (0, 1, true)] {
            let mut image = image(8, 2);
            image.decide(&outlook(left_ms, floor));
            assert_eq!(image.finishing, finishes, "{left_ms} {floor}");
            if finishes {
                assert_eq!((image.next().unwrap(), image.remaining()), (Evaluation::finish(0.25), 1));
                assert_eq!((image.visited(), image.reason), (vec![0.0, 0.125, 0.25, 1.0], StepsReason::Deadline));
            }
        }
    }

    #[test]
    fn a_last_step_is_never_cut_and_a_squeeze_cuts_every_other() {
        let mut last = image(8, 7);
        last.decide(&Outlook { squeezed: true, ..outlook(0, 1) });
        assert_eq!((last.finishing, last.reason, last.visited().len()), (false, StepsReason::Asked, 9));
        let mut squeezed = image(8, 2);
        squeezed.decide(&Outlook { squeezed: true, ..outlook(1000, 1) });
        assert_eq!((squeezed.finishing, squeezed.reason), (true, StepsReason::Overload));
    }

    #[test]
    fn an_image_begins_with_the_most_halved_steps_that_fit() {
        for (left_ms, floor, steps) in [(80, 1, 8), (75, 1, 8), (74, 1, 4), (20, 1, 2), (3, 1, 1), (3, 3, 3)] {
            assert_eq!(outlook(left_ms, floor).entry(8), steps, "{left_ms}");
        }
        assert_eq!((outlook(30, 1).entry(6), outlook(30, 5).entry(3)), (2, 3));
    }

    #[test]
    fn mandatory_evaluations_are_those_up_to_the_floor() {
        assert_eq!([1, 3, 8].map(|floor| image(8, 2).mandatory(floor)), [1, 1, 6]);
        assert_eq!(image(8, 7).mandatory(1), 1);
    }

    #[test]
    fn a_shortcut_model_ends_only_where_it_knows_the_jump() {
        let shortcut = |done| InFlight { pairs: TimePairs::Dyadic { levels: 3 }, ..image(8, done) };
        let ends: Vec<usize> = (0..8)
            .filter(|&done| {
                let mut image = shortcut(done);
                image.decide(&outlook(0, 1));
                image.finishing
            })
            .collect();
        assert_eq!(ends, [0, 4, 6], "at 0, 1/2 and 3/4; 7/8 is before the last step");
        assert_eq!([0, 1, 4, 5, 6, 7].map(|done| shortcut(done).mandatory(1)), [1, 4, 1, 2, 1, 1]);
        assert_eq!([2, 6, 8].map(|floor| shortcut(0).mandatory(floor)), [5, 7, 8]);
        assert_eq!((shortcut(1).preview(), shortcut(4).preview()), (None, Some((Evaluation::finish(0.5), 5))));
    }

    #[test]
    fn a_row_between_two_renoised_steps_is_one_jump_from_its_end() {
        let plan: Arc<[Evaluation]> = Sampler::CONSISTENCY.plan(&TimeGrid::uniform(4)).into();
        let mut image = InFlight { pairs: TimePairs::End, plan, ..image(4, 2) };
        assert_eq!(image.preview(), Some((Evaluation::finish(0.5), 3)));
        image.decide(&outlook(0, 1));
        assert_eq!((image.next(), image.visited()), (Some(Evaluation::finish(0.5)), vec![0.0, 0.25, 0.5, 1.0]));
    }

    #[test]
    fn previews_end_before_the_image_does() {
        assert_eq!(image(4, 0).preview(), Some((Evaluation::finish(0.0), 1)));
        assert_eq!(image(4, 2).preview(), Some((Evaluation::finish(0.5), 3)));
        assert_eq!(image(4, 3).preview(), None);
    }
}
