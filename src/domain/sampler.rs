//! Samplers, and the network evaluations that they plan.

use std::fmt;
use std::hash::{Hash, Hasher};
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::TimeGrid;

/// How much of its noise a step of gamma-sampling draws anew, in `[0, 1]`.
#[derive(Debug, Clone, Copy, PartialEq, PartialOrd, Serialize, Deserialize)]
#[serde(into = "f32", try_from = "f32")]
pub struct Gamma(f32);

impl Gamma {
    /// All of it: the multistep sampler of consistency models.
    pub const ONE: Self = Self(1.0);

    /// Checks a value.
    ///
    /// # Errors
    /// What is wrong with it, as a sentence for the person who wrote it.
    pub fn new(value: f32) -> Result<Self, String> {
        // Adding zero turns -0 into 0: equal values have equal bits.
        if (0.0..=1.0).contains(&value) { Ok(Self(value + 0.0)) } else { Err(format!("is {value}, must be 0 to 1")) }
    }

    /// Its value.
    pub fn value(self) -> f32 {
        self.0
    }
}

// It is never NaN.
impl Eq for Gamma {}

impl Hash for Gamma {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.0.to_bits().hash(state);
    }
}

impl From<Gamma> for f32 {
    fn from(gamma: Gamma) -> Self {
        gamma.0
    }
}

impl TryFrom<f32> for Gamma {
    type Error = String;

    fn try_from(value: f32) -> Result<Self, Self::Error> {
        Self::new(value).map_err(|problem| format!("gamma {problem}"))
    }
}

/// How a grid is walked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Sampler {
    /// Composition of flow maps, `x ← X_{s,t}(x)`: one evaluation a step.
    FlowMap,
    /// Explicit Euler on the velocity `v_{t,t}`: one evaluation a step.
    Euler,
    /// Heun's second-order method on the velocity `v_{t,t}`: two evaluations a step.
    Heun,
    /// Gamma-sampling (Kim and others, "Consistency trajectory models", 2310.02279): each step but the last jumps beyond
    /// its end and adds fresh noise, see [`Rule::Renoise`]. One evaluation a step. Without fresh noise it is
    /// [`FlowMap`](Self::FlowMap), with nothing but it the multistep sampler of consistency models.
    Gamma(Gamma),
}

impl Sampler {
    /// The multistep sampler of consistency models (Song and others, 2303.01469, algorithm 1): every jump is to data,
    /// every next state is data with fresh noise.
    pub const CONSISTENCY: Self = Self::Gamma(Gamma::ONE);

    /// Every sampler; of gamma-sampling, whose gamma is a number, one from the middle and one end.
    pub const ALL: [Self; 5] = [Self::FlowMap, Self::Euler, Self::Heun, Self::Gamma(Gamma(0.5)), Self::CONSISTENCY];

    /// Network evaluations that one step takes.
    pub fn evaluations_per_step(self) -> u32 {
        match self {
            Self::FlowMap | Self::Euler | Self::Gamma(_) => 1,
            Self::Heun => 2,
        }
    }

    /// Whether a state between two steps is one jump `X_{s,1}` from its end: what early ends, previews and continued
    /// images need.
    pub fn jumps(self) -> bool {
        matches!(self, Self::FlowMap | Self::Gamma(_))
    }

    /// Its gamma, where it has one.
    pub fn gamma(self) -> Option<Gamma> {
        match self {
            Self::Gamma(gamma) => Some(gamma),
            Self::FlowMap | Self::Euler | Self::Heun => None,
        }
    }

    /// The evaluations that walk `grid`, in order. Pure: the same arguments give the same plan.
    pub fn plan(self, grid: &TimeGrid) -> Vec<Evaluation> {
        let rules: &[Rule] = match self {
            Self::FlowMap => &[Rule::Jump],
            Self::Euler => &[Rule::Euler],
            Self::Heun => &[Rule::HeunPredict, Rule::HeunCorrect],
            Self::Gamma(gamma) => return gamma.plan(grid),
        };
        grid.intervals().flat_map(|(s, t)| rules.iter().map(move |&rule| Evaluation { s, t, rule })).collect()
    }
}

