//! Bounds of a manifest: what no checkpoint may ask for, whoever wrote it.
//!
//! The bounds are far above any model that this program trains; they are there so that a damaged or hostile
//! `config.json` is refused before a network of its sizes is built.

use std::collections::BTreeSet;
use std::fmt::Display;
use std::ops::RangeInclusive;

use super::manifest::{Architecture, DataSpec, Manifest, SCHEMA_VERSION, TrainingRecord, WeightsRecord};
use crate::domain::{Guidance, Quality, TimeGrid, TimePairs};

/// Most weights: 8 GiB in memory.
const MAX_PARAMETERS: u64 = 1 << 31;
/// Most numbers in one sample.
const MAX_ELEMENTS: usize = 1 << 22;
/// Longest side of a sample.
const MAX_SIDE: usize = 4096;
/// Most patches of an image: attention is quadratic in them.
const MAX_TOKENS: usize = 1 << 14;
/// Most classes.
const MAX_CLASSES: usize = 100_000;
/// Longest name or sentence in bytes.
const MAX_TEXT_BYTES: usize = 4096;
/// Longest recipe in bytes.
const MAX_RECIPE_BYTES: usize = 1 << 20;
const MAX_WIDTH: usize = 1 << 14;
const MAX_DEPTH: usize = 256;
const MAX_MLP_RATIO: usize = 16;
/// Most resolutions of a U-Net.
const MAX_LEVELS: usize = 12;
const MAX_FREQUENCIES: usize = 4096;
/// Highest angular frequency of an embedding, rad per unit time.
const MAX_FREQUENCY: f64 = 1e6;
const MAX_NOISE_SCALE: f32 = 1e3;
const MAX_GUIDANCE: f32 = 1e3;
/// Most rows of a recorded quality.
const MAX_QUALITY_ROWS: usize = 1024;
/// Most steps of a recorded quality or grid.
const MAX_STEPS: u32 = 1 << 16;
/// Largest magnitude of a data value.
const MAX_VALUE: f32 = 1e6;

/// Everything that is wrong with a manifest, one sentence each.
pub(super) fn problems(manifest: &Manifest) -> Vec<String> {
    let mut all = Problems::default();
    all.within("schema_version", manifest.schema_version, SCHEMA_VERSION..=SCHEMA_VERSION);
    all.text("description", &manifest.description, MAX_TEXT_BYTES);
    all.within("noise_scale", manifest.noise_scale, f32::MIN_POSITIVE..=MAX_NOISE_SCALE);
    data(&manifest.data, &mut all);
    guidance(manifest.guidance, &manifest.data, &mut all);
    if let TimePairs::Dyadic { levels } = manifest.time_pairs {
        all.within("time_pairs.dyadic.levels", levels, 0..=TimePairs::MAX_LEVELS);
    }
    training(&manifest.training, &mut all);
    weights(&manifest.weights, &mut all);
    manifest.quality.iter().for_each(|found| quality(found, &mut all));
    manifest.grids.iter().for_each(|(steps, times)| grid(*steps, times, &mut all));
    match &manifest.architecture {
        Architecture::Mlp { .. } => mlp(manifest, &mut all),
        Architecture::Dit { .. } => dit(manifest, &mut all),
        Architecture::Unet { .. } => unet(manifest, &mut all),
    }
    all.0
}

fn data(data: &DataSpec, all: &mut Problems) {
    all.text("data.name", &data.name, MAX_TEXT_BYTES);
    all.require(matches!(data.shape.len(), 1 | 3), || {
        format!("data.shape {:?} is neither [d] nor [channels, height, width]", data.shape)
    });
    data.shape.iter().for_each(|&side| all.within("data.shape", side, 1..=MAX_SIDE));
    let elements = product(&data.shape);
    all.require(elements.is_some_and(|n| n <= MAX_ELEMENTS), || {
        format!("data.shape {:?} has more than {MAX_ELEMENTS} numbers", data.shape)
    });
    let [low, high] = data.range;
    data.range.iter().for_each(|&value| all.within("data.range", value, -MAX_VALUE..=MAX_VALUE));
    all.require(low < high, || format!("data.range [{low}, {high}] does not rise"));
    classes(&data.classes, all);
}

