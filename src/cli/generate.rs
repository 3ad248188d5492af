//! `flowmap generate`: the command-line client of a server, or the same without one.
//!
//! One request is made for each number of steps, all from the same noise, so that the rows of the picture differ in
//! nothing else. Whether a server or this process makes the images is behind `Backend`.

pub(super) mod beginning;
pub(super) mod local;
pub(super) mod npy;
mod order;
pub(super) mod output;
mod remote;
mod row;
mod sheet;
mod wishes;

use std::path::PathBuf;

use indicatif::{ProgressBar, ProgressStyle};

use crate::domain::{ModelInfo, Receipt, Sampler, TimeGrid};
use crate::error::{Error, Result};
use beginning::{BeginningFlags, Given};
use local::Local;
use order::{Order, Times};
use output::Outputs;
use remote::Remote;
use row::Row;
use wishes::{ServerFlags, Wishes};

/// Where `flowmap serve` listens unless told otherwise.
const DEFAULT_SERVER: &str = "http://127.0.0.1:50051";
/// Steps where none are named.
const DEFAULT_STEPS: u32 = 4;

/// Generate images and save them as a picture, tensors or single files.
///
/// With several numbers of steps each becomes a row of the picture: the same images, with what they cost beside them.
/// Class names are those of `flowmap inspect`, in any case.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  flowmap generate --class Sneaker --count 16 --steps 4 --seed 7 --out sneakers.png
  flowmap generate --steps 1,2,4,8 --class all --out steps.png
  flowmap generate --server http://10.0.0.5:50051 --model fashion-mnist@1 --grid 0,0.3,1 --npy images.npy
  flowmap generate --steps 8 --min-steps 2 --deadline-ms 40 --previews --receipts images.json
  flowmap generate --continue images.json --steps 16 --out refined.png
  flowmap generate --image boot.png --strength 0.6 --class Sneaker --count 8 --steps 2,4,8
  flowmap generate --local --count 256 --safetensors images.safetensors --json")]
pub struct Args {
    /// The server's address.
    #[arg(long, value_name = "URL", default_value = DEFAULT_SERVER)]
    server: String,
    /// Generate in this process instead, with the embedded models.
    #[arg(long, conflicts_with_all = ["server", "deadline_ms", "request_id", "ServerFlags"])]
    local: bool,
    /// With --local: take the models of this folder.
    #[arg(long, value_name = "DIR", requires = "local")]
    models: Option<PathBuf>,
    /// The model; the server's default one if absent.
    #[arg(long, value_name = "NAME[@VERSION]", default_value = "", hide_default_value = true)]
    model: String,
    /// A class by name or number, or all, or none; repeat it for more. All classes if absent.
    #[arg(long = "class", value_name = "CLASS")]
    classes: Vec<String>,
    /// How many images for each number of steps; they take the classes in turn.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    count: Option<u32>,
    /// Steps of the uniform time grid; a list makes one row each.
    #[arg(long, value_name = "N,…", value_delimiter = ',', value_parser = clap::value_parser!(u32).range(1..))]
    steps: Vec<u32>,
    /// Times to visit instead of a uniform grid, from 0 (noise) to 1 (data).
    #[arg(long, value_name = "T,…", value_parser = order::time_grid, conflicts_with = "steps")]
    grid: Option<TimeGrid>,
    /// How the grid is walked: flow-map, euler, heun, gamma:G with 0 <= G <= 1, or consistency. What suits the model if
    /// absent.
    #[arg(long, value_name = "NAME")]
    sampler: Option<Sampler>,
    /// With --local: follow the velocity field by an adaptive method of fifth order within this tolerance, instead of a
    /// grid.
    #[arg(
        long,
        value_name = "TOLERANCE",
        value_parser = order::tolerance,
        requires = "local",
        conflicts_with_all = ["steps", "grid", "sampler"]
    )]
    ode: Option<f64>,
    /// Guidance scale. The model's own if absent.
    #[arg(long, value_name = "SCALE")]
    guidance: Option<f32>,
    /// Seed of the noise. Drawn and told if absent.
    #[arg(long, value_name = "N")]
    seed: Option<u64>,
    /// Give up a request after this many milliseconds.
    #[arg(long, value_name = "MS")]
    deadline_ms: Option<u32>,
    /// The request's name in the server's log; with several numbers of steps, theirs is appended.
    #[arg(long, value_name = "ID")]
    request_id: Option<String>,
    #[command(flatten)]
    beginning: BeginningFlags,
    #[command(flatten)]
    wishes: ServerFlags,
    #[command(flatten)]
    outputs: Outputs,
    /// Show how many images are done, and how long the rest will take.
    #[arg(long)]
    progress: bool,
    /// Print a machine-readable summary.
    #[arg(long)]
    json: bool,
}

impl Args {
    /// The rows of the picture.
    ///
    /// # Errors
    /// [`Error::Config`] where two rows would have the same name.
    fn times(&self) -> Result<Vec<Times>> {
        let start = self.beginning.time();
        if let Some(grid) = &self.grid {
            return match grid.times()[0] == start {
                true => Ok(vec![Times::Grid(grid.clone())]),
                false => Err(Error::Config(vec![format!("--grid: must begin at {start}, where the images do")])),
            };
        }
        if self.ode.is_some() {
            return Ok(vec![Times::Whole { start }]);
        }
        let steps = if self.steps.is_empty() { &[DEFAULT_STEPS] } else { self.steps.as_slice() };
        match (1..steps.len()).find(|&i| steps[..i].contains(&steps[i])) {
            Some(i) => Err(Error::Config(vec![format!("--steps: {} is there twice", steps[i])])),
            None => Ok(steps.iter().map(|&steps| Times::steps(start, steps)).collect()),
        }
    }

