//! The measures of images: paired distance; for Fashion-MNIST also Fréchet distance of features and agreement of
//! classes.

use serde_json::{Map, Value, json};

use super::features::{Classifier, WIDTH};
use super::frechet::Moments;
use super::generate::Beginnings;
use super::paired::root_mean_square;
use super::protocol::{FLOOR_DRAWS, Protocol, Setup};
use super::report::{Column, Network, Row, Show, Values};
use crate::data::spec::FASHION_MNIST_CLASSES;
use crate::data::{DataSource, Images, Source, Split};
use crate::error::{Error, Result};
use crate::flow::noise::{self, Stream};
use crate::model::Workers;
use crate::picture::{Grid, to_u8};

/// Heun steps of the reference.
const REFERENCE_STEPS: u32 = 32;
/// Images whose reference is computed again.
const CHECKED: usize = 128;
/// Images in a row of the picture where there are no classes.
const PICTURED: usize = 10;
/// Side of a pixel in the picture.
const PICTURE_SCALE: usize = 2;

/// Measures of images.
pub struct ImageProtocol<'a> {
    samples: usize,
    range: [f32; 2],
    classes: &'a [String],
    beginnings: &'a Beginnings,
    workers: &'a Workers,
    features: Option<FeatureProtocol<'a>>,
}

impl<'a> ImageProtocol<'a> {
    /// Samples of every row.
    pub const SAMPLES: usize = 1000;

    /// The measures for sets of `samples` images.
    ///
    /// # Errors
    /// [`Error::File`](crate::error::Error::File) where the data set is not as it should be.
    pub(super) fn new(setup: &Setup<'a>, samples: usize) -> Result<Self> {
        let &Setup { data, beginnings, range, classes, workers, .. } = setup;
        let known = Classifier::knows(&beginnings.shape, classes);
        let features = known.then(|| FeatureProtocol::new(data, beginnings, workers)).transpose()?;
        Ok(Self { samples, range, classes, beginnings, workers, features })
    }
}

impl Protocol for ImageProtocol<'_> {
    fn columns(&self) -> Vec<Column> {
        let column = |key, title, show, meaning| Column { key, title, meaning, show };
        let mut columns = vec![column("paired_rms", "paired RMS", Show::Digits(4), PAIRED)];
        if self.features.is_some() {
            columns.push(column("frechet", "Fréchet", Show::Digits(3), FRECHET));
            columns.push(column("agreement", "agreement", Show::Percent, AGREEMENT));
        }
        columns
    }

    fn settings(&self) -> Map<String, Value> {
        let mut settings = Map::new();
        if let Some(features) = &self.features {
            settings.insert("floor_draws".into(), json!(FLOOR_DRAWS));
            settings.insert("features".into(), json!(WIDTH));
            settings.insert("test_images".into(), json!(features.test_images));
        }
        settings
    }

    fn classifier(&self) -> Option<String> {
        self.features.as_ref().map(|_| Classifier::hash())
    }

    fn reference(&self) -> (u32, usize) {
        (REFERENCE_STEPS, CHECKED)
    }

    fn paired(&self, samples: &[f32], reference: &[f32]) -> f64 {
        root_mean_square(samples, reference, 1)
    }

    fn measure(&self, samples: &[f32], reference: &[f32]) -> Result<Values> {
        let mut values = Values::from([("paired_rms", self.paired(samples, reference))]);
        if let Some(features) = &self.features {
            values.extend(features.measure(&to_u8(samples, self.range), self.beginnings, self.workers)?);
        }
        Ok(values)
    }

    fn floors(&self) -> Result<Vec<Row>> {
        let Some(features) = &self.features else { return Ok(Vec::new()) };
        Ok(vec![Row::bound(Network::Floor, features.floor(self.samples, self.beginnings, self.workers)?)])
    }

    fn pictured(&self) -> usize {
        self.samples.min(if self.classes.is_empty() { PICTURED } else { self.classes.len().min(PICTURED) })
    }

    fn picture(&self, shown: &[(String, Vec<f32>)]) -> Result<Vec<u8>> {
        let shape = [0, 1, 2].map(|side| self.beginnings.shape[side]);
        let grid = Grid::new(shape).scale(PICTURE_SCALE).columns(self.classes.iter().take(PICTURED));
        let row = |grid: Grid, (caption, samples): &(String, Vec<f32>)| {
            let bytes = to_u8(samples, self.range);
            grid.row(caption, bytes.chunks(self.beginnings.elements()).map(<[u8]>::to_vec).collect())
        };
        shown.iter().try_fold(grid, row)?.png()
    }
}