fn classes(classes: &[String], all: &mut Problems) {
    all.require(classes.len() <= MAX_CLASSES, || format!("data.classes has more than {MAX_CLASSES} names"));
    let unusual = classes.iter().find(|name| name.is_empty() || name.len() > MAX_TEXT_BYTES);
    all.require(unusual.is_none(), || "data.classes has a name that is empty or too long".into());
    let distinct: BTreeSet<_> = classes.iter().collect();
    all.require(distinct.len() == classes.len(), || "data.classes has a name twice".into());
}

fn guidance(guidance: Guidance, data: &DataSpec, all: &mut Problems) {
    match guidance {
        Guidance::None => return,
        Guidance::Baked { scale } => all.within("guidance.scale", scale, 0.0..=MAX_GUIDANCE),
        Guidance::Input { max } | Guidance::TwoCall { max } => all.within("guidance.max", max, 1.0..=MAX_GUIDANCE),
    }
    all.require(!data.classes.is_empty(), || "guidance needs classes to guide towards, and there are none".into());
}

fn training(training: &TrainingRecord, all: &mut Problems) {
    all.text("training.objective", &training.objective, MAX_TEXT_BYTES);
    all.within("training.ema_decay", training.ema_decay, 0.0..=1.0);
    all.require(training.recipe.len() <= MAX_RECIPE_BYTES, || {
        format!("training.recipe is longer than {MAX_RECIPE_BYTES} bytes")
    });
    if let Some(teacher) = &training.teacher {
        all.hash("training.teacher", teacher);
    }
}

fn weights(weights: &WeightsRecord, all: &mut Problems) {
    all.within("weights.parameters", weights.parameters, 1..=MAX_PARAMETERS);
    all.hash("weights.blake3", &weights.blake3);
}

fn quality(quality: &Quality, all: &mut Problems) {
    all.text("quality.evaluator", &quality.evaluator, MAX_TEXT_BYTES);
    all.text("quality.measure", &quality.measure, MAX_TEXT_BYTES);
    all.require(quality.rows.len() <= MAX_QUALITY_ROWS, || format!("quality.rows are more than {MAX_QUALITY_ROWS}"));
    quality.floor.iter().for_each(|&floor| all.within("quality.floor", floor, f64::MIN..=f64::MAX));
    for row in &quality.rows {
        all.within("quality.rows.steps", row.steps, 1..=MAX_STEPS);
        all.within("quality.rows.evaluations", row.evaluations, 1..=2 * MAX_STEPS);
        all.within("quality.rows.value", row.value, f64::MIN..=f64::MAX);
    }
}

fn grid(steps: u32, times: &[f64], all: &mut Problems) {
    all.within("grids' steps", steps, 1..=MAX_STEPS);
    match TimeGrid::new(times.to_vec()) {
        Err(problem) => all.require(false, || format!("grids.{steps} {problem}")),
        Ok(grid) => {
            all.require(grid.steps() == steps as usize, || format!("grids.{steps} has {} steps", grid.steps()));
            let whole = times.first() == Some(&0.0) && times.last() == Some(&1.0);
            all.require(whole, || format!("grids.{steps} does not run from 0 to 1"));
        }
    }
}

fn mlp(manifest: &Manifest, all: &mut Problems) {
    let Architecture::Mlp { width, depth, frequencies, max_frequency } = manifest.architecture else { return };
    all.within("architecture.width", width, 1..=MAX_WIDTH);
    all.within("architecture.depth", depth, 1..=MAX_DEPTH);
    all.frequencies(frequencies, max_frequency);
    all.require(manifest.data.shape.len() == 1, || "an mlp needs data of shape [d]".into());
    all.fits(manifest, width, depth.saturating_sub(1).checked_mul(width));
}

