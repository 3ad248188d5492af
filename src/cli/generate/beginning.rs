//! Where images begin: with noise, with a picture to which noise is added, or with what pictures are encoded to.

use std::path::{Path, PathBuf};

use super::order::{Order, Times};
use super::row::Row;
use super::wishes::Wishes;
use super::{Backend, ProgressBar};
use crate::data::folder;
use crate::domain::ModelInfo;
use crate::error::{Error, Result};
use crate::picture::to_values;

/// The flags.
#[derive(Debug, Default, clap::Args)]
pub(super) struct BeginningFlags {
    /// Begin with this picture and --strength of noise; PNG or JPEG, cropped and scaled to the model's size.
    #[arg(long, value_name = "FILE", conflicts_with = "continue_from")]
    image: Option<PathBuf>,
    /// With --image: how much of it is made anew, above 0 and up to 1 [0.6].
    #[arg(long, value_name = "PART", value_parser = strength, requires = "image")]
    strength: Option<f64>,
    /// With --image: take it back to noise and forward again, by a model that can.
    #[arg(long, requires = "image", conflicts_with = "strength")]
    encode: bool,
    /// With --image: take this picture back to noise as well, and go forward from --count places between the two.
    #[arg(long, value_name = "FILE", requires = "image", conflicts_with = "strength")]
    interpolate: Option<PathBuf>,
}

/// How much of a picture is made anew where nothing is said.
const DEFAULT_STRENGTH: f64 = 0.6;

fn strength(text: &str) -> Result<f64, String> {
    let strength: f64 = text.parse().map_err(|_| format!("'{text}' is not a number"))?;
    if strength > 0.0 && strength <= 1.0 { Ok(strength) } else { Err("must be above 0 and at most 1".into()) }
}

/// Where images begin.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) enum Beginning {
    /// With noise.
    #[default]
    Noise,
    /// With a picture, and noise up to a time.
    Noised(Given),
    /// With what these are encoded to: one picture, or two and what is between them.
    Encoded(Vec<Vec<f32>>),
}

/// States that images begin with.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Given {
    /// One for all images, or one per image, one after the other.
    pub(super) states: Vec<f32>,
    /// Their time.
    pub(super) time: f64,
    /// Whether they are data to which each image's noise is added.
    pub(super) add_noise: bool,
}

impl BeginningFlags {
    /// The time at which images begin.
    pub(super) fn time(&self) -> f64 {
        match &self.image {
            Some(_) if !self.encode && self.interpolate.is_none() => 1.0 - self.strength.unwrap_or(DEFAULT_STRENGTH),
            _ => 0.0,
        }
    }

    /// Reads the pictures that the flags name, as `model` would make them.
    ///
    /// # Errors
    /// [`Error::File`] for what is no picture, [`Error::Config`] where the model makes none.
    pub(super) fn read(&self, model: &ModelInfo) -> Result<Beginning> {
        let Some(image) = &self.image else { return Ok(Beginning::Noise) };
        let first = values(image, model)?;
        match &self.interpolate {
            Some(other) => Ok(Beginning::Encoded(vec![first, values(other, model)?])),
            None if self.encode => Ok(Beginning::Encoded(vec![first])),
            None => Ok(Beginning::Noised(Given { states: first, time: self.time(), add_noise: true })),
        }
    }
}

/// A picture's numbers in the shape and range of `model`.
///
/// # Errors
/// [`Error::File`] for what is no picture, [`Error::Config`] where the model makes none.
pub(in crate::cli) fn values(path: &Path, model: &ModelInfo) -> Result<Vec<f32>> {
    let [channels @ (1 | 3), height, width] = model.shape[..] else {
        let problem = format!("--image: samples of {} have the shape {:?}, no picture", model.id, model.shape);
        return Err(Error::Config(vec![problem]));
    };
    Ok(to_values(&folder::picture(path, [channels, height, width])?, model.value_range))
}

/// Makes the images of one row from where they begin.
///
/// # Errors
/// Those of the backend; [`Error::Config`] for pictures of several classes to be interpolated.
pub(super) fn row(backend: &mut dyn Backend, order: &Order, times: &Times, bar: &ProgressBar) -> Result<Row> {
    let ends = match &order.beginning {
        Beginning::Noise => return backend.row(order, times, None, bar),
        Beginning::Noised(given) => return backend.row(order, times, Some(given), bar),
        Beginning::Encoded(ends) => ends,
    };
    // One picture is encoded as each image's class, and is that image again if the class is its own.
    let labels = match (ends.len(), order.turn) {
        (1, _) => order.labels.clone(),
        (_, 1) => vec![order.labels[0]; ends.len()],
        _ => return Err(Error::Config(vec!["--interpolate: needs one --class for both pictures".into()])),
    };
    let back = Order { labels, wishes: Wishes::default(), ..order.clone() };
    let given = Given { states: ends.concat(), time: 1.0, add_noise: false };
    let codes = backend.row(&back, &times.backward(), Some(&given), &ProgressBar::hidden())?;
    let states = match codes.images.as_slice() {
        [first, last] if ends.len() == 2 => between(first, last, order.labels.len()).concat(),
        codes => codes.concat(),
    };
    let row = backend.row(order, times, Some(&Given { states, time: 0.0, add_noise: false }), bar)?;
    Ok(Row { evaluations: row.evaluations + codes.evaluations, ..row })
}