const PAIRED: &str = "root mean square difference of a pixel to the reference from the same noise and class, in units \
    of the data, where black to white is 2";
const FRECHET: &str = "Fréchet distance between the classifier's features of the samples, 8 bits a pixel, and those of \
    the test split; the floor is the mean over draws of as many training images of the same classes, which the \
    classifier has learned from";
const AGREEMENT: &str = "samples that the classifier takes for the class that was asked for; the floor is its accuracy \
    on the test split";

/// Measures by the classifier's features.
struct FeatureProtocol<'a> {
    data: &'a DataSource,
    classifier: Classifier,
    /// Moments of the test split.
    test: Moments,
    test_images: usize,
    /// Accuracy on the test split.
    accuracy: f64,
}

impl<'a> FeatureProtocol<'a> {
    fn new(data: &'a DataSource, beginnings: &Beginnings, workers: &Workers) -> Result<Self> {
        let classifier = Classifier::embedded()?;
        let images = open(data, Split::Test, beginnings)?;
        let all: Vec<usize> = (0..images.len()).collect();
        let features = classifier.features(&pixels(&images, &all, beginnings.elements()), workers)?;
        let accuracy = features.agreement(|index| images.labels()[index]);
        let test = Moments::of(&features.numbers, WIDTH)?;
        Ok(Self { data, classifier, test, test_images: images.len(), accuracy })
    }

    fn measure(&self, pixels: &[u8], beginnings: &Beginnings, workers: &Workers) -> Result<Values> {
        let features = self.classifier.features(pixels, workers)?;
        let frechet = Moments::of(&features.numbers, WIDTH)?.distance(&self.test);
        Ok(Values::from([("frechet", frechet), ("agreement", features.agreement(|index| beginnings.label(index)))]))
    }

    /// Training images in the place of samples.
    fn floor(&self, samples: usize, beginnings: &Beginnings, workers: &Workers) -> Result<Values> {
        let images = open(self.data, Split::Train, beginnings)?;
        let mut sum = 0.0;
        for draw in 1..=FLOOR_DRAWS {
            let chosen = stratified(images.labels(), samples, beginnings, draw);
            let pixels = pixels(&images, &chosen, beginnings.elements());
            sum += self.measure(&pixels, beginnings, workers)?["frechet"];
        }
        Ok(Values::from([("frechet", sum / f64::from(FLOOR_DRAWS)), ("agreement", self.accuracy)]))
    }
}

/// The images of a split, which the recorded recipe names but nothing ties to the model.
fn open(data: &DataSource, split: Split, beginnings: &Beginnings) -> Result<Images> {
    let images = data.open_images(split)?;
    if images.shape() != beginnings.shape || images.classes() != FASHION_MNIST_CLASSES {
        let problem = format!("data: {} has images of another shape or other classes than the model", data.name());
        return Err(Error::Config(vec![problem]));
    }
    Ok(images)
}

/// The bytes of the images `chosen`, one after the other.
fn pixels(images: &Images, chosen: &[usize], elements: usize) -> Vec<u8> {
    let mut pixels = Vec::with_capacity(chosen.len() * elements);
    chosen.iter().filter_map(|&index| images.get(index)).for_each(|(image, _)| pixels.extend_from_slice(image));
    pixels
}