fn dit(manifest: &Manifest, all: &mut Problems) {
    let Architecture::Dit { patch, width, depth, heads, mlp_ratio, frequencies, max_frequency } = manifest.architecture
    else {
        return;
    };
    all.within("architecture.patch", patch, 1..=MAX_SIDE);
    all.within("architecture.width", width, 1..=MAX_WIDTH);
    all.within("architecture.depth", depth, 1..=MAX_DEPTH);
    all.within("architecture.mlp_ratio", mlp_ratio, 1..=MAX_MLP_RATIO);
    all.frequencies(frequencies, max_frequency);
    all.require(heads > 0 && width.is_multiple_of(heads), || {
        format!("architecture.heads {heads} does not divide architecture.width {width}")
    });
    patches(&manifest.data.shape, patch, all);
    // Of a block: 4 width² in attention, 2 · ratio · width² in the MLP.
    let block = mlp_ratio.checked_mul(2).and_then(|n| n.checked_add(4)).and_then(|n| n.checked_mul(width));
    all.fits(manifest, width, block.and_then(|n| n.checked_mul(depth)));
}

fn patches(shape: &[usize], patch: usize, all: &mut Problems) {
    let [_, height, width] = *shape else {
        return all.require(false, || "a dit needs data of shape [channels, height, width]".into());
    };
    let divides = patch > 0 && height.is_multiple_of(patch) && width.is_multiple_of(patch);
    all.require(divides, || format!("architecture.patch {patch} does not divide an image of {height} × {width}"));
    let tokens = if divides { product(&[height / patch, width / patch]) } else { Some(0) };
    all.require(tokens.is_some_and(|n| n <= MAX_TOKENS), || {
        format!("architecture.patch {patch} makes more than {MAX_TOKENS} tokens of an image")
    });
}

fn unet(manifest: &Manifest, all: &mut Problems) {
    let Architecture::Unet { channels, multipliers, blocks, frequencies, max_frequency, .. } = &manifest.architecture
    else {
        return;
    };
    all.within("architecture.channels", *channels, 1..=MAX_WIDTH);
    all.within("architecture.multipliers' number", multipliers.len(), 1..=MAX_LEVELS);
    multipliers.iter().for_each(|&multiplier| all.within("architecture.multipliers", multiplier, 1..=MAX_WIDTH));
    all.within("architecture.blocks", *blocks, 1..=MAX_DEPTH);
    all.frequencies(*frequencies, *max_frequency);
    levels(manifest, all);
    // A block takes the widest activations twice over: 9 (2 + 1) width² in convolutions, 2 width² in the skip, 4 width²
    // in attention, 4 channels · width in the condition. Down, up and in the middle there are more than the blocks.
    let width = multipliers.iter().max().and_then(|widest| widest.checked_mul(*channels));
    let of_block = width.and_then(|w| w.checked_mul(33)).and_then(|n| n.checked_add(channels.checked_mul(4)?));
    let count = blocks.checked_mul(2).and_then(|n| n.checked_add(3)?.checked_mul(multipliers.len())?.checked_add(2));
    let rows = of_block.zip(count).and_then(|(rows, count)| rows.checked_mul(count));
    all.fits(manifest, width.unwrap_or(usize::MAX), rows);
    all.fits(manifest, frequencies.saturating_mul(4), Some(channels.saturating_mul(4)));
}

/// Sides halve from level to level, and where pixels attend there are not too many of them.
fn levels(manifest: &Manifest, all: &mut Problems) {
    let (Architecture::Unet { multipliers, attention, .. }, &[_, height, width]) =
        (&manifest.architecture, manifest.data.shape.as_slice())
    else {
        return all.require(false, || "a unet needs data of shape [channels, height, width]".into());
    };
    let last = multipliers.len().saturating_sub(1).min(MAX_LEVELS);
    let divides = [height, width].iter().all(|side| side.is_multiple_of(1 << last));
    all.require(divides, || format!("an image of {height} × {width} cannot be halved {last} times"));
    for side in attention {
        let level = (0..=last).find(|level| height >> level == *side);
        all.require(level.is_some(), || {
            format!("architecture.attention names the height {side}, which no level of this network has")
        });
    }
    for level in (0..=last).filter(|&level| level == last || attention.contains(&(height >> level))) {
        all.require(product(&[height >> level, width >> level]).is_some_and(|n| n <= MAX_TOKENS), || {
            format!("{} × {} pixels that attend are more than {MAX_TOKENS}", height >> level, width >> level)
        });
    }
}

