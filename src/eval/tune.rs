//! Time grids that suit a network better than uniform ones, by the measure that its data are judged by.
//!
//! A deterministic search in two parts, on the same noise throughout: first over the family
//! `tᵢ = 1 - (1 - (i/N)ᵃ)ᵇ`, whose two parameters crowd the times at either end and which is uniform at `a = b = 1`;
//! then time by time. What it finds counts only if it beats the uniform grid on another seed as well: a measure of few
//! samples has accidents that a search finds.

use std::collections::BTreeMap;
use std::path::Path;

use super::generate::Generator;
use super::protocol::{Protocol, Setup, choose};
use super::report::{Role, line};
use super::run::bar;
use super::subject::Subject;
use crate::domain::{Sampler, TimeGrid};
use crate::error::{Error, Result};
use crate::model::Workers;

/// Most steps of a grid that is searched for.
pub const MAX_STEPS: u32 = 64;
/// Samples of a judgement.
const IMAGES: usize = 500;
const POINTS: usize = 16_000;
/// First stride of the family's logarithmic parameters, and the least.
const STRIDE: f64 = 0.4;
const LEAST_STRIDE: f64 = 0.1;
/// Most judgements within the family.
const FAMILY_JUDGEMENTS: usize = 24;
/// Shares of the room on either side that single times are moved by, one round each.
const MOVES: [f64; 2] = [0.3, 0.12];
/// Decimals of a time: what is judged is what is written down.
const DECIMALS: f64 = 1e4;
/// Heun steps of a reference, where the measure needs one.
const REFERENCE_STEPS: u32 = 32;

/// What to tune.
#[derive(Debug, Clone, Copy)]
pub struct Options<'a> {
    /// Folder or embedded name of the model.
    pub model: &'a str,
    /// Numbers of steps, each from 2 on.
    pub steps: &'a [u32],
    /// Samples of a judgement; by default 16 000 points or 500 images.
    pub samples: Option<usize>,
    /// Folder of the data set's files, if not where training had them.
    pub data: Option<&'a Path>,
    /// Seed of the search; the check has the next one.
    pub seed: u64,
    /// Threads.
    pub threads: usize,
}

/// Grids, and what they are worth.
#[derive(Debug, Clone, PartialEq)]
pub struct Tuned {
    /// The measure; less is better.
    pub measure: &'static str,
    /// How grids are walked.
    pub sampler: Sampler,
    /// Samples of a judgement.
    pub samples: usize,
    /// By number of steps.
    pub rows: Vec<Row>,
}

/// The best grid that was found for a number of steps.
#[derive(Debug, Clone, PartialEq)]
pub struct Row {
    /// The grid.
    pub grid: TimeGrid,
    /// The measure of the uniform grid and of this one, as the search saw them.
    pub searched: [f64; 2],
    /// The same with another seed.
    pub checked: [f64; 2],
}

impl Row {
    /// Whether the grid is better on the other seed as well.
    pub fn holds(&self) -> bool {
        self.searched[1] < self.searched[0] && self.checked[1] < self.checked[0]
    }
}

impl Tuned {
    /// The grids that hold, by number of steps.
    pub fn grids(&self) -> BTreeMap<u32, Vec<f64>> {
        let holding = self.rows.iter().filter(|row| row.holds());
        holding.map(|row| (u32::try_from(row.grid.steps()).unwrap_or(u32::MAX), row.grid.times().to_vec())).collect()
    }

    /// A table of uniform grids beside tuned ones, as Markdown.
    pub fn markdown(&self) -> String {
        let Self { measure, sampler, samples, .. } = self;
        let mut text = format!("{measure} of {samples} samples by {sampler}; less is better.\n\n");
        line(&mut text, ["steps", "uniform", "tuned", "uniform, check", "tuned, check", "", "times"].iter());
        line(&mut text, ["---:", "---:", "---:", "---:", "---:", "---", "---"].iter());
        for row in &self.rows {
            let values = row.searched.iter().chain(&row.checked).map(|value| format!("{value:.4}"));
            let times: Vec<String> = row.grid.times().iter().map(ToString::to_string).collect();
            let verdict = if row.holds() { "better" } else { "no better" };
            let head = [row.grid.steps().to_string()].into_iter().chain(values);
            line(&mut text, head.chain([verdict.to_owned(), times.join(", ")]));
        }
        text
    }
}

