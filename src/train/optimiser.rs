//! Optimisers: RAdam and AdamW on plain slices.

use serde::{Deserialize, Serialize};

/// Which optimiser, and its numbers.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum OptimiserKind {
    /// Rectified Adam (Liu et al., arXiv 1908.03265): no warm-up needed.
    Radam(Moments),
    /// Adam with decoupled weight decay (Loshchilov, Hutter, arXiv 1711.05101).
    Adamw(Moments),
}

/// Numbers that both optimisers take.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Moments {
    /// Peak learning rate.
    pub learning_rate: f64,
    /// Decays of the two moments.
    #[serde(default = "default_betas")]
    pub betas: [f64; 2],
    /// Added to the root of the second moment.
    #[serde(default = "default_eps")]
    pub eps: f64,
    /// Decoupled weight decay, times the learning rate.
    #[serde(default)]
    pub weight_decay: f64,
}

impl OptimiserKind {
    fn moments(&self) -> &Moments {
        match self {
            Self::Radam(moments) | Self::Adamw(moments) => moments,
        }
    }

    /// The learning rate at the schedule's factor 1.
    pub fn peak_learning_rate(&self) -> f64 {
        self.moments().learning_rate
    }

    pub(super) fn problems(&self) -> Option<String> {
        let Moments { learning_rate, betas, eps, weight_decay } = *self.moments();
        let sound = learning_rate > 0.0 && eps > 0.0 && weight_decay >= 0.0;
        let sound = sound && betas.iter().all(|b| (0.0..1.0).contains(b));
        (!sound).then(|| "optimiser: needs learning_rate > 0, eps > 0, weight_decay >= 0, betas in [0, 1)".into())
    }

    /// How the update at step `k` (from 1) is made of the moments.
    fn rule(&self, k: u64) -> Rule {
        let [beta1, beta2] = self.moments().betas;
        let power = |beta: f64| beta.powf(k as f64);
        let (correct1, correct2) = ((1.0 - power(beta1)).recip(), (1.0 - power(beta2)).recip());
        let rectified = match self {
            Self::Adamw(_) => Some(1.0),
            Self::Radam(_) => rectification(k, beta2),
        };
        Rule { correct1, correct2, rectified }
    }
}

/// Bias corrections of one step, and the factor of the normalised update; `None`: the update is plain momentum.
struct Rule {
    correct1: f64,
    correct2: f64,
    rectified: Option<f64>,
}

/// The variance rectification `r_k` of RAdam, once there is enough history (`ρ_k ≥ 5`, as in optax).
fn rectification(k: u64, beta2: f64) -> Option<f64> {
    let power = beta2.powf(k as f64);
    let limit = 2.0 / (1.0 - beta2) - 1.0;
    let rho = limit - 2.0 * k as f64 * power / (1.0 - power);
    let ratio = (rho - 4.0) * (rho - 2.0) * limit / ((limit - 4.0) * (limit - 2.0) * rho);
    (rho >= 5.0).then(|| ratio.sqrt())
}

/// An optimiser with its moments, one pair for each weight.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Optimiser {
    /// Which one.
    pub kind: OptimiserKind,
    /// Steps taken.
    pub steps: u64,
    /// First moments, tensor by tensor.
    pub first: Vec<Vec<f32>>,
    /// Second moments, tensor by tensor.
    pub second: Vec<Vec<f32>>,
}

impl Optimiser {
    /// An optimiser for tensors of these sizes.
    pub(super) fn new(kind: OptimiserKind, sizes: &[usize]) -> Self {
        let zeros: Vec<Vec<f32>> = sizes.iter().map(|&n| vec![0.0; n]).collect();
        Self { kind, steps: 0, first: zeros.clone(), second: zeros }
    }

    /// Begins the next step, at `factor` of the peak learning rate: what becomes of a tensor, and each one's moments.
    pub(super) fn advance(&mut self, factor: f64) -> (Update, impl Iterator<Item = [&mut [f32]; 2]> + Send) {
        self.steps += 1;
        let rule = self.kind.rule(self.steps);
        let update = Update::new(self.kind.moments(), &rule, factor);
        let moments = self.first.iter_mut().zip(&mut self.second);
        (update, moments.map(|(first, second)| [first.as_mut_slice(), second.as_mut_slice()]))
    }
}

/// One step's update with every constant folded.
#[derive(Clone, Copy)]
pub(super) struct Update {
    beta1: f32,
    beta2: f32,
    keep: f32,
    rate: f32,
    /// Factor on the second moment under the root; `None` where the update is not normalised.
    correct2: Option<f32>,
    eps: f32,
}