fn product(sides: &[usize]) -> Option<usize> {
    sides.iter().try_fold(1usize, |n, &side| n.checked_mul(side))
}

/// Problems found so far.
#[derive(Default)]
struct Problems(Vec<String>);

impl Problems {
    fn require(&mut self, holds: bool, problem: impl FnOnce() -> String) {
        if !holds {
            self.0.push(problem());
        }
    }

    /// The sinusoids of an embedding.
    fn frequencies(&mut self, count: usize, highest: f64) {
        self.within("architecture.frequencies", count, 1..=MAX_FREQUENCIES);
        self.within("architecture.max_frequency", highest, f64::MIN_POSITIVE..=MAX_FREQUENCY);
    }

    /// A number in its bounds; NaN is in none.
    fn within<T: PartialOrd + Display>(&mut self, field: &str, value: T, bounds: RangeInclusive<T>) {
        self.require(bounds.contains(&value), || {
            format!("{field} {value} is not between {} and {}", bounds.start(), bounds.end())
        });
    }

    fn text(&mut self, field: &str, text: &str, limit: usize) {
        self.require(!text.is_empty() && text.len() <= limit, || {
            format!("{field} is empty or longer than {limit} bytes")
        });
    }

    fn hash(&mut self, field: &str, text: &str) {
        let hexadecimal = text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
        self.require(text.len() == 64 && hexadecimal, || {
            format!("{field} '{text}' is not a BLAKE3 hash of 64 lower-case hexadecimal digits")
        });
    }

    /// The network's body of `width · rows` weights and its table of classes must be of a size that can be loaded.
    fn fits(&mut self, manifest: &Manifest, width: usize, rows: Option<usize>) {
        let rows = rows.and_then(|n| n.checked_add(manifest.data.classes.len()));
        let weights = rows.and_then(|n| n.checked_mul(width)).and_then(|n| u64::try_from(n).ok());
        self.require(weights.is_some_and(|n| n <= MAX_PARAMETERS), || {
            format!("architecture asks for more than {MAX_PARAMETERS} weights")
        });
    }
}

#[cfg(test)]
mod tests {
    use super::super::manifest::tests::example;
    use super::*;

    /// What the bounds say of the example after `change`.
    fn check(change: impl FnOnce(&mut Manifest)) -> String {
        let mut manifest = example();
        change(&mut manifest);
        problems(&manifest).join("; ")
    }

    fn dit(change: impl FnOnce([&mut usize; 5])) -> String {
        check(|m| {
            if let Architecture::Dit { patch, width, depth, heads, mlp_ratio, .. } = &mut m.architecture {
                change([patch, width, depth, heads, mlp_ratio]);
            }
        })
    }

    #[test]
    fn the_example_is_legal() {
        assert_eq!(check(|_| ()), "");
    }

    #[test]
    fn sizes_are_bounded() {
        assert!(dit(|[patch, ..]| *patch = 0).contains("architecture.patch 0 is not between"));
        assert!(dit(|[patch, ..]| *patch = 5).contains("does not divide an image of 28 × 28"));
        assert!(dit(|[_, width, ..]| *width = usize::MAX).contains("more than 2147483648 weights"));
        assert!(dit(|[_, width, depth, ..]| (*width, *depth) = (1 << 14, 256)).contains("weights"));
        assert!(dit(|[.., heads, _]| *heads = 0).contains("does not divide"));
        assert!(dit(|[.., heads, _]| *heads = 3).contains("does not divide"));
        assert!(dit(|[.., ratio]| *ratio = usize::MAX).contains("mlp_ratio"));
        assert!(check(|m| m.data.shape = vec![usize::MAX; 3]).contains("numbers"));
        assert!(check(|m| m.data.shape = vec![2]).contains("a dit needs"));
        let mlp = Architecture::Mlp { width: 8, depth: 0, frequencies: 4, max_frequency: 8.0 };
        assert!(check(|m| m.architecture = mlp).contains("depth 0"));
    }

