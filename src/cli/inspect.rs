//! `flowmap inspect`: what a checkpoint is, for people and for programs.

use std::fmt::Write;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::checkpoint::manifest::Manifest;
use crate::checkpoint::tensors::Entry;
use crate::checkpoint::{Repository, store};
use crate::domain::{Guidance, ModelId, ModelRef, Quality, QualityRow, TimePairs};
use crate::error::{Error, Result};

/// Width of the column of names.
const NAMES: usize = 14;

/// Show what a checkpoint is: network, data, guidance, legal times, how it was trained.
///
/// The weights are checked against the content hash of the manifest.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  flowmap inspect models/fashion-mnist/1
  flowmap inspect fashion-mnist --recipe > recipe.toml
  flowmap inspect runs/checkerboard-lmd/checkpoint --tensors
  flowmap inspect fashion-mnist@1 --json")]
pub struct Args {
    /// Folder of the checkpoint, or the name of an embedded model.
    #[arg(value_name = "DIR|NAME[@VERSION]")]
    model: PathBuf,
    /// List every tensor.
    #[arg(long)]
    tensors: bool,
    /// Print the recipe that made it, and nothing else.
    #[arg(long, conflicts_with_all = ["tensors", "json"])]
    recipe: bool,
    /// Print as JSON.
    #[arg(long)]
    json: bool,
}

/// Runs the command.
///
/// # Errors
/// [`Error::NotFound`] where there is no such model; [`Error::File`] where its files are not as they should be.
pub fn main(args: &Args) -> Result<()> {
    let inspected = Inspected::read(&args.model)?;
    super::print(&match args {
        Args { recipe: true, .. } => inspected.manifest.training.recipe.clone(),
        Args { json: true, .. } => format!("{:#}\n", inspected.json()),
        Args { tensors: true, .. } => format!("{}\n{}", inspected.text(), inspected.list()),
        _ => inspected.text(),
    })
}

/// A checkpoint whose content hash was found right.
struct Inspected {
    /// Name and version, or the folder where it has none.
    name: String,
    manifest: Manifest,
    tensors: Vec<Entry>,
}

impl Inspected {
    fn read(model: &Path) -> Result<Self> {
        if model.is_dir() {
            let (manifest, tensors) = store::inspect(model)?;
            return Ok(Self { name: name(model), manifest, tensors });
        }
        let embedded = Repository::embedded();
        let text = model.display().to_string();
        let reference: ModelRef = text.parse().map_err(|e| Error::Config(vec![format!("{text}: {e}")]))?;
        let id = embedded.resolve(&reference, None).map_err(|error| {
            Error::NotFound(format!("{text} is no folder, and of the models in this program, {error}"))
        })?;
        let (manifest, tensors) = embedded.inspect(&id)?;
        Ok(Self { name: id.to_string(), manifest, tensors })
    }

    fn bytes(&self) -> usize {
        self.tensors.iter().map(bytes).sum()
    }

    fn text(&self) -> String {
        let Manifest { data, training, weights, noise_scale, time_pairs, guidance, .. } = &self.manifest;
        let [low, high] = data.range;
        let mut text = format!("{}\n{}\n\n", self.name, self.manifest.description);
        let mut line = |name: &str, value: String| {
            // Writing to a string does not fail.
            let _ = writeln!(text, "{name:NAMES$}{value}");
        };
        line("architecture", self.architecture());
        line("parameters", grouped(weights.parameters));
        line(
            "tensors",
            format!("{}, {} bytes as {}", self.tensors.len(), grouped(self.bytes() as u64), self.precision()),
        );
        line("data", format!("{}, shape {:?}, values {low} to {high}", data.name, data.shape));
        line("classes", classes(&data.classes));
        line("guidance", told_guidance(*guidance));
        line("time pairs", told_pairs(*time_pairs));
        line("samplers", samplers(*time_pairs));
        line("noise scale", noise_scale.to_string());
        let (steps, samples) = (grouped(training.steps), grouped(training.samples));
        let average = format!("exponential moving average {}", training.ema_decay);
        line("training", format!("{}, {steps} steps, {samples} samples, {average}", training.objective));
        line("teacher", training.teacher.clone().unwrap_or_else(|| "none".into()));
        if let Some(quality) = &self.manifest.quality {
            line("quality", told_quality(quality));
        }
        for (steps, times) in &self.manifest.grids {
            let times: Vec<String> = times.iter().map(ToString::to_string).collect();
            line("tuned grid", format!("{steps} steps: {}", times.join(", ")));
        }
        line("content hash", format!("{} (BLAKE3, matches the weights)", weights.blake3));
        text
    }

