//! `flowmap reproduce`: makes images again from their receipts, and tells whether they are the same.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::path::{Path, PathBuf};

use candle_core::{Device, Tensor};

use super::generate::local::{Local, Way};
use super::generate::{beginning::values, npy, output::picture};
use super::receipts;
use crate::domain::{Digest, Guidance, ModelInfo, NoiseKey, Receipt, TimeGrid};
use crate::error::{Error, Result};
use crate::flow::noise;

/// Hexadecimal digits of a digest that are told.
const TOLD_DIGITS: usize = 12;

/// Make images again from their receipts, without a server, and tell whether the bytes are the same.
///
/// An image is a pure function of what its receipt says, on the same kind of processor to the bit. Exits with 1 where
/// one came out different.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  flowmap generate --steps 4 --receipts images.json && flowmap reproduce images.json
  flowmap reproduce images.json --models ./models --out again")]
pub struct Args {
    /// The receipts, a JSON list.
    #[arg(value_name = "RECEIPTS.json")]
    receipts: PathBuf,
    /// Take the models of this folder instead of the embedded ones.
    #[arg(long, value_name = "DIR")]
    models: Option<PathBuf>,
    /// The picture that the images began with, where they did not begin with noise.
    #[arg(long, value_name = "FILE")]
    image: Option<PathBuf>,
    /// Save the images in this folder: PNG files, or NumPy arrays of what is no image.
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
}

/// Runs the command.
///
/// # Errors
/// [`Error::File`] for receipts that cannot be read or followed, and where an image came out different;
/// [`Error::NotFound`] for a model that is not there.
pub fn main(args: &Args) -> Result<()> {
    let receipts = receipts::read(&args.receipts)?;
    if args.image.is_none() {
        from_noise(&receipts)?;
    }
    if let Some(folder) = &args.out {
        std::fs::create_dir_all(folder).map_err(|e| Error::io(folder, "create it", e))?;
    }
    let (mut models, mut different) = (BTreeMap::new(), 0);
    for (place, receipt) in receipts.iter().enumerate() {
        let model = match models.entry(receipt.model.as_str()) {
            Entry::Occupied(known) => known.into_mut(),
            Entry::Vacant(new) => new.insert(Local::open(args.models.as_deref(), &receipt.model)?),
        };
        let wrong = |problem| Error::file(&args.receipts, format!("receipt {place}: {problem}"));
        let way = way(receipt, model.info()).map_err(wrong)?;
        let verdict = match receipt.content_hash == model.info().content_hash {
            false => Verdict::OtherWeights,
            true => {
                let begin = beginning(receipt, model.info(), args.image.as_deref())?;
                let sample = remake(model, receipt, &way, begin)?;
                if let Some(folder) = &args.out {
                    save(folder, place, model.info(), &sample)?;
                }
                Verdict::of(&sample, receipt)
            }
        };
        different += usize::from(verdict != Verdict::Same);
        super::print(&format!("{}: {}\n", title(place, receipt, model.info()), verdict.told(receipt)))?;
    }
    match different {
        0 => Ok(()),
        _ => Err(Error::file(&args.receipts, format!("{different} of {} images came out different", receipts.len()))),
    }
}

/// Whether an image is the one that its receipt is of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Verdict {
    Same,
    Different(Digest),
    OtherWeights,
}

impl Verdict {
    fn of(sample: &[f32], receipt: &Receipt) -> Self {
        match Digest::of_numbers(sample) {
            digest if digest == receipt.sample_digest => Self::Same,
            digest => Self::Different(digest),
        }
    }

    fn told(self, receipt: &Receipt) -> String {
        let short = |digest: Digest| digest.to_string()[..TOLD_DIGITS].to_owned();
        match self {
            Self::Same => "same bytes".into(),
            Self::Different(digest) => {
                let (got, want) = (short(digest), short(receipt.sample_digest));
                format!("different, BLAKE3 {got}… instead of {want}…; another kind of processor may round differently")
            }
            Self::OtherWeights => "not made: the receipt is of other weights than this model's".into(),
        }
    }
}

/// Refuses images that a receipt alone cannot bring back.
fn from_noise(receipts: &[Receipt]) -> Result<()> {
    match receipts.iter().position(|receipt| receipt.initial_state_digest.is_some()) {
        None => Ok(()),
        Some(place) => Err(Error::Config(vec![format!(
            "receipt {place} is of an image that began with a state, which it does not have; where that was a picture, \
             name it with --image"
        )])),
    }
}

/// Where an image begins: with its noise, or with the picture whose digest its receipt has.
///
/// # Errors
/// [`Error::Config`] for another picture or none, [`Error::File`] where it cannot be read.
fn beginning(receipt: &Receipt, model: &ModelInfo, picture: Option<&Path>) -> Result<Vec<f32>> {
    let key = NoiseKey { seed: receipt.seed, index: receipt.index };
    let Some(digest) = receipt.initial_state_digest else {
        return Ok(noise::initial(key.seed, key.index, model.elements(), model.noise_scale));
    };
    let another = || Error::Config(vec!["--image: is not the picture that the images began with".into()]);
    let state = values(picture.ok_or_else(another)?, model)?;
    match (Digest::of_numbers(&state) == digest, receipt.times.first()) {
        (true, Some(&time)) if receipt.initial_state_noised => Ok(noise::noised(&state, time, key, model.noise_scale)),
        (true, _) => Ok(state),
        (false, _) => Err(another()),
    }
}

