//! The `[data]` section of a recipe: which data set, and how it is opened.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::folder::{self, Layout};
use super::{Checkerboard, Images, Source, cifar, idx};
use crate::error::{Error, Result};

/// Where the Debian package `dataset-fashion-mnist` puts its files.
pub const FASHION_MNIST_DIR: &str = "/usr/share/datasets/fashion-mnist";
/// The classes of Fashion-MNIST by label.
pub const FASHION_MNIST_CLASSES: [&str; 10] =
    ["T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"];

/// Which part of a data set.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Split {
    /// What a network learns from.
    Train,
    /// What it is measured against.
    Test,
}

/// A data set and where it is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", deny_unknown_fields, rename_all = "snake_case")]
pub enum DataSource {
    /// Points of the checkerboard; see [`Checkerboard`]. Both splits are the same distribution.
    Checkerboard {},
    /// IDX files, as MNIST and Fashion-MNIST have them; see [`idx`].
    Idx {
        /// Folder of the four files.
        dir: PathBuf,
        /// Their names.
        #[serde(default)]
        names: IdxNames,
        /// Class names by label.
        classes: Vec<String>,
        /// Mirror half of the training samples.
        #[serde(default)]
        flip: bool,
    },
    /// CIFAR-10, binary version; see [`cifar`].
    Cifar10 {
        /// Folder of the batch files.
        dir: PathBuf,
        /// Mirror half of the training samples.
        #[serde(default)]
        flip: bool,
    },
    /// A folder of PNG and JPEG files; see [`folder`].
    Folder {
        /// The folder.
        dir: PathBuf,
        /// Side of the square that images are cropped and scaled to; without it all must have one size.
        #[serde(default)]
        size: Option<u32>,
        /// One channel of luminance instead of three of colour.
        #[serde(default)]
        grey: bool,
        /// Mirror half of the training samples.
        #[serde(default)]
        flip: bool,
    },
}

/// File names of an IDX data set; by default those of MNIST and Fashion-MNIST.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct IdxNames {
    /// Training images.
    pub train_images: String,
    /// Training labels.
    pub train_labels: String,
    /// Test images.
    pub test_images: String,
    /// Test labels.
    pub test_labels: String,
}

impl Default for IdxNames {
    fn default() -> Self {
        Self {
            train_images: "train-images-idx3-ubyte.gz".into(),
            train_labels: "train-labels-idx1-ubyte.gz".into(),
            test_images: "t10k-images-idx3-ubyte.gz".into(),
            test_labels: "t10k-labels-idx1-ubyte.gz".into(),
        }
    }
}

impl DataSource {
    /// Fashion-MNIST where Debian's package puts it.
    pub fn fashion_mnist() -> Self {
        let classes = FASHION_MNIST_CLASSES.map(str::to_owned).to_vec();
        Self::Idx { dir: FASHION_MNIST_DIR.into(), names: IdxNames::default(), classes, flip: false }
    }

    /// Name of the data set, for people: its kind, or its folder's name.
    pub fn name(&self) -> String {
        let folder = |dir: &Path| dir.file_name().map_or("data".into(), |name| name.to_string_lossy().into_owned());
        match self {
            Self::Checkerboard {} => "checkerboard".into(),
            Self::Cifar10 { .. } => "cifar-10".into(),
            Self::Idx { dir, .. } | Self::Folder { dir, .. } => folder(dir),
        }
    }

    /// The same data set with its files in another folder; the checkerboard has none.
    #[must_use]
    pub fn moved(mut self, folder: &Path) -> Self {
        match &mut self {
            Self::Checkerboard {} => {}
            Self::Idx { dir, .. } | Self::Cifar10 { dir, .. } | Self::Folder { dir, .. } => *dir = folder.to_owned(),
        }
        self
    }

    /// Opens the data set.
    ///
    /// # Errors
    /// [`Error::File`] where its files are missing or not as they should be.
    pub fn open(&self, split: Split) -> Result<Box<dyn Source>> {
        match self {
            Self::Checkerboard {} => Ok(Box::new(Checkerboard)),
            _ => Ok(Box::new(self.open_images(split)?)),
        }
    }

