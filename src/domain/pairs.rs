//! The pairs of times that a network knows, and what may be walked with it.

use serde::{Deserialize, Serialize};

use super::{Sampler, TimeGrid};

/// The pairs `(s, t)` at which a network was trained, hence may be asked for `v_{s,t}`.
///
/// In JSON `"diagonal"`, `"triangle"`, `"square"`, `"end"`, or `{"dyadic": {"levels": 7}}`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum TimePairs {
    /// `s = t` only: a velocity field.
    Diagonal,
    /// `s <= t`: a flow map that generates.
    Triangle,
    /// All of `[0, 1]²`: a flow map that also encodes.
    Square,
    /// `t = 1` only: a consistency model.
    End,
    /// `t - s = 2^-k` with `s` a multiple of it, for `k = 0 ..= levels`, and `s = t`: a shortcut model.
    Dyadic {
        /// The finest level: the shortest jump is `2^-levels`. At most [`MAX_LEVELS`](TimePairs::MAX_LEVELS).
        levels: u32,
    },
}

impl TimePairs {
    /// The most levels of dyadic jumps: their times are exact in f32.
    pub const MAX_LEVELS: u32 = 20;

    /// Whether the network may be asked for `v_{s,t}`.
    pub fn contains(self, s: f64, t: f64) -> bool {
        match self {
            Self::Diagonal => s == t,
            Self::Triangle => s <= t,
            Self::Square => true,
            Self::End => t == 1.0,
            Self::Dyadic { levels } => {
                let size = t - s;
                let is_size = |level: u32| size == 0.5f64.powi(level.min(Self::MAX_LEVELS).cast_signed());
                s == t || (0..=levels.min(Self::MAX_LEVELS)).any(is_size) && (s / size).fract() == 0.0
            }
        }
    }

    /// Checks that `sampler` asks only for legal pairs on its way along `grid`.
    ///
    /// # Errors
    /// The first illegal pair and what is legal, as a sentence for the person who chose them.
    pub fn check(self, sampler: Sampler, grid: &TimeGrid) -> Result<(), String> {
        if sampler.gamma().is_some() && !grid.is_rising() {
            return Err(format!("{sampler} adds noise on its way to data and cannot walk a falling time grid"));
        }
        let pairs = sampler.plan(grid).into_iter().map(|evaluation| evaluation.network_times());
        match pairs.into_iter().find(|&(s, t)| !self.contains(s, t)) {
            None => Ok(()),
            Some((s, t)) => Err(format!("{sampler} needs ({}, {}), but {}", short(s), short(t), self.told())),
        }
    }

    /// Whether `sampler` can walk grids of several steps that rise or fall: all of them, or for
    /// [`Dyadic`](Self::Dyadic) those of its times.
    pub fn allows(self, sampler: Sampler, rising: bool) -> bool {
        match (self, sampler) {
            (_, Sampler::Gamma(_)) if !rising => false,
            (Self::End, _) | (Self::Dyadic { .. }, Sampler::Gamma(_)) => sampler == Sampler::CONSISTENCY,
            (Self::Square, _) | (_, Sampler::Euler | Sampler::Heun) => true,
            (Self::Triangle | Self::Dyadic { .. }, _) => rising,
            (Self::Diagonal, _) => false,
        }
    }

    /// The names of the samplers that it allows; none on falling grids of a model that cannot encode.
    pub fn samplers(self, rising: bool) -> impl Iterator<Item = Sampler> {
        Sampler::ALL.into_iter().filter(move |&sampler| self.allows(sampler, rising))
    }

    /// The fewest steps, `wanted` or more, in which `sampler` can walk a [coarser](TimeGrid::coarsen) `grid`. Those of
    /// the grid itself where there are no others.
    pub fn steps_from(self, wanted: u32, sampler: Sampler, grid: &TimeGrid) -> u32 {
        let own = u32::try_from(grid.steps()).unwrap_or(u32::MAX);
        match self {
            // Only these tell one grid from another: the others have both or neither.
            Self::Dyadic { .. } if sampler.jumps() && wanted < own => {
                let is_legal = |&steps: &u32| self.check(sampler, &grid.coarsen(steps)).is_ok();
                (wanted.max(1)..own).find(is_legal).unwrap_or(own)
            }
            _ => wanted,
        }
    }

    /// The sampler used where a request names none.
    pub fn default_sampler(self) -> Sampler {
        match self {
            Self::Diagonal => Sampler::Heun,
            Self::Triangle | Self::Square | Self::Dyadic { .. } => Sampler::FlowMap,
            Self::End => Sampler::CONSISTENCY,
        }
    }

    /// What is legal, for the person who asked for something else.
    fn told(self) -> String {
        match self {
            Self::Diagonal => "this model is a velocity field, s = t only: use euler or heun".into(),
            Self::Triangle => "this model only jumps forward, s <= t".into(),
            Self::Square => "this model jumps anywhere in [0, 1]".into(),
            Self::End => "this model only jumps to t = 1: use the sampler consistency, which is gamma 1".into(),
            Self::Dyadic { levels } => {
                let most = 1u64 << levels.min(Self::MAX_LEVELS);
                format!("this model jumps by 2^-k between multiples of it: steps must be a power of two up to {most}")
            }
        }
    }
}

