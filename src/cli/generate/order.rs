//! What is asked for: arguments → labels, time grids, and everything that the rows have in common.

use std::collections::hash_map::RandomState;
use std::hash::BuildHasher;

use super::Args;
use super::beginning::Beginning;
use super::wishes::Wishes;
use crate::domain::{ModelInfo, Sampler, TimeGrid};
use crate::error::{Error, Result};

/// Images where no number is named and not each class gets one.
const DEFAULT_IMAGES: usize = 8;
/// Points where no number is named: what a server makes at a time unless its operator decided otherwise.
const DEFAULT_POINTS: usize = 1024;

/// What the rows have in common.
#[derive(Debug, Clone)]
pub(super) struct Order {
    /// The model as the backend described it: every row is made by this version.
    pub(super) model: ModelInfo,
    /// One label per image; `None` is the null class.
    pub(super) labels: Vec<Option<u32>>,
    /// The classes that the labels take in turn.
    pub(super) turn: usize,
    /// Seed of the noise.
    pub(super) seed: u64,
    /// Guidance scale, if one was named.
    pub(super) guidance: Option<f32>,
    /// Sampler, if one was named.
    pub(super) sampler: Option<Sampler>,
    /// Tolerance of the adaptive method, if it is used.
    pub(super) ode: Option<f64>,
    /// Where images begin.
    pub(super) beginning: Beginning,
    /// Milliseconds that a request may take, if a limit was named.
    pub(super) deadline_ms: Option<u32>,
    /// The name of the requests, if one was given.
    pub(super) request_id: Option<String>,
    /// What only a server can be asked for.
    pub(super) wishes: Wishes,
}

impl Order {
    /// Reads the arguments against the model that they are for.
    ///
    /// # Errors
    /// [`Error::Config`] with every class that the model does not have.
    pub(super) fn new(args: &Args, wishes: Wishes, beginning: Beginning, model: &ModelInfo) -> Result<Self> {
        let (turn, images) = match wishes.continued.as_slice() {
            [] => {
                let turn = classes(&args.classes, &model.classes)?;
                let images = args.count.map_or_else(|| default_count(model, turn.len()), |count| count as usize);
                (turn, images)
            }
            receipts => (receipts.iter().map(|receipt| receipt.label).collect(), receipts.len()),
        };
        let continued_seed = wishes.continued.first().map(|receipt| receipt.seed);
        Ok(Self {
            model: model.clone(),
            labels: turn.iter().copied().cycle().take(images).collect(),
            turn: turn.len(),
            seed: args.seed.or(continued_seed).unwrap_or_else(draw_seed),
            guidance: args.guidance,
            sampler: args.sampler,
            ode: args.ode,
            beginning,
            deadline_ms: args.deadline_ms,
            request_id: args.request_id.clone(),
            wishes,
        })
    }

    /// The name of the request for a row.
    pub(super) fn request_id(&self, times: &Times) -> String {
        match (&self.request_id, times) {
            (None, _) => String::new(),
            (Some(id), Times::Grid(_) | Times::Whole { .. }) => id.clone(),
            (Some(id), Times::Steps { steps, .. }) => format!("{id}-{steps}"),
        }
    }

    /// A label's class, for people.
    pub(super) fn class(&self, label: Option<u32>) -> &str {
        label.and_then(|label| self.model.classes.get(label as usize)).map_or("no class", String::as_str)
    }
}

/// The server would draw one as well, but another one for each row. Short enough to be typed, and to be a number in
/// any reader of JSON.
fn draw_seed() -> u64 {
    RandomState::new().hash_one("seed") >> 32
}

fn default_count(model: &ModelInfo, classes: usize) -> usize {
    match (model.shape.len(), classes) {
        (1, _) => DEFAULT_POINTS,
        (_, 1) => DEFAULT_IMAGES,
        (_, several) => several,
    }
}