impl Gamma {
    /// A step that draws no noise is a plain jump: all of them for gamma 0, else the one to data.
    fn plan(self, grid: &TimeGrid) -> Vec<Evaluation> {
        let rule = |step, t| match self.0 > 0.0 && t < 1.0 {
            true => Rule::Renoise { gamma: self, step },
            false => Rule::Jump,
        };
        (0..).zip(grid.intervals()).map(|(step, (s, t))| Evaluation { s, t, rule: rule(step, t) }).collect()
    }
}

impl fmt::Display for Sampler {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::FlowMap => f.write_str("flow-map"),
            Self::Euler => f.write_str("euler"),
            Self::Heun => f.write_str("heun"),
            Self::Gamma(Gamma::ONE) => f.write_str("consistency"),
            Self::Gamma(gamma) => write!(f, "gamma:{}", gamma.0),
        }
    }
}

impl FromStr for Sampler {
    type Err = String;

    fn from_str(s: &str) -> Result<Self, Self::Err> {
        if let Some(number) = s.strip_prefix("gamma:") {
            let value = number.parse::<f32>().map_err(|_| format!("gamma '{number}' is not a number"))?;
            return Gamma::try_from(value).map(Self::Gamma);
        }
        Self::ALL
            .into_iter()
            .find(|sampler| sampler.to_string() == s)
            .ok_or_else(|| format!("unknown sampler '{s}'; one of: flow-map, euler, heun, gamma:0.5, consistency"))
    }
}

/// How one network evaluation moves a row's state `x` across its interval `(s, t)`, with `h = t - s`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Rule {
    /// `x ← x + h v_{s,t}(x)`, the flow map itself.
    Jump,
    /// `x ← x + h v_{s,s}(x)`.
    Euler,
    /// `x̂ = x + h v_{s,s}(x)`, keeping `x` for the corrector.
    HeunPredict,
    /// `x ← (x + x̂ + h v_{t,t}(x̂)) / 2`: equal to `x + h (k₁ + k₂) / 2` without keeping `k₁`.
    HeunCorrect,
    /// A jump beyond `t`, and fresh noise `z` back to it. With `σ(t) = (1 - t) / t` and `c = sqrt(1 - γ²)`, the jump
    /// `y = X_{s,t'}(x)` ends where `σ(t') = c σ(t)`, at `t' = t / (t + c (1 - t))`, and
    /// `x ← t (y / t' + sqrt(σ(t)² - σ(t')²) z)`, which is `(t + c (1 - t)) y + γ (1 - t) z` without a division.
    Renoise {
        /// `γ`.
        gamma: Gamma,
        /// The step's place in the grid, from 0, by which its noise is drawn.
        step: u32,
    },
}

/// One evaluation of the network for one row: the unit of work that is scheduled.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Evaluation {
    /// Start of the interval.
    pub s: f64,
    /// End of the interval.
    pub t: f64,
    /// What becomes of the state.
    pub rule: Rule,
}

/// What follows a jump that went beyond its interval: `x ← kept y + fresh z`, where `z` is noise of the model's scale.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Renoising {
    /// What is left of where the jump led.
    pub kept: f64,
    /// The share of fresh noise.
    pub fresh: f64,
    /// The step whose noise it is.
    pub step: u32,
}

impl Evaluation {
    /// The jump from `s` that finishes an image: what makes a row in flight one evaluation from done.
    pub fn finish(s: f64) -> Self {
        Self { s, t: 1.0, rule: Rule::Jump }
    }

    /// The time to which the network's velocity takes the state: the end of the interval, or beyond it.
    pub fn landing(&self) -> f64 {
        match self.rule {
            Rule::Renoise { gamma, .. } => self.t / (self.t + gamma.complement() * (1.0 - self.t)),
            _ => self.t,
        }
    }

