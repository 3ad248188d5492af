//! `flowmap eval`: measures a flow map against its teacher.

use std::path::PathBuf;

use super::print;
use crate::error::Result;
use crate::eval::features::training;
use crate::eval::{Options, evaluate};

/// Measure a flow map against its teacher, and both against the data.
///
/// Prints a table as Markdown: the flow map in 1, 2, 4 and 8 steps, the teacher by Euler's and Heun's methods, and the
/// floors, which are the same measures on exact samples. All rows start from the same noise and classes.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  flowmap eval --model runs/checkerboard-lmd/checkpoint --teacher runs/checkerboard-teacher/checkpoint
  flowmap eval --model fashion-mnist --teacher runs/fashion-mnist-teacher/checkpoint --out runs/fashion-mnist-eval
  flowmap eval --model runs/fashion-mnist-teacher/checkpoint --samples 500
  flowmap eval --make-classifier models/fashion-mnist-features")]
pub struct Args {
    /// The model: a checkpoint's folder, or the name of an embedded model.
    #[arg(long, value_name = "DIR|NAME", required_unless_present = "make_classifier")]
    model: Option<String>,
    /// Its teacher, likewise; the model's own velocity by default.
    #[arg(long, value_name = "DIR|NAME")]
    teacher: Option<String>,
    /// Folder for report.json, report.md and samples.png; nothing is written without it.
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Samples of every row; 64000 points or 1000 images by default.
    #[arg(long, value_name = "N")]
    samples: Option<usize>,
    /// Folder of the data set's files, if not where training had them.
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
    /// Seed of the noise and of exact samples.
    #[arg(long, value_name = "N", default_value_t = 1)]
    seed: u64,
    /// Threads; all cores by default. They do not change a number.
    #[arg(long, value_name = "N")]
    threads: Option<usize>,
    /// Train the classifier of Fashion-MNIST again, whose features are compared, and write it into this folder.
    #[arg(long, value_name = "DIR", conflicts_with_all = ["model", "teacher", "out", "samples", "data", "seed", "threads"])]
    make_classifier: Option<PathBuf>,
}

/// Runs the command.
///
/// # Errors
/// Whatever cannot be read, compared or written.
pub fn main(args: &Args) -> Result<()> {
    if let Some(dir) = &args.make_classifier {
        let made = training::make(dir)?;
        let accuracy = 100.0 * made.accuracy;
        print(&format!("{}: BLAKE3 {}, accuracy {accuracy:.2} %\n", made.path.display(), made.blake3))?;
    }
    let Some(model) = &args.model else { return Ok(()) };
    let threads = match args.threads {
        Some(threads) => threads,
        None => std::thread::available_parallelism().map_or(1, std::num::NonZero::get),
    };
    let teacher = args.teacher.as_deref();
    let evaluated = evaluate(&Options {
        model,
        teacher,
        samples: args.samples,
        data: args.data.as_deref(),
        seed: args.seed,
        threads,
        timed: true,
    })?;
    print(&evaluated.report.markdown())?;
    if let Some(out) = &args.out {
        evaluated.write(out)?;
        eprintln!("report.json, report.md and samples.png are in {}", out.display());
    }
    Ok(())
}
