//! What is measured on a kind of data, and how.

use serde_json::{Map, Value};

use super::generate::Beginnings;
use super::images::ImageProtocol;
use super::nearest::Memorisation;
use super::points::PointProtocol;
use super::report::{Column, Row, Values};
use crate::checkpoint::Manifest;
use crate::data::DataSource;
use crate::error::{Error, Result};
use crate::model::Workers;

/// Draws that a floor is the mean of.
pub(super) const FLOOR_DRAWS: u32 = 5;

/// The measures that a kind of data gets.
pub trait Protocol {
    /// What the values are, in the table's order.
    fn columns(&self) -> Vec<Column>;

    /// Every number that shapes the values, by name.
    fn settings(&self) -> Map<String, Value>;

    /// BLAKE3 of the classifier whose features are used.
    fn classifier(&self) -> Option<String> {
        None
    }

    /// Heun steps of the reference, and how many samples are computed again in twice as many.
    fn reference(&self) -> (u32, usize);

    /// The paired distance between two sets of samples from the same beginnings.
    fn paired(&self, samples: &[f32], reference: &[f32]) -> f64;

    /// Everything that is measured on samples.
    ///
    /// # Errors
    /// [`Error::Compute`] where the arithmetic fails.
    fn measure(&self, samples: &[f32], reference: &[f32]) -> Result<Values>;

    /// Whether [`judge`](Protocol::judge) needs the reference of the samples.
    fn judges_by_reference(&self) -> bool {
        false
    }

    /// The value of the column whose role is [`Measure`](super::report::Role::Measure), alone.
    ///
    /// # Errors
    /// As [`Protocol::measure`].
    fn judge(&self, samples: &[f32], reference: &[f32]) -> Result<f64>;

    /// Whether samples are copies of what the network learned from; `None` where that is not looked into.
    ///
    /// # Errors
    /// As [`Protocol::measure`], and where the data set cannot be read.
    fn copies(&self, _samples: &[f32]) -> Result<Option<Copies>> {
        Ok(None)
    }

    /// The rows that no sampler can pass.
    ///
    /// # Errors
    /// As [`Protocol::measure`].
    fn floors(&self) -> Result<Vec<Row>>;

    /// Samples that the picture shows of each row.
    fn pictured(&self) -> usize;

    /// The picture of samples, each with its caption, as a PNG file.
    ///
    /// # Errors
    /// [`Error::Compute`] where it is too large to be drawn.
    fn picture(&self, shown: &[(String, Vec<f32>)]) -> Result<Vec<u8>>;
}

/// How near samples are to what the network learned from.
pub struct Copies {
    /// In numbers.
    pub memorisation: Memorisation,
    /// The nearest pairs, as a PNG file.
    pub picture: Vec<u8>,
}

/// What every protocol is made of.
pub(super) struct Setup<'a> {
    pub data: &'a DataSource,
    pub beginnings: &'a Beginnings,
    /// Samples of every row; `None` for the protocol's own number.
    pub samples: Option<usize>,
    /// Smallest and largest value of the data.
    pub range: [f32; 2],
    /// Class names by label.
    pub classes: &'a [String],
    pub workers: &'a Workers,
}

impl<'a> Setup<'a> {
    pub(super) fn new(
        manifest: &'a Manifest,
        data: &'a DataSource,
        beginnings: &'a Beginnings,
        samples: Option<usize>,
        workers: &'a Workers,
    ) -> Self {
        Self { data, beginnings, samples, range: manifest.data.range, classes: &manifest.data.classes, workers }
    }
}

/// The protocol of a data set, and the number of samples of every row.
///
/// # Errors
/// [`Error::Config`] for data that is neither points of the checkerboard nor images, or too few samples.
pub(super) fn choose<'a>(setup: &Setup<'a>) -> Result<(Box<dyn Protocol + 'a>, usize)> {
    let least = 2;
    let (own, points) = match (setup.data, setup.beginnings.shape.as_slice()) {
        (DataSource::Checkerboard {}, [2]) => (PointProtocol::SAMPLES, true),
        (_, [1 | 3, _, _]) => (ImageProtocol::SAMPLES, false),
        (data, shape) => {
            let problem = format!("--model: there are no measures for samples of shape {shape:?} of {}", data.name());
            return Err(Error::Config(vec![problem]));
        }
    };
    let samples = setup.samples.unwrap_or(own);
    if samples < least {
        return Err(Error::Config(vec![format!("--samples: {samples} is too few; at least {least} are needed")]));
    }
    let protocol: Box<dyn Protocol + 'a> = if points {
        Box::new(PointProtocol::new(setup.beginnings.seed, samples, setup.workers)?)
    } else {
        Box::new(ImageProtocol::new(setup, samples)?)
    };
    Ok((protocol, samples))
}