    /// The pair of times at which the network is asked for `v`.
    pub fn network_times(&self) -> (f64, f64) {
        match self.rule {
            Rule::Jump | Rule::Renoise { .. } => (self.s, self.landing()),
            Rule::Euler | Rule::HeunPredict => (self.s, self.s),
            Rule::HeunCorrect => (self.t, self.t),
        }
    }

    /// The noise that brings the state back from its [`landing`](Self::landing) to the interval's end, if it must.
    pub fn renoising(&self) -> Option<Renoising> {
        let Rule::Renoise { gamma, step } = self.rule else { return None };
        let rest = 1.0 - self.t;
        let kept = self.t + gamma.complement() * rest;
        Some(Renoising { kept, fresh: f64::from(gamma.0) * rest, step })
    }
}

impl Gamma {
    /// `sqrt(1 - γ²)`.
    fn complement(self) -> f64 {
        (1.0 - f64::from(self.0).powi(2)).sqrt()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gamma(value: f32) -> Sampler {
        Sampler::Gamma(Gamma::new(value).unwrap())
    }

    #[test]
    fn names_are_read_back() {
        for sampler in Sampler::ALL.into_iter().chain([0.0, 0.25, 1e-7].map(gamma)) {
            assert_eq!(sampler.to_string().parse(), Ok(sampler));
            let json = serde_json::to_string(&sampler).unwrap();
            assert_eq!(serde_json::from_str::<Sampler>(&json).unwrap(), sampler);
        }
        assert_eq!("gamma:1".parse(), Ok(Sampler::CONSISTENCY));
        assert_eq!(gamma(-0.0), gamma(0.0));
        for bad in ["rk4", "gamma", "gamma:", "gamma:1.5", "gamma:-0.1", "gamma:nan"] {
            assert!(bad.parse::<Sampler>().is_err(), "{bad}");
        }
        assert!(serde_json::from_str::<Sampler>("{\"gamma\":2}").is_err());
    }

    #[test]
    fn heun_takes_two_evaluations_a_step() {
        let grid = TimeGrid::uniform(2);
        for sampler in Sampler::ALL {
            assert_eq!(sampler.plan(&grid).len(), 2 * sampler.evaluations_per_step() as usize);
        }
        assert_eq!(Sampler::Heun.plan(&grid)[1].network_times(), (0.5, 0.5));
    }

    #[test]
    fn the_ends_of_gamma_are_composition_and_jumps_to_data() {
        let grid = TimeGrid::uniform(4);
        assert_eq!(gamma(0.0).plan(&grid), Sampler::FlowMap.plan(&grid));
        let plan = Sampler::CONSISTENCY.plan(&grid);
        for (step, (s, t)) in (0..).zip(grid.intervals().take(3)) {
            let evaluation = plan[step as usize];
            assert_eq!(evaluation.network_times(), (s, 1.0));
            assert_eq!(evaluation.renoising(), Some(Renoising { kept: t, fresh: 1.0 - t, step }));
        }
        assert_eq!(plan[3], Evaluation::finish(0.75), "the last step adds no noise");
    }

    /// The definition by `σ`, where it can be computed.
    #[test]
    fn a_step_lands_where_its_noise_level_is_a_part_of_the_ends() {
        let sigma = |t: f64| (1.0 - t) / t;
        for value in [0.1f32, 0.5, 0.9, 1.0] {
            for (s, t) in [(0.0, 0.01), (0.0, 0.5), (0.3, 0.31), (0.5, 0.999)] {
                let gamma = Gamma::new(value).unwrap();
                let evaluation = Evaluation { s, t, rule: Rule::Renoise { gamma, step: 0 } };
                let (landing, back) = (evaluation.landing(), evaluation.renoising().unwrap());
                assert!((t..=1.0).contains(&landing));
                assert!((sigma(landing) - gamma.complement() * sigma(t)).abs() < 1e-12 * sigma(t).max(1.0));
                assert!((back.kept - t / landing).abs() < 1e-12);
                let noise = t * (sigma(t).powi(2) - sigma(landing).powi(2)).sqrt();
                assert!((back.fresh - noise).abs() < 1e-12, "{value} {s} {t}");
            }
        }
    }
}
