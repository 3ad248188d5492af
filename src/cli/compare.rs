//! `flowmap compare`: reports of `flowmap eval` side by side.

use std::path::PathBuf;

use super::print;
use crate::error::Result;
use crate::eval::compare::Comparison;

/// Put several reports of `flowmap eval` side by side: one table of methods and steps, one chart.
///
/// Prints the table as Markdown. Only measures that all reports have are compared; a teacher that several models have
/// in common is shown once; samples, seeds or versions that differ are told.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  flowmap compare runs/lmd-eval/report.json runs/psd-eval/report.json --out runs/compared
  flowmap compare runs/*-eval --out runs/compared")]
pub struct Args {
    /// The reports, or the folders that hold them; each is named by its folder.
    #[arg(value_name = "REPORT.JSON|DIR", required = true)]
    reports: Vec<PathBuf>,
    /// Folder for comparison.md and comparison.svg; nothing is written without it.
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
}

/// Runs the command.
///
/// # Errors
/// Whatever cannot be read, compared or written.
pub fn main(args: &Args) -> Result<()> {
    let compared = Comparison::read(&args.reports)?;
    print(&compared.markdown())?;
    if let Some(out) = &args.out {
        compared.write(out)?;
        eprintln!("comparison.md and comparison.svg are in {}", out.display());
    }
    Ok(())
}
