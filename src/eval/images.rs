//! The measures of images: paired distance; for Fashion-MNIST also Fréchet and kernel distance of features, agreement
//! of classes, and whether samples are copies of training images.

use serde_json::{Map, Value, json};

use super::features::{Classifier, Features, WIDTH};
use super::frechet::Moments;
use super::generate::Beginnings;
use super::kid;
use super::nearest::{Memorisation, Nearest, nearest};
use super::paired::root_mean_square;
use super::protocol::{Copies, FLOOR_DRAWS, Protocol, Setup};
use super::report::{Column, Network, Role, Row, Show, Values};
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
/// Samples whose nearest training image is looked up.
const LOOKED_UP: usize = 500;
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
        let column = |key, title, role, show, meaning| Column { key, title, meaning, role, show };
        if self.features.is_none() {
            return vec![column("paired_rms", "paired RMS", Role::Measure, Show::Digits(4), PAIRED)];
        }
        vec![
            column("paired_rms", "paired RMS", Role::Plotted, Show::Digits(4), PAIRED),
            column("frechet", "Fréchet", Role::Measure, Show::Digits(3), FRECHET),
            column("kid", "KID", Role::Plotted, Show::Digits(3), KID),
            column("kid_deviation", "± KID", Role::Told, Show::Hidden, "standard deviation of KID over its subsets"),
            column("agreement", "agreement", Role::Told, Show::Percent, AGREEMENT),
        ]
    }

    fn settings(&self) -> Map<String, Value> {
        let mut settings = Map::new();
        if let Some(features) = &self.features {
            settings.insert("floor_draws".into(), json!(FLOOR_DRAWS));
            settings.insert("features".into(), json!(WIDTH));
            settings.insert("test_images".into(), json!(features.test_images));
            settings.insert("kid_subsets".into(), json!(kid::SUBSETS));
            settings.insert("kid_subset_rows".into(), json!(kid::SUBSET_ROWS.min(self.samples)));
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

    fn judges_by_reference(&self) -> bool {
        self.features.is_none()
    }

    fn judge(&self, samples: &[f32], reference: &[f32]) -> Result<f64> {
        match &self.features {
            Some(features) => features.frechet(&features.of(&to_u8(samples, self.range), self.workers)?),
            None => Ok(self.paired(samples, reference)),
        }
    }

    fn copies(&self, samples: &[f32]) -> Result<Option<Copies>> {
        let Some(features) = &self.features else { return Ok(None) };
        let (count, size) = (self.samples.min(LOOKED_UP), self.beginnings.elements());
        let pixels = to_u8(&samples[..count * size], self.range);
        let [training, test] = [Split::Train, Split::Test].map(|split| open(features.data, split, self.beginnings));
        let training = training?;
        let known = all_pixels(&training);
        let test = self::pixels(&test?, &(0..count).collect::<Vec<_>>(), size);
        let own = nearest(&pixels, &known, size, self.workers)?;
        let other = nearest(&test, &known, size, self.workers)?;
        let memorisation = Memorisation::new(&own, &other, training.len());
        Ok(Some(Copies { memorisation, picture: self.pairs(&pixels, &own, &known)? }))
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

impl ImageProtocol<'_> {
    /// The nearest pairs of a sample and a training image, the nearest of all on the left.
    fn pairs(&self, samples: &[u8], nearest: &[Nearest], training: &[u8]) -> Result<Vec<u8>> {
        let size = self.beginnings.elements();
        let mut order: Vec<usize> = (0..nearest.len()).collect();
        order.sort_by(|&a, &b| nearest[a].distance.total_cmp(&nearest[b].distance));
        order.truncate(PICTURED);
        let image = |set: &[u8], index: usize| set[index * size..][..size].to_vec();
        Grid::new([0, 1, 2].map(|side| self.beginnings.shape[side]))
            .scale(PICTURE_SCALE)
            .columns(order.iter().map(|&i| format!("{:.1}", nearest[i].distance)))
            .row("sample", order.iter().map(|&i| image(samples, i)).collect())?
            .row("nearest", order.iter().map(|&i| image(training, nearest[i].index)).collect())?
            .png()
    }
}

const PAIRED: &str = "root mean square difference of a pixel to the reference from the same noise and class, in units \
    of the data, where black to white is 2";
const FRECHET: &str = "Fréchet distance between the classifier's features of the samples, 8 bits a pixel, and those of \
    the test split; the floor is the mean over draws of as many training images of the same classes, which the \
    classifier has learned from";
const KID: &str = "kernel distance (unbiased, polynomial kernel of degree 3, mean over subsets) between the same features; \
    its expectation does not depend on the number of samples; the floor likewise";
const AGREEMENT: &str = "samples that the classifier takes for the class that was asked for; the floor is its accuracy \
    on the test split";

/// Measures by the classifier's features.
struct FeatureProtocol<'a> {
    data: &'a DataSource,
    classifier: Classifier,
    /// Moments of the test split.
    test: Moments,
    /// Features of the test split.
    test_features: Vec<f32>,
    /// Decides the subsets of the kernel distance.
    seed: u64,
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
        let (test_images, seed) = (images.len(), beginnings.seed);
        Ok(Self { data, classifier, test, test_features: features.numbers, seed, test_images, accuracy })
    }

    fn of(&self, pixels: &[u8], workers: &Workers) -> Result<Features> {
        self.classifier.features(pixels, workers)
    }

    fn frechet(&self, features: &Features) -> Result<f64> {
        Ok(Moments::of(&features.numbers, WIDTH)?.distance(&self.test))
    }

    fn measure(&self, pixels: &[u8], beginnings: &Beginnings, workers: &Workers) -> Result<Values> {
        let features = self.of(pixels, workers)?;
        let kid = kid::distance(&features.numbers, &self.test_features, WIDTH, self.seed, workers)?;
        Ok(Values::from([
            ("frechet", self.frechet(&features)?),
            ("kid", kid.mean),
            ("kid_deviation", kid.deviation),
            ("agreement", features.agreement(|index| beginnings.label(index))),
        ]))
    }

    /// Training images in the place of samples.
    fn floor(&self, samples: usize, beginnings: &Beginnings, workers: &Workers) -> Result<Values> {
        let images = open(self.data, Split::Train, beginnings)?;
        let mut floor = Values::new();
        for draw in 1..=FLOOR_DRAWS {
            let chosen = stratified(images.labels(), samples, beginnings, draw);
            let pixels = pixels(&images, &chosen, beginnings.elements());
            for (key, value) in self.measure(&pixels, beginnings, workers)? {
                *floor.entry(key).or_default() += value / f64::from(FLOOR_DRAWS);
            }
        }
        floor.insert("agreement", self.accuracy);
        Ok(floor)
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

/// The bytes of all images.
fn all_pixels(images: &Images) -> Vec<u8> {
    let all: Vec<usize> = (0..images.len()).collect();
    pixels(images, &all, images.elements())
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
        assert_eq!((protocol.judge(&[0.5; 784], &[0.25; 784]).unwrap(), protocol.pictured()), (0.25, PICTURED));
        assert!(protocol.judges_by_reference() && protocol.copies(&[0.5; 784]).unwrap().is_none());
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
        assert!(noise["kid"] > 10.0 * floor["kid"].abs(), "{noise:?} {floor:?}");
        assert!(noise["agreement"] < 0.3 && floor["agreement"] > 0.85);
    }
}