impl Update {
    #[expect(clippy::cast_possible_truncation, reason = "constants are folded in f64 and applied in f32")]
    fn new(moments: &Moments, rule: &Rule, factor: f64) -> Self {
        let rate = moments.learning_rate * factor;
        Self {
            beta1: moments.betas[0] as f32,
            beta2: moments.betas[1] as f32,
            keep: (1.0 - rate * moments.weight_decay) as f32,
            rate: (rate * rule.correct1 * rule.rectified.unwrap_or(1.0)) as f32,
            correct2: rule.rectified.map(|_| rule.correct2 as f32),
            eps: moments.eps as f32,
        }
    }

    /// Moves weights against their gradients.
    pub(super) fn apply(self, weights: &mut [f32], gradients: &[f32], [first, second]: [&mut [f32]; 2]) {
        let moments = first.iter_mut().zip(second);
        for ((w, g), (m, v)) in weights.iter_mut().zip(gradients).zip(moments) {
            *m = self.beta1 * *m + (1.0 - self.beta1) * g;
            *v = self.beta2 * *v + (1.0 - self.beta2) * g * g;
            let scale = self.correct2.map_or(1.0, |c| ((c * *v).sqrt() + self.eps).recip());
            *w = self.keep * *w - self.rate * *m * scale;
        }
    }
}

fn default_betas() -> [f64; 2] {
    [0.9, 0.999]
}

fn default_eps() -> f64 {
    1e-8
}

#[cfg(test)]
mod tests {
    use super::*;

    fn moments(weight_decay: f64) -> Moments {
        Moments { learning_rate: 0.1, betas: default_betas(), eps: 1e-8, weight_decay }
    }

    fn step(optimiser: &mut Optimiser, factor: f64, weights: &mut [Vec<f32>], gradients: &[Vec<f32>]) {
        let (update, moments) = optimiser.advance(factor);
        for ((weights, gradients), moments) in weights.iter_mut().zip(gradients).zip(moments) {
            update.apply(weights, gradients, moments);
        }
    }

    fn run(kind: OptimiserKind, gradients: &[f32]) -> f32 {
        let mut optimiser = Optimiser::new(kind, &[1]);
        let mut weights = vec![vec![1.0]];
        gradients.iter().for_each(|&g| step(&mut optimiser, 1.0, &mut weights, &[vec![g]]));
        weights[0][0]
    }

    /// Adam's first step is the learning rate against the gradient's sign, whatever its size; decay is decoupled.
    #[test]
    fn adamw_takes_the_step_of_its_definition() {
        for g in [1e-3, 1.0, 50.0] {
            assert!((run(OptimiserKind::Adamw(moments(0.0)), &[g]) - 0.9).abs() < 1e-5);
        }
        assert!((run(OptimiserKind::Adamw(moments(0.5)), &[1.0]) - 0.85).abs() < 1e-6);
    }

    /// With `β₂ = 0.999` the first five steps are bias-corrected momentum, not normalised; the sixth is rectified.
    #[test]
    fn radam_is_momentum_until_it_knows_the_variance() {
        let kind = OptimiserKind::Radam(moments(0.0));
        assert!((run(kind, &[0.5; 5]) - (1.0 - 5.0 * 0.1 * 0.5)).abs() < 1e-5);
        let power = 0.999f64.powi(6);
        let rho = 1999.0 - 12.0 * power / (1.0 - power);
        let r = ((rho - 4.0) * (rho - 2.0) * 1999.0 / (1995.0 * 1997.0 * rho)).sqrt();
        let step = f64::from(run(kind, &[0.5; 5]) - run(kind, &[0.5; 6]));
        assert!((step - 0.1 * r).abs() < 1e-5, "{step} {r}");
    }

    #[test]
    fn both_find_the_bottom_of_a_parabola() {
        for kind in [OptimiserKind::Radam(moments(0.0)), OptimiserKind::Adamw(moments(0.0))] {
            let mut optimiser = Optimiser::new(kind, &[2]);
            let mut weights = vec![vec![4.0, -3.0]];
            for index in 0..2000 {
                let gradient = vec![vec![weights[0][0] - 1.0, 10.0 * (weights[0][1] - 2.0)]];
                step(&mut optimiser, 1.0 - f64::from(index) / 2000.0, &mut weights, &gradient);
            }
            assert!((weights[0][0] - 1.0).abs() < 1e-3 && (weights[0][1] - 2.0).abs() < 1e-3, "{weights:?}");
        }
    }
}
