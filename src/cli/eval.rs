//! `flowmap eval`: measures a flow map against its teacher.

use std::path::{Path, PathBuf};

use super::print;
use super::train::threads_or_all;
use crate::checkpoint::store;
use crate::error::{Error, Result};
use crate::eval::features::training;
use crate::eval::{Options, evaluate};

/// Measure a flow map against its teacher, and both against the data.
///
/// Prints a table as Markdown: the flow map in 1, 2, 4, 8 and 16 steps, the teacher by Euler's and Heun's methods, and
/// the floors, which are the same measures on exact samples. All rows start from the same noise and classes. Then: how
/// far the model is from the identities of a flow map, and whether its images are copies of training images.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  flowmap eval --model runs/checkerboard-lmd/checkpoint --teacher runs/checkerboard-teacher/checkpoint
  flowmap eval --model fashion-mnist --teacher runs/fashion-mnist-teacher/checkpoint --out runs/fashion-mnist-eval
  flowmap eval --model runs/fashion-mnist-teacher/checkpoint --samples 500
  flowmap eval --model models/fashion-mnist/1 --teacher models/fashion-mnist-teacher/1 --samples 500 --record
  flowmap eval --make-classifier models/fashion-mnist-features")]
pub struct Args {
    /// The model: a checkpoint's folder, or the name of an embedded model.
    #[arg(long, value_name = "DIR|NAME", required_unless_present = "make_classifier")]
    model: Option<String>,
    /// Its teacher, likewise; the model's own velocity by default.
    #[arg(long, value_name = "DIR|NAME")]
    teacher: Option<String>,
    /// Folder for report.json, report.md and pictures; nothing is written without it.
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
    /// Write the measure of the model's rows into its config.json, where GetModel and `flowmap inspect` find it; --model
    /// is a folder then. The weights stay as they are.
    #[arg(long)]
    record: bool,
    /// Train the classifier of Fashion-MNIST again, whose features are compared, and write it into this folder.
    #[arg(long, value_name = "DIR", conflicts_with_all = ["model", "teacher", "out", "samples", "data", "seed", "threads", "record"])]
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
    let folder = args.record.then(|| checkpoint_folder(model)).transpose()?;
    let teacher = args.teacher.as_deref();
    let evaluated = evaluate(&Options {
        reached: None,
        baselines: true,
        model,
        teacher,
        samples: args.samples,
        data: args.data.as_deref(),
        seed: args.seed,
        threads: threads_or_all(args.threads),
        timed: true,
    })?;
    print(&evaluated.report.markdown())?;
    if let Some(out) = &args.out {
        evaluated.write(out)?;
        eprintln!("report.json, report.md and pictures are in {}", out.display());
    }
    if let (Some(folder), Some(quality)) = (folder, evaluated.report.quality()) {
        store::annotate(folder, |manifest| manifest.quality = Some(quality))?;
        eprintln!("the quality is in {}", folder.join(store::CONFIG_FILE).display());
    }
    Ok(())
}

/// The folder of a checkpoint that is to be written to.
///
/// # Errors
/// [`Error::Config`] where the model is embedded in the program.
pub(super) fn checkpoint_folder(model: &str) -> Result<&Path> {
    let folder = Path::new(model);
    if folder.is_dir() {
        return Ok(folder);
    }
    let problem =
        format!("--record: {model} is not the folder of a checkpoint; an embedded model cannot be written to");
    Err(Error::Config(vec![problem]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_folder_can_be_written_to() {
        let root = tempfile::tempdir().unwrap();
        assert_eq!(checkpoint_folder(root.path().to_str().unwrap()).unwrap(), root.path());
        assert!(matches!(checkpoint_folder("checkerboard"), Err(Error::Config(_))));
    }
}