/// `count` states from `a` to `b` along the arc between them, both included: noise lies near a sphere, and what is
/// straight between two points of it is no noise.
fn between(a: &[f32], b: &[f32], count: usize) -> Vec<Vec<f32>> {
    let dot = |x: &[f32], y: &[f32]| x.iter().zip(y).map(|(x, y)| f64::from(*x) * f64::from(*y)).sum::<f64>();
    let cosine = dot(a, b) / (dot(a, a) * dot(b, b)).sqrt();
    let angle = cosine.clamp(-1.0, 1.0).acos();
    let at = |i: usize| {
        let part = i as f64 / count.saturating_sub(1).max(1) as f64;
        // Of parallel states, or none, the arc is the line.
        let [from, to] = match angle.sin() {
            sin if sin > 1e-6 => [((1.0 - part) * angle).sin() / sin, (part * angle).sin() / sin],
            _ => [1.0 - part, part],
        };
        #[expect(clippy::cast_possible_truncation, reason = "states are f32")]
        let mix = |(a, b): (&f32, &f32)| (from * f64::from(*a) + to * f64::from(*b)) as f32;
        a.iter().zip(b).map(mix).collect()
    };
    (0..count).map(at).collect()
}

#[cfg(test)]
mod tests {
    use super::super::order::tests::{model, order};
    use super::super::row::tests::row as made;
    use super::*;

    #[test]
    fn the_arc_keeps_its_length_and_its_ends() {
        let (a, b) = ([3.0f32, 0.0], [0.0f32, 3.0]);
        let states = between(&a, &b, 5);
        assert!((states[0][0] - 3.0).abs() < 1e-6 && (states[4][1] - 3.0).abs() < 1e-6);
        assert!(states.iter().all(|x| (x[0].hypot(x[1]) - 3.0).abs() < 1e-5), "{states:?}");
        assert_eq!(between(&a, &a, 3), [a; 3].map(|x| x.to_vec()));
        assert_eq!(between(&[0.0; 2], &[0.0; 2], 1), [[0.0; 2]]);
    }

    #[test]
    fn pictures_are_read_as_the_model_makes_them() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.png");
        image::GrayImage::from_fn(2, 2, |x, y| image::Luma([if x == y { 255 } else { 0 }])).save(&path).unwrap();
        let flags = BeginningFlags { image: Some(path.clone()), ..BeginningFlags::default() };
        let given = Given { states: vec![1.0, -1.0, -1.0, 1.0], time: 0.4, add_noise: true };
        assert_eq!(flags.read(&model()).unwrap(), Beginning::Noised(given));
        let both = BeginningFlags { interpolate: Some(path), ..flags };
        assert!(matches!(both.read(&model()).unwrap(), Beginning::Encoded(ends) if ends.len() == 2));
        assert_eq!((both.time(), BeginningFlags::default().time()), (0.0, 0.0));
        assert!(both.read(&ModelInfo { shape: vec![2], ..model() }).is_err());
        assert!(strength("0").is_err() && strength("1.1").is_err() && strength("0.25") == Ok(0.25));
    }

    /// Remembers what it was asked for.
    #[derive(Default)]
    struct Asked(Vec<(Times, Option<Given>, usize)>);

    impl Backend for Asked {
        fn model(&mut self, _: &str) -> Result<ModelInfo> {
            Ok(model())
        }

        fn row(&mut self, order: &Order, times: &Times, given: Option<&Given>, _: &ProgressBar) -> Result<Row> {
            self.0.push((times.clone(), given.cloned(), order.labels.len()));
            Ok(made(times.clone(), u16::try_from(order.labels.len()).unwrap()))
        }
    }

    #[test]
    fn what_is_encoded_goes_back_and_forth() {
        let ends = vec![vec![1.0; 4], vec![2.0; 4]];
        let order = Order { beginning: Beginning::Encoded(ends.clone()), ..order(&[Some(1); 3], 1) };
        let mut backend = Asked::default();
        let row = row(&mut backend, &order, &Times::steps(0.0, 2), &ProgressBar::hidden()).unwrap();
        let [(back, from, images), (_, on, count)] = &backend.0[..] else { panic!("{:?}", backend.0) };
        assert_eq!((back.grid().times(), *images, *count), (&[1.0, 0.5, 0.0][..], 2, 3));
        assert_eq!(from.as_ref().unwrap(), &Given { states: ends.concat(), time: 1.0, add_noise: false });
        assert_eq!((on.as_ref().unwrap().time, on.as_ref().unwrap().states.len()), (0.0, 12));
        assert_eq!(row.evaluations, 8 * 5, "both ways count");
        let several = Order { turn: 2, ..order };
        assert!(super::row(&mut backend, &several, &Times::steps(0.0, 2), &ProgressBar::hidden()).is_err());
    }
}