/// Searches a grid for each number of steps.
///
/// # Errors
/// [`Error::Config`] for steps that leave nothing to choose or are too many; what [`evaluate`](super::evaluate) may
/// meet.
pub fn tune(options: &Options<'_>) -> Result<Tuned> {
    let wrong = options.steps.iter().filter(|steps| !(2..=MAX_STEPS).contains(*steps));
    let problems: Vec<String> =
        wrong.map(|steps| format!("--steps: {steps} is not between 2 and {MAX_STEPS}")).collect();
    if !problems.is_empty() {
        return Err(Error::Config(problems));
    }
    let model = Subject::load(options.model)?;
    let data = model.data(options.data)?;
    let workers = Workers::new(options.threads)?;
    let sampler = model.manifest.time_pairs.default_sampler();
    let samples = options.samples.unwrap_or(if model.manifest.data.shape.len() == 1 { POINTS } else { IMAGES });
    let judgements: usize = options.steps.iter().map(|&steps| (budget(steps) + 2) * steps as usize).sum();
    let bar = bar((judgements * samples) as u64 * u64::from(sampler.evaluations_per_step()), "evaluations");
    let seeds = [options.seed, options.seed.wrapping_add(1)];
    let [begun, other] = seeds.map(|seed| model.beginnings(seed));
    let judge = |beginnings, count| -> Result<_> {
        let setup = Setup::new(&model.manifest, &data, beginnings, count, &workers);
        let (protocol, samples) = choose(&setup)?;
        let generator = Generator { beginnings, workers: &workers, bar: bar.clone() };
        Judge::new(&model, sampler, protocol, generator, samples)
    };
    let (searching, checking) = (judge(&begun, Some(samples))?, judge(&other, Some(samples))?);
    let rows = options.steps.iter().map(|&steps| row(steps, &searching, &checking)).collect::<Result<_>>()?;
    bar.finish_and_clear();
    Ok(Tuned { measure: searching.measure(), sampler, samples, rows })
}

fn row(steps: u32, searching: &Judge<'_>, checking: &Judge<'_>) -> Result<Row> {
    let Found { uniform, grid, value } = search(steps, |grid| searching.judge(grid))?;
    let checked = [checking.judge(&TimeGrid::uniform(steps))?, checking.judge(&grid)?];
    Ok(Row { grid, searched: [uniform, value], checked })
}

/// What says how good a grid is.
struct Judge<'a> {
    model: &'a Subject,
    sampler: Sampler,
    protocol: Box<dyn Protocol + 'a>,
    generator: Generator<'a>,
    samples: usize,
    /// Empty where the measure needs none.
    reference: Vec<f32>,
}

impl<'a> Judge<'a> {
    fn new(
        model: &'a Subject,
        sampler: Sampler,
        protocol: Box<dyn Protocol + 'a>,
        generator: Generator<'a>,
        samples: usize,
    ) -> Result<Self> {
        let fine = TimeGrid::uniform(REFERENCE_STEPS);
        let reference = match protocol.judges_by_reference() {
            true => generator.along(model, Sampler::Heun, &fine, samples)?,
            false => Vec::new(),
        };
        Ok(Self { model, sampler, protocol, generator, samples, reference })
    }

    fn judge(&self, grid: &TimeGrid) -> Result<f64> {
        let samples = self.generator.along(self.model, self.sampler, grid, self.samples)?;
        self.protocol.judge(&samples, &self.reference)
    }

    fn measure(&self) -> &'static str {
        self.protocol.columns().iter().find(|column| column.role == Role::Measure).map_or("", |column| column.title)
    }
}

/// The outcome of a search.
#[derive(Debug, Clone, PartialEq)]
struct Found {
    /// The measure of the uniform grid.
    uniform: f64,
    /// The best grid, which may be the uniform one.
    grid: TimeGrid,
    /// Its measure.
    value: f64,
}

/// Most judgements of a search.
fn budget(steps: u32) -> usize {
    FAMILY_JUDGEMENTS + 2 * MOVES.len() * (steps as usize - 1)
}

/// Searches a grid of `steps` from 0 to 1 for the least of `judge`.
fn search(steps: u32, mut judge: impl FnMut(&TimeGrid) -> Result<f64>) -> Result<Found> {
    let grid = TimeGrid::uniform(steps);
    let uniform = judge(&grid)?;
    let mut best = Found { uniform, grid, value: uniform };
    family(steps, &mut best, &mut judge)?;
    for share in MOVES {
        for place in 1..steps as usize {
            for side in [-1.0, 1.0] {
                try_grid(moved(best.grid.times(), place, side * share), &mut best, &mut judge)?;
            }
        }
    }
    Ok(best)
}

/// A walk over the family's parameters: to the best neighbour, or to half the stride where there is none better.
fn family(steps: u32, best: &mut Found, judge: &mut impl FnMut(&TimeGrid) -> Result<f64>) -> Result<()> {
    // Of two steps a single time is free, which one parameter reaches.
    let directions: &[[f64; 2]] = &[[1.0, 0.0], [-1.0, 0.0], [0.0, 1.0], [0.0, -1.0]];
    let directions = if steps == 2 { &directions[..2] } else { directions };
    let (mut at, mut stride, mut judged) = ([0.0, 0.0], STRIDE, 1);
    while stride >= LEAST_STRIDE && judged + directions.len() <= FAMILY_JUDGEMENTS {
        let mut next = None;
        for direction in directions {
            let there = [0, 1].map(|i| at[i] + stride * direction[i]);
            judged += 1;
            if try_grid(warped(steps, there), best, judge)? {
                next = Some(there);
            }
        }
        match next {
            Some(there) => at = there,
            None => stride *= 0.5,
        }
    }
    Ok(())
}

