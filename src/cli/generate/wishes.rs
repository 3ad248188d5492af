//! What only a server can be asked for: fewer steps under pressure, previews, receipts and going on from them.

use std::path::{Path, PathBuf};
use std::str::FromStr;

use crate::cli::receipts;
use crate::domain::{ModelInfo, Priority, Receipt};
use crate::error::{Error, Result};

/// The flags.
#[derive(Debug, Default, clap::Args)]
pub(super) struct ServerFlags {
    /// The fewest steps that will do where the deadline or an overload does not allow all. All if absent.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    min_steps: Option<u32>,
    /// low, normal or high: the share of the device beside other requests. Normal if absent.
    #[arg(long, value_name = "NAME")]
    priority: Option<Priority>,
    /// Tell when unfinished images could be shown: after each evaluation, or after these.
    #[arg(long, value_name = "N,…", num_args = 0..=1, default_missing_value = "")]
    previews: Option<Evaluations>,
    /// Save the previews as PNG files in this folder.
    #[arg(long, value_name = "DIR", requires = "previews")]
    preview_dir: Option<PathBuf>,
    /// Save what it takes to make each image again, or to go on from it, as a JSON list.
    #[arg(long, value_name = "FILE")]
    receipts: Option<PathBuf>,
    /// Go on from the images of these receipts to more steps: they keep the times that they have walked.
    #[arg(
        long = "continue",
        value_name = "FILE",
        conflicts_with_all = ["classes", "count", "guidance", "seed", "sampler"]
    )]
    continue_from: Option<PathBuf>,
    /// On whose account the server works.
    #[arg(long, value_name = "NAME")]
    tenant: Option<String>,
}

/// The flags, read.
#[derive(Debug, Clone, Default)]
pub(super) struct Wishes {
    /// The fewest steps that will do.
    pub(super) min_steps: Option<u32>,
    /// The share of the device.
    pub(super) priority: Option<Priority>,
    /// Evaluations after which previews are wanted; empty for all.
    pub(super) previews: Option<Vec<u32>>,
    /// Where previews are saved.
    pub(super) preview_dir: Option<PathBuf>,
    /// The images to go on from; none for new ones.
    pub(super) continued: Vec<Receipt>,
}

impl ServerFlags {
    /// Reads the flags and the file that they name.
    ///
    /// # Errors
    /// [`Error::File`] where the receipts cannot be read.
    pub(super) fn read(&self) -> Result<Wishes> {
        Ok(Wishes {
            min_steps: self.min_steps,
            priority: self.priority,
            previews: self.previews.as_ref().map(|evaluations| evaluations.0.clone()),
            preview_dir: self.preview_dir.clone(),
            continued: self.continue_from.as_deref().map_or_else(|| Ok(Vec::new()), receipts::read)?,
        })
    }

    /// Where the receipts go.
    pub(super) fn receipts(&self) -> Option<&Path> {
        self.receipts.as_deref()
    }

    /// On whose account the server works.
    pub(super) fn tenant(&self) -> Option<&str> {
        self.tenant.as_deref()
    }
}

impl Wishes {
    /// Checks that previews of `model` can be saved, and makes their folder.
    ///
    /// # Errors
    /// [`Error::Config`] for a model of no images, [`Error::File`] where the operating system refuses.
    pub(super) fn check(&self, model: &ModelInfo) -> Result<()> {
        let Some(folder) = &self.preview_dir else { return Ok(()) };
        if !model.is_image() {
            let (id, shape) = (&model.id, &model.shape);
            let problem = format!("--preview-dir: samples of {id} have the shape {shape:?}, no picture");
            return Err(Error::Config(vec![problem]));
        }
        std::fs::create_dir_all(folder).map_err(|e| Error::io(folder, "create it", e))
    }
}

/// A list of numbers of evaluations.
#[derive(Debug, Clone, Default)]
pub(super) struct Evaluations(Vec<u32>);

impl FromStr for Evaluations {
    type Err = String;

    fn from_str(s: &str) -> Result<Self, Self::Err> {
        if s.is_empty() {
            return Ok(Self::default());
        }
        let number = |text: &str| match text.trim().parse() {
            Ok(number @ 1..) => Ok(number),
            _ => Err(format!("'{text}' is not a number of evaluations, 1 or more")),
        };
        Ok(Self(s.split(',').map(number).collect::<Result<_, _>>()?))
    }
}

#[cfg(test)]
mod tests {
    use super::super::order::tests::model;
    use super::*;

    #[test]
    fn previews_are_a_list_or_all() {
        let read = |text: &str| text.parse::<Evaluations>().map(|evaluations| evaluations.0);
        assert_eq!((read("").unwrap(), read("1, 3").unwrap()), (vec![], vec![1, 3]));
        assert!(read("0").is_err() && read("1,,2").is_err() && read("a").is_err());
    }

    #[test]
    fn previews_are_saved_as_pictures_only() {
        let folder = tempfile::tempdir().unwrap();
        let wishes = Wishes { preview_dir: Some(folder.path().join("a/b")), ..Wishes::default() };
        assert!(wishes.check(&ModelInfo { shape: vec![2], ..model() }).is_err());
        wishes.check(&model()).unwrap();
        assert!(folder.path().join("a/b").is_dir());
    }
}