    #[test]
    fn a_unet_is_bounded() {
        let unet = |change: fn(&mut Manifest)| {
            check(|m| {
                m.architecture = Architecture::Unet {
                    channels: 32,
                    multipliers: vec![1, 2, 2],
                    blocks: 2,
                    attention: vec![7],
                    frequencies: 16,
                    max_frequency: 16.0,
                };
                change(m);
            })
        };
        let with = |channels, multipliers: &[usize], blocks, attention: &[usize]| {
            let (multipliers, attention) = (multipliers.to_vec(), attention.to_vec());
            let (frequencies, max_frequency) = (16, 16.0);
            Architecture::Unet { channels, multipliers, blocks, attention, frequencies, max_frequency }
        };
        let all = |architecture| check(|m| m.architecture = architecture);
        assert_eq!(unet(|_| ()), "");
        assert!(unet(|m| m.data.shape = vec![1, 28, 30]).contains("28 × 30 cannot be halved 2 times"));
        assert!(unet(|m| m.data.shape = vec![2]).contains("a unet needs"));
        assert!(all(with(32, &[], 2, &[])).contains("multipliers' number 0"));
        assert!(all(with(32, &[1; 13], 2, &[])).contains("multipliers' number 13"));
        assert!(all(with(32, &[1, 0], 2, &[])).contains("multipliers 0"));
        assert!(all(with(0, &[1], 2, &[])).contains("channels 0"));
        assert!(all(with(32, &[1], 0, &[])).contains("blocks 0"));
        assert!(all(with(32, &[1, 2], 2, &[8])).contains("names the height 8"));
        assert!(all(with(1 << 14, &[2], 2, &[])).contains("weights"));
        assert!(all(with(usize::MAX, &[usize::MAX], usize::MAX, &[])).contains("weights"));
        assert!(
            check(|m| {
                m.data.shape = vec![1, 256, 256];
                m.architecture = with(32, &[1, 1], 1, &[256]);
            })
            .contains("256 × 256 pixels")
        );
    }

    #[test]
    fn numbers_are_finite_and_make_sense() {
        for bad in [f32::NAN, f32::INFINITY, 0.0, -1.0] {
            assert!(check(|m| m.noise_scale = bad).contains("noise_scale"), "{bad}");
        }
        assert!(check(|m| m.data.range = [1.0, 1.0]).contains("does not rise"));
        assert!(check(|m| m.data.range = [f32::NAN, 1.0]).contains("data.range NaN"));
        assert!(check(|m| m.guidance = Guidance::Input { max: 0.5 }).contains("guidance.max"));
        assert!(check(|m| m.time_pairs = TimePairs::Dyadic { levels: 21 }).contains("time_pairs.dyadic.levels"));
        assert!(check(|m| m.guidance = Guidance::Baked { scale: f32::NAN }).contains("guidance.scale"));
        assert!(check(|m| m.training.ema_decay = 1.5).contains("ema_decay"));
    }

    #[test]
    fn classes_and_hashes_are_checked() {
        assert!(check(|m| m.data.classes = vec!["a".into(), "a".into()]).contains("twice"));
        assert!(check(|m| m.data.classes = vec![String::new()]).contains("empty"));
        assert!(check(|m| m.data.classes = (0..=MAX_CLASSES).map(|i| i.to_string()).collect()).contains("100000"));
        let unconditional = |m: &mut Manifest| (m.guidance, m.data.classes) = (Guidance::TwoCall { max: 2.0 }, vec![]);
        assert!(check(unconditional).contains("needs classes"));
        assert!(check(|m| m.weights.blake3 = "AB".repeat(32)).contains("lower-case"));
        assert!(check(|m| m.training.teacher = Some("x".into())).contains("training.teacher"));
    }
}