/// The labels that `--class` arguments name; without any all classes, or the null class of a model without.
///
/// # Errors
/// [`Error::Config`] with every argument that names none.
fn classes(asked: &[String], names: &[String]) -> Result<Vec<Option<u32>>> {
    let all = || (0..).zip(names).map(|(label, _)| Some(label));
    if asked.is_empty() {
        return Ok(if names.is_empty() { vec![None] } else { all().collect() });
    }
    let (mut labels, mut problems) = (Vec::new(), Vec::new());
    for class in asked {
        match class.as_str() {
            "all" if !names.is_empty() => labels.extend(all()),
            "none" => labels.push(None),
            class => match label(class, names) {
                Ok(label) => labels.push(Some(label)),
                Err(problem) => problems.push(problem),
            },
        }
    }
    if problems.is_empty() { Ok(labels) } else { Err(Error::Config(problems)) }
}

/// A class by name in any case, or by number; a name that looks like a number goes first.
fn label(class: &str, names: &[String]) -> Result<u32, String> {
    let named = names.iter().position(|name| name.to_lowercase() == class.to_lowercase());
    let numbered = || class.parse::<usize>().ok().filter(|&number| number < names.len());
    let label = named.or_else(numbered).and_then(|label| u32::try_from(label).ok());
    label.ok_or_else(|| match names {
        [] => format!("--class {class}: the model has no classes; leave it out"),
        names => {
            let list: Vec<String> = names.iter().enumerate().map(|(i, name)| format!("{i} {name}")).collect();
            format!("--class {class}: there is no such class; one of: {}, all, none", list.join(", "))
        }
    })
}

/// How a row gets from noise to data.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Times {
    /// Equal steps to data.
    Steps {
        /// Where images begin.
        start: f64,
        /// How many.
        steps: u32,
    },
    /// Exactly these times.
    Grid(TimeGrid),
    /// As the adaptive method finds them.
    Whole {
        /// Where images begin.
        start: f64,
    },
}

impl Times {
    /// `steps` equal steps from `start` to data.
    pub(super) fn steps(start: f64, steps: u32) -> Self {
        Self::Steps { start, steps }
    }

    /// The same times the other way round.
    pub(super) fn backward(&self) -> Self {
        Self::Grid(self.grid().reversed())
    }

    /// The times as a grid.
    pub(super) fn grid(&self) -> TimeGrid {
        match self {
            Self::Steps { start, steps } => TimeGrid::uniform_from(*start, *steps),
            Self::Grid(grid) => grid.clone(),
            Self::Whole { start } => TimeGrid::uniform_from(*start, 1),
        }
    }

    /// For people: `4 steps`, or the times.
    pub(super) fn caption(&self) -> String {
        match self {
            Self::Steps { steps: 1, .. } => "1 step".into(),
            Self::Steps { steps, .. } => format!("{steps} steps"),
            Self::Whole { .. } => "adaptive".into(),
            Self::Grid(grid) => {
                let times: Vec<String> = grid.times().iter().map(f64::to_string).collect();
                times.join(", ")
            }
        }
    }

    /// For files: `steps_4` or `grid`.
    pub(super) fn name(&self) -> String {
        match self {
            Self::Steps { steps, .. } => format!("steps_{steps}"),
            Self::Grid(_) => "grid".into(),
            Self::Whole { .. } => "adaptive".into(),
        }
    }
}

/// Reads a tolerance: below 1, and above what doubles can tell apart.
pub(super) fn tolerance(text: &str) -> Result<f64, String> {
    let tolerance: f64 = text.parse().map_err(|_| format!("'{text}' is not a number"))?;
    if (1e-12..1.0).contains(&tolerance) { Ok(tolerance) } else { Err("must be 1e-12 or more and below 1".into()) }
}