    fn list(&self) -> String {
        let width = self.tensors.iter().map(|tensor| tensor.name.len()).max().unwrap_or(0);
        let line = |tensor: &Entry| {
            let (name, precision, shape) = (&tensor.name, tensor.precision, format!("{:?}", tensor.shape));
            format!("{name:width$}  {precision:?}  {shape:16}  {} bytes\n", grouped(bytes(tensor) as u64))
        };
        self.tensors.iter().map(line).collect()
    }

    fn json(&self) -> Value {
        let tensor = |tensor: &Entry| json!({ "name": tensor.name, "precision": tensor.precision, "shape": tensor.shape, "bytes": bytes(tensor) });
        json!({
            "model": self.name,
            "manifest": self.manifest,
            "content_hash_matches": true,
            "tensor_bytes": self.bytes(),
            "tensors": self.tensors.iter().map(tensor).collect::<Vec<_>>(),
        })
    }

    /// The network's kind and all its numbers, whatever they are.
    fn architecture(&self) -> String {
        let value = serde_json::to_value(&self.manifest.architecture).unwrap_or_default();
        let numbers = value.as_object().into_iter().flatten().filter(|(name, _)| *name != "kind");
        let numbers: Vec<String> = numbers.map(|(name, value)| format!("{} {value}", name.replace('_', " "))).collect();
        format!("{}: {}", self.manifest.architecture.kind(), numbers.join(", "))
    }

    fn precision(&self) -> String {
        let mut kinds: Vec<String> = self.tensors.iter().map(|tensor| format!("{:?}", tensor.precision)).collect();
        kinds.sort();
        kinds.dedup();
        kinds.join(" and ")
    }
}

/// `name@version` for a folder `…/NAME/VERSION`, the folder itself for any other.
fn name(folder: &Path) -> String {
    let part = |path: &Path| path.file_name().map(|name| name.to_string_lossy().into_owned());
    let version = part(folder).and_then(|version| version.parse().ok());
    match (folder.parent().and_then(part), version) {
        (Some(name), Some(version)) => ModelId { name, version }.to_string(),
        _ => folder.display().to_string(),
    }
}

fn bytes(tensor: &Entry) -> usize {
    tensor.shape.iter().product::<usize>() * tensor.precision.bytes()
}

fn classes(names: &[String]) -> String {
    match names {
        [] => "none: unconditional".into(),
        names => names.iter().enumerate().map(|(label, name)| format!("{label} {name}")).collect::<Vec<_>>().join(", "),
    }
}

/// How guidance is taken, for people.
pub(super) fn told_guidance(guidance: Guidance) -> String {
    match guidance {
        Guidance::None => "none: only scale 1".into(),
        Guidance::Baked { scale } => format!("fixed in training: only scale {scale}"),
        Guidance::Input { max } => format!("scale 1 to {max}, an input of the network"),
        Guidance::TwoCall { max } => format!("scale 0 to {max}, by two evaluations wherever it is not 1"),
    }
}

/// Legal time pairs, for people.
pub(super) fn told_pairs(pairs: TimePairs) -> String {
    match pairs {
        TimePairs::Diagonal => "s = t: a velocity field".into(),
        TimePairs::Triangle => "s <= t: a flow map that generates".into(),
        TimePairs::Square => "all of [0, 1]^2: a flow map that generates and encodes".into(),
        TimePairs::End => "t = 1: a consistency model".into(),
        TimePairs::Dyadic { levels } => {
            format!("s = t, and t - s = 2^-k from multiples of it, k = 0 to {levels}: a shortcut model")
        }
    }
}

/// A measure by sampler and steps, for people.
fn told_quality(quality: &Quality) -> String {
    let Quality { evaluator, measure, floor, samples, rows } = quality;
    let floor = floor.map(|floor| format!(", floor {floor}")).unwrap_or_default();
    let mut text = format!("{measure}, less is better, of {} samples by {evaluator}{floor}", grouped(*samples));
    for QualityRow { sampler, steps, evaluations, value } in rows {
        let row = format!("{sampler} {steps}");
        // Writing to a string does not fail.
        let _ = write!(text, "\n{:NAMES$}{row:<14}{evaluations:>4} evaluations  {value}", "");
    }
    text
}

fn samplers(pairs: TimePairs) -> String {
    let possible = pairs.samplers(true);
    let told = possible.map(|sampler| {
        if sampler == pairs.default_sampler() { format!("{sampler} (default)") } else { sampler.to_string() }
    });
    told.collect::<Vec<_>>().join(", ")
}