/// A time for people.
fn short(time: f64) -> f64 {
    (time * 1e4).round() / 1e4
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::{Evaluation, Gamma};

    const SHORTCUT: TimePairs = TimePairs::Dyadic { levels: 7 };
    const EVERY: [TimePairs; 5] =
        [TimePairs::Diagonal, TimePairs::Triangle, TimePairs::Square, TimePairs::End, SHORTCUT];

    fn grid(times: &[f64]) -> TimeGrid {
        TimeGrid::new(times.to_vec()).unwrap()
    }

    #[test]
    fn pairs_are_legal_as_they_were_trained() {
        for (s, t, legal) in [
            (0.5, 0.5, [true, true, true, false, true]),
            (0.3, 0.7, [false, true, true, false, false]),
            (0.7, 0.3, [false, false, true, false, false]),
            (0.3, 1.0, [false, true, true, true, false]),
            (0.0, 1.0, [false, true, true, true, true]),
            (0.25, 0.5, [false, true, true, false, true]),
            (0.25, 0.75, [false, true, true, false, false]),
            (0.75, 1.0, [false, true, true, true, true]),
            (0.0, 1.0 / 256.0, [false, true, true, false, false]),
            (1.0, 1.0, [true, true, true, true, true]),
        ] {
            assert_eq!(EVERY.map(|pairs| pairs.contains(s, t)), legal, "{s} {t}");
        }
    }

    #[test]
    fn what_may_be_walked_is_what_the_plan_asks_for() {
        for (sampler, grid, legal) in [
            (Sampler::FlowMap, TimeGrid::uniform(8), [false, true, true, false, true]),
            (Sampler::FlowMap, TimeGrid::uniform(6), [false, true, true, false, false]),
            (Sampler::FlowMap, TimeGrid::uniform(1), [false, true, true, true, true]),
            (Sampler::FlowMap, grid(&[0.0, 0.5, 0.75, 1.0]), [false, true, true, false, true]),
            (Sampler::FlowMap, TimeGrid::uniform(256), [false, true, true, false, false]),
            (Sampler::FlowMap, TimeGrid::uniform(4).reversed(), [false, false, true, false, false]),
            (Sampler::CONSISTENCY, TimeGrid::uniform(3), [false, true, true, true, false]),
            (Sampler::CONSISTENCY, grid(&[0.0, 0.5, 0.875, 1.0]), [false, true, true, true, true]),
            (Sampler::CONSISTENCY, TimeGrid::uniform(2).reversed(), [false; 5]),
            (Sampler::ALL[3], TimeGrid::uniform(2), [false, true, true, false, false]),
            (Sampler::Heun, TimeGrid::uniform(3), [true, true, true, false, true]),
            (Sampler::Euler, TimeGrid::uniform(3).reversed(), [true, true, true, false, true]),
        ] {
            let checked = EVERY.map(|pairs| pairs.check(sampler, &grid));
            assert_eq!(checked.each_ref().map(Result::is_ok), legal, "{sampler} {grid:?}");
            for (pairs, checked) in EVERY.iter().zip(checked) {
                let is_shorter = grid.steps() < 2;
                assert!(
                    checked.is_err() || is_shorter || pairs.allows(sampler, grid.is_rising()),
                    "{pairs:?} {sampler}"
                );
            }
        }
    }

    #[test]
    fn a_refusal_names_the_pair_and_the_remedy() {
        let told = |pairs: TimePairs, sampler, steps| pairs.check(sampler, &TimeGrid::uniform(steps)).unwrap_err();
        let dyadic = told(SHORTCUT, Sampler::FlowMap, 3);
        assert!(dyadic.contains("(0, 0.333") && dyadic.ends_with("a power of two up to 128"), "{dyadic}");
        let end = told(TimePairs::End, Sampler::FlowMap, 2);
        assert!(end.contains("(0, 0.5)") && end.contains("only jumps to t = 1: use the sampler consistency"), "{end}");
        assert!(told(TimePairs::Diagonal, Sampler::FlowMap, 1).ends_with("use euler or heun"));
    }

    #[test]
    fn every_default_is_allowed() {
        for pairs in EVERY {
            assert!(pairs.allows(pairs.default_sampler(), true));
            assert_eq!(pairs.check(pairs.default_sampler(), &TimeGrid::uniform(4)), Ok(()));
        }
        assert_eq!(TimePairs::End.default_sampler(), Sampler::Gamma(Gamma::ONE));
    }

    #[test]
    fn fewer_steps_are_those_that_the_model_has() {
        let fewer =
            |grid: &TimeGrid| [1, 2, 3, 4, 5, 8].map(|wanted| SHORTCUT.steps_from(wanted, Sampler::FlowMap, grid));
        assert_eq!(fewer(&TimeGrid::uniform(8)), [1, 2, 4, 4, 8, 8]);
        assert_eq!(fewer(&TimeGrid::uniform_from(0.5, 8)), [1, 2, 4, 4, 8, 8]);
        assert_eq!(fewer(&grid(&[0.0, 0.5, 0.75, 0.875, 1.0])), [1, 4, 4, 4, 5, 8]);
        assert_eq!(TimePairs::Triangle.steps_from(3, Sampler::FlowMap, &TimeGrid::uniform(8)), 3);
        for steps in [0.0, 0.5, 0.75].map(Evaluation::finish) {
            assert!(SHORTCUT.contains(steps.s, steps.t));
        }
    }

    #[test]
    fn old_manifests_read_as_before() {
        for (text, pairs) in
            [("\"diagonal\"", EVERY[0]), ("\"triangle\"", EVERY[1]), ("\"square\"", EVERY[2]), ("\"end\"", EVERY[3])]
        {
            assert_eq!(serde_json::from_str::<TimePairs>(text).unwrap(), pairs);
            assert_eq!(serde_json::to_string(&pairs).unwrap(), text);
        }
        let dyadic = "{\"dyadic\":{\"levels\":7}}";
        assert_eq!(serde_json::from_str::<TimePairs>(dyadic).unwrap(), SHORTCUT);
        assert_eq!(serde_json::to_string(&SHORTCUT).unwrap(), dyadic);
        assert!(serde_json::from_str::<TimePairs>("{\"dyadic\":{\"levels\":7,\"most\":1}}").is_err());
    }
}