/// Reads `0,0.3,1`.
pub(super) fn time_grid(text: &str) -> Result<TimeGrid, String> {
    let time = |t: &str| t.trim().parse::<f64>().map_err(|_| format!("'{t}' is not a number"));
    TimeGrid::new(text.split(',').map(time).collect::<Result<_, _>>()?)
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::domain::{Guidance, ModelId, TimePairs};

    /// A model of 1 × 2 × 2 images with three classes.
    pub(in super::super) fn model() -> ModelInfo {
        ModelInfo {
            id: ModelId { name: "tiny".into(), version: 1 },
            description: "Nothing".into(),
            architecture: "dit".into(),
            parameters: 1,
            shape: vec![1, 2, 2],
            value_range: [-1.0, 1.0],
            noise_scale: 1.0,
            classes: ["Boot", "Bag", "7"].map(String::from).to_vec(),
            guidance: Guidance::None,
            time_pairs: TimePairs::Triangle,
            objective: "lmd".into(),
            content_hash: "00".into(),
            quality: None,
            grids: vec![],
        }
    }

    /// An order of images with `labels`, which take `turn` classes in turn.
    pub(in super::super) fn order(labels: &[Option<u32>], turn: usize) -> Order {
        Order {
            model: model(),
            labels: labels.to_vec(),
            turn,
            seed: 7,
            guidance: None,
            sampler: None,
            ode: None,
            beginning: Beginning::Noise,
            deadline_ms: None,
            request_id: None,
            wishes: Wishes::default(),
        }
    }

    fn labels(asked: &[&str]) -> Result<Vec<Option<u32>>> {
        let asked: Vec<String> = asked.iter().map(ToString::to_string).collect();
        classes(&asked, &model().classes)
    }

    #[test]
    fn classes_are_found_by_name_and_number() {
        assert_eq!(labels(&["boot", "BAG", "1"]).unwrap(), [Some(0), Some(1), Some(1)]);
        assert_eq!(labels(&["7"]).unwrap(), [Some(2)], "a name goes before a number");
        assert_eq!(labels(&["all", "none"]).unwrap(), [Some(0), Some(1), Some(2), None]);
        assert_eq!(labels(&[]).unwrap(), [Some(0), Some(1), Some(2)]);
        assert_eq!(classes(&[], &[]).unwrap(), [None]);
    }

    #[test]
    fn every_unknown_class_is_told_with_those_that_are_there() {
        let error = labels(&["shoe", "bag", "3"]).unwrap_err().to_string();
        let list = "there is no such class; one of: 0 Boot, 1 Bag, 2 7, all, none";
        assert_eq!(error, format!("--class shoe: {list}\n--class 3: {list}"));
        for class in ["all", "0"] {
            assert!(classes(&[class.into()], &[]).unwrap_err().to_string().contains("has no classes"));
        }
    }

    #[test]
    fn grids_are_lists_of_times() {
        assert_eq!(time_grid("0, 0.3,1").unwrap().times(), [0.0, 0.3, 1.0]);
        for bad in ["", "0", "0,a,1", "0,1,0.5", "0,2"] {
            assert!(time_grid(bad).is_err(), "{bad}");
        }
        let grid = Times::Grid(time_grid("0,0.3,1").unwrap());
        assert_eq!((grid.caption().as_str(), grid.name().as_str()), ("0, 0.3, 1", "grid"));
        let steps = Times::steps(0.0, 4);
        assert_eq!((steps.caption().as_str(), steps.name().as_str()), ("4 steps", "steps_4"));
        assert_eq!(steps.grid().steps(), 4);
    }

    #[test]
    fn requests_of_one_order_have_names_of_their_own() {
        let named = Order { request_id: Some("mine".into()), ..order(&[None], 1) };
        assert_eq!(named.request_id(&Times::steps(0.0, 8)), "mine-8");
        assert_eq!(order(&[None], 1).request_id(&Times::steps(0.0, 8)), "");
    }

    #[test]
    fn without_a_number_each_class_gets_an_image() {
        assert_eq!((default_count(&model(), 3), default_count(&model(), 1)), (3, DEFAULT_IMAGES));
        assert_eq!(default_count(&ModelInfo { shape: vec![2], ..model() }, 1), DEFAULT_POINTS);
    }
}