/// A number with its digits in groups of three.
fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let group = |(i, digit): (usize, char)| {
        let space = i > 0 && (digits.len() - i).is_multiple_of(3);
        space.then_some(' ').into_iter().chain([digit])
    };
    digits.chars().enumerate().flat_map(group).collect()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use candle_core::{DType, Device, Tensor};

    use super::*;
    use crate::checkpoint::{
        Architecture, Checkpoint, DataSpec, Precision, TimeConvention, TrainingRecord, WeightsRecord,
    };

    fn manifest() -> Manifest {
        Manifest {
            schema_version: 1,
            description: "Points on a board".into(),
            architecture: Architecture::Mlp { width: 64, depth: 2, frequencies: 8, max_frequency: 20.0 },
            data: DataSpec { name: "checkerboard".into(), shape: vec![2], range: [-1.0, 1.0], classes: vec![] },
            noise_scale: 1.0,
            time_convention: TimeConvention::Noise0Data1,
            guidance: Guidance::None,
            time_pairs: TimePairs::Triangle,
            training: TrainingRecord {
                objective: "lmd".into(),
                steps: 1500,
                samples: 1_536_000,
                ema_decay: 0.999,
                recipe: "seed = 1\n".into(),
                teacher: None,
            },
            weights: WeightsRecord::default(),
            quality: None,
            grids: std::collections::BTreeMap::new(),
        }
    }

    fn folder() -> (tempfile::TempDir, PathBuf) {
        let root = tempfile::tempdir().unwrap();
        let dir = root.path().join("board/3");
        let weight = Tensor::zeros((50, 30), DType::F32, &Device::Cpu).unwrap();
        Checkpoint::write(&dir, manifest(), &BTreeMap::from([("w".to_owned(), weight)]), Precision::F16).unwrap();
        (root, dir)
    }

    #[test]
    fn a_person_reads_everything_that_matters() {
        let (_root, dir) = folder();
        let inspected = Inspected::read(&dir).unwrap();
        let text = inspected.text();
        for line in [
            "board@3\nPoints on a board\n",
            "architecture  mlp: depth 2, frequencies 8, max frequency 20.0, width 64\n",
            "parameters    1 500\n",
            "tensors       1, 3 000 bytes as F16\n",
            "data          checkerboard, shape [2], values -1 to 1\n",
            "classes       none: unconditional\n",
            "time pairs    s <= t: a flow map that generates\n",
            "samplers      flow-map (default), euler, heun, gamma:0.5, consistency\n",
            "training      lmd, 1 500 steps, 1 536 000 samples, exponential moving average 0.999\n",
        ] {
            assert!(text.contains(line), "{line} is not in\n{text}");
        }
        assert!(!text.contains("quality") && !text.contains("tuned grid"));
        store::annotate(&dir, |manifest| {
            let row = QualityRow { sampler: crate::domain::Sampler::Heun, steps: 4, evaluations: 8, value: 0.25 };
            let (evaluator, measure) = ("flowmap 1".to_owned(), "KL".to_owned());
            manifest.quality =
                Some(Quality { evaluator, measure, floor: Some(0.009), samples: 64_000, rows: vec![row] });
            manifest.grids.insert(2, vec![0.0, 0.25, 1.0]);
        })
        .unwrap();
        let text = Inspected::read(&dir).unwrap().text();
        for line in [
            "quality       KL, less is better, of 64 000 samples by flowmap 1, floor 0.009\n",
            "              heun 4           8 evaluations  0.25\n",
            "tuned grid    2 steps: 0, 0.25, 1\n",
        ] {
            assert!(text.contains(line), "{line} is not in\n{text}");
        }
        assert_eq!(inspected.list(), "w  F16  [50, 30]          3 000 bytes\n");
        let value = inspected.json();
        assert_eq!((&value["model"], &value["tensors"][0]["bytes"]), (&json!("board@3"), &json!(3000)));
        assert_eq!(value["manifest"]["training"]["recipe"], "seed = 1\n");
    }

    #[test]
    fn damage_and_unknown_names_are_told() {
        let (_root, dir) = folder();
        let file = dir.join(store::WEIGHTS_FILE);
        let mut weights = std::fs::read(&file).unwrap();
        *weights.last_mut().unwrap() ^= 1;
        std::fs::write(&file, weights).unwrap();
        assert!(Inspected::read(&dir).err().unwrap().to_string().contains("its BLAKE3 is"));
        let unknown = Inspected::read(Path::new("no-such-model")).err().unwrap().to_string();
        assert!(unknown.starts_with("no-such-model is no folder"), "{unknown}");
    }

    #[test]
    fn folders_of_a_repository_have_names_and_versions() {
        assert_eq!(name(Path::new("models/a/2")), "a@2");
        assert_eq!(name(Path::new("runs/a/checkpoint")), "runs/a/checkpoint");
        assert_eq!((grouped(7), grouped(1000), grouped(1_844_496)), ("7".into(), "1 000".into(), "1 844 496".into()));
    }
}
