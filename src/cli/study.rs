//! `flowmap study`: trains and measures several methods at stated budgets.

use std::path::PathBuf;

use super::print;
use super::train::{stop_on_signals, threads_or_all};
use crate::error::Result;
use crate::eval::compare::Comparison;
use crate::study::{Progress, Study};

/// Train several methods on the same data, measure them, and put them side by side.
///
/// Every method gets a folder in --out: its recipe, its checkpoint, its log and its evaluation. The same command goes on
/// where it was stopped.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  flowmap study --study recipes/studies/checkerboard.toml --out runs/checkerboard
  flowmap study --study recipes/studies/fashion-mnist.toml --out runs/fashion-mnist --threads 8")]
pub struct Args {
    /// The study, a TOML file.
    #[arg(long, value_name = "FILE")]
    study: PathBuf,
    /// Folder for everything that it makes.
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// Threads; all cores by default.
    #[arg(long, value_name = "N")]
    threads: Option<usize>,
}

/// Runs the command.
///
/// # Errors
/// Whatever is wrong with the study, or stopped one of its runs.
pub fn main(args: &Args) -> Result<()> {
    let stop = stop_on_signals()?;
    match Study::read(&args.study)?.run(&args.out, threads_or_all(args.threads), &stop)? {
        Progress::Finished(reports) => {
            let compared = Comparison::read(&reports)?;
            print(&compared.markdown())?;
            compared.write(&args.out)?;
            eprintln!("comparison.md and comparison.svg are in {}", args.out.display());
        }
        Progress::Stopped => println!("stopped; the same command goes on"),
    }
    Ok(())
}
