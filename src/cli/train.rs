//! `flowmap train`: makes a checkpoint from a recipe.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use crate::error::{Error, Result};
use crate::train::{Outcome, Run, run};

/// Train a velocity field, or distil one into a flow map.
///
/// The recipe decides everything that shapes the result. Ctrl-C stops after the current step and leaves a state to
/// resume from; press it again to stop at once.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  flowmap train --recipe recipes/checkerboard-teacher.toml --out runs/checkerboard-teacher
  flowmap train --recipe recipes/checkerboard-lmd.toml --out runs/checkerboard-lmd
  flowmap train --recipe recipes/checkerboard-lmd.toml --out runs/checkerboard-lmd --resume")]
pub struct Args {
    /// The recipe, a TOML file.
    #[arg(long, value_name = "FILE")]
    recipe: PathBuf,
    /// Folder for the checkpoint, the state to resume from, the log and the pictures.
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// Go on from the state in --out.
    #[arg(long)]
    resume: bool,
    /// Threads; all cores by default.
    #[arg(long, value_name = "N")]
    threads: Option<usize>,
}

/// Runs the command.
///
/// # Errors
/// Whatever stopped the training; the last saved state is intact.
pub fn main(args: &Args) -> Result<()> {
    let (stop, threads) = (stop_on_signals()?, threads_or_all(args.threads));
    let Args { recipe, out, resume, .. } = args;
    match run(&Run { recipe, out, resume: *resume, threads }, &stop)? {
        Outcome::Finished(folder) => println!("checkpoint written to {}", folder.display()),
        Outcome::Stopped(step) => {
            println!("stopped at step {step}; add --resume to the same command to go on");
        }
    }
    Ok(())
}

/// A flag that the first SIGINT or SIGTERM sets; the second ends the process.
///
/// # Errors
/// [`Error::Unavailable`] where signals cannot be handled.
pub(super) fn stop_on_signals() -> Result<Arc<AtomicBool>> {
    let stop = Arc::new(AtomicBool::new(false));
    for signal in [signal_hook::consts::SIGINT, signal_hook::consts::SIGTERM] {
        // In this order: the first signal finds the flag unset and sets it, the second finds it set and ends the process.
        let armed = signal_hook::flag::register_conditional_shutdown(signal, 130, Arc::clone(&stop))
            .and_then(|_| signal_hook::flag::register(signal, Arc::clone(&stop)));
        armed.map_err(|e| Error::Unavailable(format!("cannot handle signals: {e}")))?;
    }
    Ok(stop)
}

/// As many threads as asked for, or as there are cores.
pub(super) fn threads_or_all(threads: Option<usize>) -> usize {
    threads.unwrap_or_else(|| std::thread::available_parallelism().map_or(1, std::num::NonZero::get))
}