    /// Opens a data set of images.
    ///
    /// # Errors
    /// As [`DataSource::open`]; [`Error::Config`] for the checkerboard, which has none.
    pub fn open_images(&self, split: Split) -> Result<Images> {
        let (images, flip) = match self {
            Self::Checkerboard {} => {
                return Err(Error::Config(vec!["data.kind: the checkerboard has points, not images".into()]));
            }
            Self::Idx { dir, names, classes, flip } => (open_idx(dir, names, classes, split)?, flip),
            Self::Cifar10 { dir, flip } => {
                present(dir)?;
                (cifar::read(dir, split)?, flip)
            }
            Self::Folder { dir, size, grey, flip } => {
                present(dir)?;
                (folder::read(dir, split, Layout { size: checked_size(*size)?, grey: *grey })?, flip)
            }
        };
        Ok(images.with_flip(*flip && split == Split::Train))
    }
}

fn open_idx(dir: &Path, names: &IdxNames, classes: &[String], split: Split) -> Result<Images> {
    present(dir)?;
    let (images, labels) = match split {
        Split::Train => (&names.train_images, &names.train_labels),
        Split::Test => (&names.test_images, &names.test_labels),
    };
    idx::read(&dir.join(images), &dir.join(labels), classes.to_vec())
}

fn checked_size(size: Option<u32>) -> Result<Option<u32>> {
    match size {
        Some(side) if !(1..=folder::MAX_SIDE).contains(&side) => {
            Err(Error::Config(vec![format!("data.size: {side} is not between 1 and {}", folder::MAX_SIDE)]))
        }
        _ => Ok(size),
    }
}

/// Checks that a data set's folder is there; if it is not, says where the data set comes from.
fn present(dir: &Path) -> Result<()> {
    if dir.is_dir() {
        return Ok(());
    }
    let remedy = if dir == Path::new(FASHION_MNIST_DIR) {
        "install Fashion-MNIST with `apt-get install dataset-fashion-mnist`, or set `data.dir` to its files"
    } else {
        "set `data.dir` to the folder of the data set"
    };
    Err(Error::file(dir, format!("is not a folder; {remedy}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<DataSource, toml::de::Error> {
        toml::from_str(text)
    }

    #[test]
    fn recipes_name_a_data_set() {
        assert_eq!(parse("kind = 'checkerboard'").unwrap(), DataSource::Checkerboard {});
        let names = IdxNames { test_labels: "x".into(), ..IdxNames::default() };
        let idx = DataSource::Idx { dir: "d".into(), names, classes: vec!["a".into()], flip: false };
        assert_eq!(parse("kind = 'idx'\ndir = 'd'\nclasses = ['a']\nnames.test_labels = 'x'").unwrap(), idx);
        let cifar = DataSource::Cifar10 { dir: "d".into(), flip: true };
        assert_eq!(parse("kind = 'cifar10'\ndir = 'd'\nflip = true").unwrap(), cifar);
        assert!(parse("kind = 'folder'\ndir = 'd'\nsize = 32").is_ok());
        let fashion = DataSource::fashion_mnist();
        assert_eq!(parse(&toml::to_string(&fashion).unwrap()).unwrap(), fashion);
    }

    #[test]
    fn unknown_fields_and_kinds_are_refused() {
        for bad in ["kind = 'mnist'", "kind = 'checkerboard'\nsize = 3", "kind = 'cifar10'\ndir = 'd'\nflop = true"] {
            assert!(parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn the_checkerboard_has_no_images() {
        let source = DataSource::Checkerboard {};
        assert_eq!(source.open(Split::Train).unwrap().shape(), [2]);
        assert!(matches!(source.open_images(Split::Train), Err(Error::Config(_))));
    }

    #[test]
    fn a_missing_folder_says_what_to_do() {
        let missing = DataSource::Cifar10 { dir: "no/such/folder".into(), flip: false };
        let problem = missing.open(Split::Test).err().map(|e| e.to_string()).unwrap_or_default();
        assert!(problem.contains("set `data.dir`"), "{problem}");
    }

    /// Where the package is installed, the files are what its publisher says: 60 000 and 10 000 images, balanced.
    #[test]
    fn fashion_mnist_opens_or_names_its_package() {
        match DataSource::fashion_mnist().open_images(Split::Test) {
            Ok(images) => {
                let mut counts = [0; 10];
                images.labels().iter().for_each(|&label| counts[label as usize] += 1);
                assert_eq!((images.shape(), counts), (&[1, 28, 28][..], [1000; 10]));
            }
            Err(error) => assert!(error.to_string().contains("apt-get install dataset-fashion-mnist"), "{error}"),
        }
    }
}