/// `samples` indices of images whose labels are those of the samples: each class in random order, begun again where it
/// has too few.
fn stratified(labels: &[u32], samples: usize, beginnings: &Beginnings, draw: u32) -> Vec<usize> {
    let mut stream = Stream::new(beginnings.seed, draw, noise::stream::EVALUATION);
    let classes = beginnings.classes.max(1);
    let mut of_class: Vec<Vec<usize>> = vec![Vec::new(); classes];
    for (index, &label) in labels.iter().enumerate() {
        of_class[label as usize % classes].push(index);
    }
    of_class.iter_mut().for_each(|class| shuffle(class, &mut stream));
    let place = |i: usize| {
        let class = &of_class[beginnings.label(i) as usize];
        class.get(i / classes % class.len().max(1)).copied()
    };
    (0..samples).filter_map(place).collect()
}

/// Fisher and Yates' shuffle.
fn shuffle(items: &mut [usize], stream: &mut Stream) {
    for last in (1..items.len()).rev() {
        let bound = u32::try_from(last + 1).unwrap_or(u32::MAX);
        items.swap(last, stream.below(bound) as usize);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn beginnings(classes: usize) -> Beginnings {
        Beginnings { seed: 1, shape: vec![1, 28, 28], noise_scale: 1.0, classes }
    }

    #[test]
    fn draws_have_the_classes_of_the_samples_and_no_image_twice() {
        let labels: Vec<u32> = (0..600).map(|i| (i * 7) % 3).collect();
        let chosen = stratified(&labels, 90, &beginnings(3), 1);
        assert!(chosen.iter().enumerate().all(|(i, &index)| labels[index] as usize == i % 3));
        let mut distinct = chosen.clone();
        distinct.sort_unstable();
        distinct.dedup();
        assert_eq!((chosen.len(), distinct.len()), (90, 90));
        assert_ne!(chosen, stratified(&labels, 90, &beginnings(3), 2));
        assert_eq!(stratified(&labels, 700, &beginnings(3), 1).len(), 700);
    }

    /// Images of other classes or shapes are compared with the reference alone.
    #[test]
    fn unknown_images_have_paired_distances_only() {
        let (beginnings, workers) = (beginnings(0), Workers::new(1).unwrap());
        let data = DataSource::Cifar10 { dir: "none".into(), flip: false };
        let range = [-1.0, 1.0];
        let setup =
            Setup { data: &data, beginnings: &beginnings, samples: None, range, classes: &[], workers: &workers };
        let protocol = ImageProtocol::new(&setup, 20).unwrap();
        assert_eq!(protocol.measure(&[0.5; 784], &[0.25; 784]).unwrap(), Values::from([("paired_rms", 0.25)]));
        assert!(protocol.floors().unwrap().is_empty() && protocol.classifier().is_none());
        assert_eq!(protocol.pictured(), PICTURED);
        assert!(protocol.picture(&[("1 step".into(), vec![0.0; 2 * 784])]).is_ok());
    }

    /// Where the data set is installed: training images are near the test split, noise is not, and its class is a guess.
    #[test]
    fn features_tell_clothes_from_noise() {
        let data = DataSource::fashion_mnist();
        if data.open_images(Split::Test).is_err() {
            return;
        }
        let (beginnings, workers) = (beginnings(10), Workers::new(1).unwrap());
        let features = FeatureProtocol::new(&data, &beginnings, &workers).unwrap();
        let floor = features.floor(500, &beginnings, &workers).unwrap();
        let noise: Vec<u8> =
            crate::flow::noise::normal(1, 0, 500 * 784).iter().map(|v| (v * 64.0 + 128.0) as u8).collect();
        let noise = features.measure(&noise, &beginnings, &workers).unwrap();
        assert!(noise["frechet"] > 10.0 * floor["frechet"], "{noise:?} {floor:?}");
        assert!(noise["agreement"] < 0.3 && floor["agreement"] > 0.85);
    }
}