/// The way of an image from where it began.
///
/// # Errors
/// What the model would not do, as a sentence.
fn way(receipt: &Receipt, model: &ModelInfo) -> Result<TimeGrid, String> {
    let Receipt { times, sampler, guidance, label, .. } = receipt;
    let grid = TimeGrid::new(times.clone()).map_err(|problem| format!("times: {problem}"))?;
    let is_anywhere = receipt.initial_state_digest.is_some();
    if (grid.times()[0] != 0.0 && !is_anywhere) || model.time_pairs.check(*sampler, &grid).is_err() {
        return Err(format!("{} cannot walk these times by {sampler}", model.id));
    }
    // The network's interface has no argument for a scale.
    if !model.guidance.allows(*guidance) || matches!(model.guidance, Guidance::Input { .. }) {
        return Err(format!("{} does not take guidance {guidance} here", model.id));
    }
    match label {
        Some(label) if *label as usize >= model.classes.len() => Err(format!("{} has no class {label}", model.id)),
        _ => Ok(grid),
    }
}

fn remake(model: &Local, receipt: &Receipt, grid: &TimeGrid, begin: Vec<f32>) -> Result<Vec<f32>> {
    let info = model.info();
    let x = Tensor::from_vec(begin, [&[1], info.shape.as_slice()].concat(), &Device::Cpu)?;
    let way = Way { sampler: receipt.sampler, grid, guidance: receipt.guidance };
    model.walk(way, &x, &[receipt.label], &[NoiseKey { seed: receipt.seed, index: receipt.index }])
}

fn save(folder: &Path, place: usize, model: &ModelInfo, sample: &[f32]) -> Result<()> {
    let (path, bytes) = match model.is_image() {
        true => (folder.join(format!("image-{place:04}.png")), picture(model, sample)?),
        false => (folder.join(format!("sample-{place:04}.npy")), npy::file(&model.shape, sample.iter().copied())),
    };
    std::fs::write(&path, bytes).map_err(|e| Error::io(&path, "write it", e))
}

fn title(place: usize, receipt: &Receipt, model: &ModelInfo) -> String {
    let Receipt { seed, index, label, times, .. } = receipt;
    let class = label.and_then(|label| model.classes.get(label as usize)).map_or("no class", String::as_str);
    let steps = times.len() - 1;
    let noun = if steps == 1 { "step" } else { "steps" };
    format!("image {place}, {}, {class}, seed {seed}, index {index}, {steps} {noun}", receipt.model)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::app::EMBEDDED_DEFAULT;
    use crate::cli::receipts::tests::receipt;

    /// A receipt of the embedded model, and its sample.
    fn embedded() -> (Local, Receipt, Vec<f32>) {
        let model = Local::open(None, EMBEDDED_DEFAULT).unwrap();
        let plain = Receipt {
            model: model.info().id.to_string(),
            content_hash: model.info().content_hash.clone(),
            times: vec![0.0, 1.0],
            ..receipt(3)
        };
        let begin = beginning(&plain, model.info(), None).unwrap();
        let sample = remake(&model, &plain, &way(&plain, model.info()).unwrap(), begin).unwrap();
        let receipt = Receipt { sample_digest: Digest::of_numbers(&sample), ..plain };
        (model, receipt, sample)
    }

    fn run(receipts: &[&Receipt]) -> Result<()> {
        let folder = tempfile::tempdir().unwrap();
        let (path, out) = (folder.path().join("receipts.json"), folder.path().join("out"));
        receipts::write(&path, receipts).unwrap();
        let ended = main(&Args { receipts: path, models: None, image: None, out: Some(out.clone()) });
        assert!(ended.is_err() || out.join("image-0000.png").is_file());
        ended
    }

    #[test]
    fn an_image_is_the_same_again_and_another_is_not() {
        let (model, receipt, sample) = embedded();
        assert_eq!(Verdict::of(&sample, &receipt), Verdict::Same);
        run(&[&receipt]).unwrap();
        let other = Receipt { index: 4, ..receipt.clone() };
        let foreign = Receipt { content_hash: "00".into(), ..receipt.clone() };
        let told = run(&[&receipt, &other, &foreign]).unwrap_err().to_string();
        assert!(told.ends_with("2 of 3 images came out different"), "{told}");
        let [class, id] = [model.info().classes[1].clone(), model.info().id.to_string()];
        assert_eq!(title(0, &receipt, model.info()), format!("image 0, {id}, {class}, seed 7, index 3, 1 step"));
    }

    #[test]
    fn what_cannot_be_followed_is_refused() {
        let (_, good, _) = embedded();
        for wrong in [
            Receipt { times: vec![0.0], ..good.clone() },
            Receipt { times: vec![0.5, 1.0], ..good.clone() },
            Receipt { guidance: f32::NAN, ..good.clone() },
            Receipt { label: Some(99), ..good.clone() },
        ] {
            assert!(way(&wrong, Local::open(None, &good.model).unwrap().info()).is_err(), "{wrong:?}");
        }
        let stated = Receipt { initial_state_digest: Some(good.sample_digest), ..good.clone() };
        assert!(matches!(run(&[&stated]), Err(Error::Config(_))));
        assert!(matches!(run(&[&Receipt { model: "other@1".into(), ..good }]), Err(Error::NotFound(_))));
    }
}