/// `tᵢ = 1 - (1 - (i/N)ᵃ)ᵇ` for the logarithms of `a` and `b`.
fn warped(steps: u32, logarithms: [f64; 2]) -> Vec<f64> {
    let [a, b] = logarithms.map(f64::exp);
    (0..=steps).map(|i| 1.0 - (1.0 - (f64::from(i) / f64::from(steps)).powf(a)).powf(b)).collect()
}

/// One time moved by a share of the room on that side.
fn moved(times: &[f64], place: usize, share: f64) -> Vec<f64> {
    let mut times = times.to_vec();
    let room = if share > 0.0 { times[place + 1] - times[place] } else { times[place] - times[place - 1] };
    times[place] += share * room;
    times
}

/// Keeps a grid if it is better, and says whether it is. What rounding makes no grid is none.
fn try_grid(times: Vec<f64>, best: &mut Found, judge: &mut impl FnMut(&TimeGrid) -> Result<f64>) -> Result<bool> {
    let rounded = times.iter().map(|t| (t * DECIMALS).round() / DECIMALS).collect();
    let Ok(grid) = TimeGrid::new(rounded) else { return Ok(false) };
    let value = judge(&grid)?;
    let better = value < best.value;
    if better {
        (best.grid, best.value) = (grid, value);
    }
    Ok(better)
}

#[cfg(test)]
mod tests {
    use candle_core::{DType, Device, Tensor};

    use super::*;
    use crate::flow::GaussianFlow;
    use crate::flow::sampler::sample;

    const FLOW: GaussianFlow = GaussianFlow { noise: 1.0, mean: 0.0, data: 0.05 };

    /// Euler's error on a flow that bends near its end.
    fn error(grid: &TimeGrid) -> Result<f64> {
        let x = Tensor::new(&[[1.0f64]], &Device::Cpu)?;
        let labels = Tensor::zeros(1, DType::U32, &Device::Cpu)?;
        let end = sample(&FLOW, Sampler::Euler, grid, &x, &labels)?.flatten_all()?.to_vec1::<f64>()?[0];
        Ok((end - FLOW.jump_at(0.0, 1.0, 1.0)).abs())
    }

    #[test]
    fn a_better_grid_is_found_within_the_budget() {
        for steps in [2, 4, 8] {
            let mut judged = 0;
            let found = search(steps, |grid| {
                judged += 1;
                error(grid)
            })
            .unwrap();
            assert!(judged <= budget(steps), "{judged}");
            assert!(found.value < 0.6 * found.uniform, "{steps}: {found:?}");
            assert_eq!((error(&found.grid).unwrap(), found.grid.steps()), (found.value, steps as usize));
            assert_eq!((found.grid.times()[0], found.grid.times()[steps as usize]), (0.0, 1.0));
        }
    }

    #[test]
    fn where_nothing_is_better_the_grid_stays_uniform() {
        let found = search(4, |_| Ok(1.0)).unwrap();
        assert_eq!(found, Found { uniform: 1.0, grid: TimeGrid::uniform(4), value: 1.0 });
        assert!(search(4, |_| Err(Error::Cancelled)).is_err());
    }

    #[test]
    fn the_family_is_uniform_in_its_middle_and_crowds_the_ends() {
        assert_eq!(warped(4, [0.0, 0.0]), [0.0, 0.25, 0.5, 0.75, 1.0]);
        assert!(warped(4, [0.5, 0.0])[1] < 0.25 && warped(4, [0.0, 0.5])[3] > 0.75);
        assert_eq!(moved(&[0.0, 0.5, 1.0], 1, 0.5), [0.0, 0.75, 1.0]);
        assert_eq!(moved(&[0.0, 0.5, 1.0], 1, -0.5), [0.0, 0.25, 1.0]);
    }

    #[test]
    fn only_what_holds_on_another_seed_is_kept() {
        let row = |checked| Row { grid: TimeGrid::new(vec![0.0, 0.3, 1.0]).unwrap(), searched: [2.0, 1.0], checked };
        let rows = vec![row([2.0, 1.5]), row([2.0, 2.5])];
        let tuned = Tuned { measure: "KL", sampler: Sampler::FlowMap, samples: 7, rows };
        assert_eq!(tuned.grids(), BTreeMap::from([(2, vec![0.0, 0.3, 1.0])]));
        assert!(Tuned { rows: vec![row([2.0, 2.5])], ..tuned.clone() }.grids().is_empty());
        let text = tuned.markdown();
        assert!(text.contains("| 2 | 2.0000 | 1.0000 | 2.0000 | 1.5000 | better | 0, 0.3, 1 |"), "{text}");
        assert!(text.contains("no better"));
    }
}
