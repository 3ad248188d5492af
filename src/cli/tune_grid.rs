//! `flowmap tune-grid`: finds time grids that suit a model better than uniform ones.

use std::path::PathBuf;

use super::eval::checkpoint_folder;
use super::print;
use super::train::threads_or_all;
use crate::checkpoint::store;
use crate::error::Result;
use crate::eval::tune::{Options, tune};

/// Find time grids that suit a model better than uniform ones.
///
/// Searches a grid for each number of steps by the measure that the data are judged by, and checks it with another
/// seed. Prints uniform and tuned grids side by side. A grid is used by sending it: `flowmap generate --grid`, or
/// `time_grid` in a request.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  flowmap tune-grid --model checkerboard --steps 2,4
  flowmap tune-grid --model runs/fashion-mnist-lmd/checkpoint --steps 2,4,8 --record
  flowmap tune-grid --model fashion-mnist --steps 4 --samples 1000 --seed 3")]
pub struct Args {
    /// The model: a checkpoint's folder, or the name of an embedded model.
    #[arg(long, value_name = "DIR|NAME")]
    model: String,
    /// Numbers of steps, each at least 2.
    #[arg(long, value_name = "LIST", value_delimiter = ',', default_value = "2,4,8")]
    steps: Vec<u32>,
    /// Samples of every judgement; 16000 points or 500 images by default.
    #[arg(long, value_name = "N")]
    samples: Option<usize>,
    /// Folder of the data set's files, if not where training had them.
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
    /// Seed of the search; the check uses the next one.
    #[arg(long, value_name = "N", default_value_t = 1)]
    seed: u64,
    /// Threads; all cores by default. They do not change a number.
    #[arg(long, value_name = "N")]
    threads: Option<usize>,
    /// Write the grids that hold into the checkpoint's config.json, in the place of those of as many steps; --model
    /// is a folder then. The weights stay as they are.
    #[arg(long)]
    record: bool,
}

/// Runs the command.
///
/// # Errors
/// Whatever cannot be read, compared or written.
pub fn main(args: &Args) -> Result<()> {
    let folder = args.record.then(|| checkpoint_folder(&args.model)).transpose()?;
    let tuned = tune(&Options {
        model: &args.model,
        steps: &args.steps,
        samples: args.samples,
        data: args.data.as_deref(),
        seed: args.seed,
        threads: threads_or_all(args.threads),
    })?;
    print(&tuned.markdown())?;
    if let Some(folder) = folder {
        let grids = tuned.grids();
        let (count, path) = (grids.len(), folder.join(store::CONFIG_FILE));
        if count > 0 {
            store::annotate(folder, |manifest| manifest.grids.extend(grids))?;
        }
        eprintln!("{count} of {} grids hold and are in {}", tuned.rows.len(), path.display());
    }
    Ok(())
}