    fn backend(&self) -> Result<Box<dyn Backend>> {
        if self.local {
            return Ok(Box::new(Local::open(self.models.as_deref(), &self.model)?));
        }
        Ok(Box::new(Remote::connect(&self.server, self.wishes.tenant())?))
    }

    /// The model's name; that of the images to go on from where none is given.
    fn model<'a>(&'a self, wishes: &'a Wishes) -> &'a str {
        match wishes.continued.first() {
            Some(first) if self.model.is_empty() => &first.model,
            _ => &self.model,
        }
    }

    fn bar(&self, images: usize) -> ProgressBar {
        if !self.progress {
            return ProgressBar::hidden();
        }
        let style = ProgressStyle::with_template("{bar:30} {pos}/{len} images, {elapsed} passed, {eta} to go");
        let bar = ProgressBar::new(images as u64);
        // The template is a constant that the library understands; its own style is no worse than no bar.
        bar.with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()))
    }
}

/// What makes images.
trait Backend {
    /// The model that `name` names.
    fn model(&mut self, name: &str) -> Result<ModelInfo>;

    /// Makes the images of one row, from noise or from what is given; `bar` advances by one for each.
    fn row(&mut self, order: &Order, times: &Times, given: Option<&Given>, bar: &ProgressBar) -> Result<Row>;
}

/// Runs the command.
///
/// # Errors
/// What is wrong with the arguments, what the server refused, or a file that cannot be written.
pub fn main(args: &Args) -> Result<()> {
    let (times, wishes) = (args.times()?, args.wishes.read()?);
    let mut backend = args.backend()?;
    let model = backend.model(args.model(&wishes))?;
    args.outputs.check(&model)?;
    wishes.check(&model)?;
    let order = Order::new(args, wishes, args.beginning.read(&model)?, &model)?;
    let bar = args.bar(times.len() * order.labels.len());
    let rows = times.iter().map(|times| beginning::row(&mut *backend, &order, times, &bar)).collect::<Result<Vec<_>>>();
    bar.finish_and_clear();
    let rows = rows?;
    let mut files = args.outputs.write(&order, &rows)?;
    if let Some(path) = args.wishes.receipts() {
        let receipts: Vec<&Receipt> = rows.iter().flat_map(|row| &row.receipts).collect();
        super::receipts::write(path, &receipts)?;
        files.push(path.into());
    }
    super::print(&if args.json {
        format!("{:#}\n", row::json(&order, &rows, &files))
    } else {
        let written = files.iter().map(|file| format!("{} written\n", file.display()));
        row::table(&order, &rows) + &written.collect::<String>()
    })
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Debug, Parser)]
    struct Line {
        #[command(flatten)]
        args: Args,
    }

    fn parse(line: &str) -> Result<Args, clap::Error> {
        Line::try_parse_from(line.split(' ')).map(|line| line.args)
    }

    fn times(line: &str) -> Result<Vec<Times>> {
        parse(line).unwrap().times()
    }

    #[test]
    fn each_number_of_steps_is_a_row() {
        assert_eq!(times("generate").unwrap(), [Times::steps(0.0, DEFAULT_STEPS)]);
        assert_eq!(times("generate --steps 1,2 --steps 8").unwrap(), [1, 2, 8].map(|steps| Times::steps(0.0, steps)));
        assert_eq!(times("generate --grid 0,0.3,1").unwrap()[0].caption(), "0, 0.3, 1");
        assert_eq!(times("generate --image a.png --strength 0.75 --steps 2").unwrap(), [Times::steps(0.25, 2)]);
        assert_eq!(times("generate --image a.png --encode --steps 2").unwrap(), [Times::steps(0.0, 2)]);
        assert_eq!(times("generate --local --ode 1e-5").unwrap(), [Times::Whole { start: 0.0 }]);
        assert!(times("generate --grid 0.5,1").is_err());
        assert_eq!(times("generate --steps 4,2,4").unwrap_err().to_string(), "--steps: 4 is there twice");
    }

    #[test]
    fn arguments_that_contradict_each_other_or_mean_nothing_are_refused() {
        for line in [
            "generate --steps 0",
            "generate --steps 1,,2",
            "generate --steps 4 --grid 0,1",
            "generate --grid 1,1",
            "generate --count 0",
            "generate --sampler rk4",
            "generate --local --server http://a:1",
            "generate --local --deadline-ms 5",
            "generate --local --min-steps 2",
            "generate --local --receipts a.json",
            "generate --continue a.json --seed 1",
            "generate --continue a.json --class Bag",
            "generate --min-steps 0",
            "generate --priority urgent",
            "generate --preview-dir a",
            "generate --previews 0",
            "generate --models a",
            "generate --ode 1e-5",
            "generate --local --ode 0",
            "generate --local --ode 1e-5 --steps 4",
            "generate --strength 0.5",
            "generate --image a.png --strength 0",
            "generate --image a.png --strength 0.5 --encode",
            "generate --image a.png --continue a.json",
            "generate --encode",
            "generate --sampler gamma:2",
        ] {
            assert!(parse(line).is_err(), "{line}");
        }
        assert!(parse("generate --local --image a.png --interpolate b.png --sampler consistency").is_ok());
        assert!(parse("generate --local --models a --sampler flow-map --guidance 1.5").is_ok());
        assert!(parse("generate --previews --priority high --continue a.json --tenant me").is_ok());
        assert!(parse("generate --previews 1,2 --preview-dir a --steps 4").is_ok());
    }
}
