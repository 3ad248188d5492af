//! `config.json`: everything about a model but its weights.

use std::collections::BTreeMap;
use std::path::Path;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::validate;
use crate::domain::{Guidance, ModelId, ModelInfo, Quality, TimeGrid, TimePairs};
use crate::error::{Error, Result};

/// The only schema version that this crate writes and reads.
pub const SCHEMA_VERSION: u32 = 1;

/// The contents of `config.json`. Strict: an unknown field is an error.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// Version of this schema.
    pub schema_version: u32,
    /// One sentence for people.
    pub description: String,
    /// The network and all its numbers.
    pub architecture: Architecture,
    /// What it was trained on and how samples are laid out.
    pub data: DataSpec,
    /// Standard deviation of the noise at `t = 0`.
    pub noise_scale: f32,
    /// Always `noise_0_data_1`: written down so that nobody has to guess.
    pub time_convention: TimeConvention,
    /// How guidance is taken.
    pub guidance: Guidance,
    /// Legal time pairs.
    pub time_pairs: TimePairs,
    /// How it was made.
    pub training: TrainingRecord,
    /// Weights: number and content.
    pub weights: WeightsRecord,
    /// How good it was found to be; absent until somebody looks.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub quality: Option<Quality>,
    /// Time grids from 0 to 1 that were found better than uniform ones, by their number of steps.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub grids: BTreeMap<u32, Vec<f64>>,
}

impl Manifest {
    /// Reads and checks the bytes of `config.json`. `origin` names the file in errors.
    ///
    /// # Errors
    /// [`Error::File`] where the bytes are not JSON, of another schema version (said before any field is judged), have
    /// an unknown, missing or doubled field, or break a bound.
    pub fn parse(bytes: &[u8], origin: &Path) -> Result<Self> {
        let value: Value =
            serde_json::from_slice(bytes).map_err(|e| Error::file(origin, format!("is not JSON: {e}")))?;
        check_version(&value, origin)?;
        let manifest: Self = serde_json::from_slice(bytes).map_err(|e| Error::file(origin, e))?;
        manifest.validate(origin)?;
        match manifest.unknown_field(&value) {
            Some(field) => Err(Error::file(origin, format!("unknown field `{field}`"))),
            None => Ok(manifest),
        }
    }

    /// The text of `config.json`. `origin` names the file in errors.
    ///
    /// # Errors
    /// [`Error::File`] where the manifest breaks a bound, or a number would not be read back exactly.
    pub fn to_json(&self, origin: &Path) -> Result<String> {
        let text = serde_json::to_string_pretty(self).map_err(|e| Error::file(origin, e))? + "\n";
        match Self::parse(text.as_bytes(), origin)? {
            back if back == *self => Ok(text),
            _ => Err(Error::file(origin, "holds a number that JSON does not carry exactly; use fewer digits")),
        }
    }

    /// Checks every number against its bound, so that no manifest can ask a network builder for absurd sizes.
    ///
    /// # Errors
    /// [`Error::File`] with every problem.
    pub fn validate(&self, origin: &Path) -> Result<()> {
        let problems = validate::problems(self);
        if problems.is_empty() { Ok(()) } else { Err(Error::file(origin, problems.join("; "))) }
    }

    /// The model as its users see it.
    pub fn info(&self, id: ModelId) -> ModelInfo {
        ModelInfo {
            id,
            description: self.description.clone(),
            architecture: self.architecture.kind().to_owned(),
            parameters: self.weights.parameters,
            shape: self.data.shape.clone(),
            value_range: self.data.range,
            noise_scale: self.noise_scale,
            classes: self.data.classes.clone(),
            guidance: self.guidance,
            time_pairs: self.time_pairs,
            objective: self.training.objective.clone(),
            content_hash: self.weights.blake3.clone(),
            quality: self.quality.clone(),
            grids: self.grids.values().filter_map(|times| TimeGrid::new(times.clone()).ok()).collect(),
        }
    }

    /// The path of a field of `given` that the manifest does not have. Serde itself finds all but those beside the tag
    /// of an enum's unit variant, as in `{"kind": "none", "max": 3}`.
    fn unknown_field(&self, given: &Value) -> Option<String> {
        serde_json::to_value(self).ok().and_then(|known| extra_key(given, &known))
    }
}

fn check_version(value: &Value, origin: &Path) -> Result<()> {
    match value.get("schema_version").map(Value::as_u64) {
        Some(Some(version)) if version == u64::from(SCHEMA_VERSION) => Ok(()),
        Some(Some(version)) => {
            let remedy = "use the release of this program that wrote it, or a newer one";
            let problem = format!("schema version {version} is not the one read here, {SCHEMA_VERSION}; {remedy}");
            Err(Error::file(origin, problem))
        }
        _ => Err(Error::file(origin, "has no `schema_version` number, so it is not a checkpoint's manifest")),
    }
}

fn extra_key(given: &Value, known: &Value) -> Option<String> {
    let (Value::Object(given), Value::Object(known)) = (given, known) else {
        return None;
    };
    given.iter().find_map(|(key, value)| match known.get(key) {
        None => Some(key.clone()),
        Some(inner) => extra_key(value, inner).map(|rest| format!("{key}.{rest}")),
    })
}

/// A network and its numbers.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum Architecture {
    /// Multi-layer perceptron on `(x, s, t)` for points.
    Mlp {
        /// Width of the hidden layers.
        width: usize,
        /// Number of hidden layers.
        depth: usize,
        /// Sinusoids per embedded coordinate.
        frequencies: usize,
        /// Highest angular frequency of a coordinate's embedding, rad per unit.
        max_frequency: f64,
    },
    /// Patch transformer with adaLN-Zero conditioning (DiT, arXiv 2212.09748) on `s`, `t - s` and the class.
    Dit {
        /// Side of a square patch, in pixels.
        patch: usize,
        /// Width of a token.
        width: usize,
        /// Number of blocks.
        depth: usize,
        /// Attention heads; divides `width`.
        heads: usize,
        /// Hidden width of a block's MLP over `width`.
        mlp_ratio: usize,
        /// Sinusoids per embedded time.
        frequencies: usize,
        /// Highest angular frequency of the time embedding, rad per unit time.
        max_frequency: f64,
    },
    /// Convolutional U-Net (SongUNet of EDM, arXiv 2206.00364, as DDPM++) conditioned on `s`, `t - s` and the class.
    Unet {
        /// Channels of the first level, before its multiplier.
        channels: usize,
        /// Channels of each level over `channels`; each level has half the resolution of the one before.
        multipliers: Vec<usize>,
        /// Residual blocks of a level on the way down; on the way up there is one more.
        blocks: usize,
        /// Heights of the activations whose blocks attend. The middle of the network always does, once.
        attention: Vec<usize>,
        /// Sinusoids per embedded time.
        frequencies: usize,
        /// Highest angular frequency of the time embedding, rad per unit time.
        max_frequency: f64,
    },
}

impl Architecture {
    /// Name of the kind, as `config.json` has it.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Mlp { .. } => "mlp",
            Self::Dit { .. } => "dit",
            Self::Unet { .. } => "unet",
        }
    }
}

/// Layout, range and classes of the data.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DataSpec {
    /// Name of the data set.
    pub name: String,
    /// Shape of one sample: `[channels, height, width]` or `[d]`.
    pub shape: Vec<usize>,
    /// Smallest and largest value.
    pub range: [f32; 2],
    /// Class names by label; empty for an unconditional model.
    pub classes: Vec<String>,
}

/// The time convention of the weights.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum TimeConvention {
    /// `t = 0` is noise, `t = 1` is data, linear interpolant.
    #[serde(rename = "noise_0_data_1")]
    Noise0Data1,
}

/// How a checkpoint was trained.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TrainingRecord {
    /// Objective, for example `flow_matching` or `lmd`.
    pub objective: String,
    /// Optimiser steps taken.
    pub steps: u64,
    /// Samples seen.
    pub samples: u64,
    /// Decay of the exponential moving average whose weights these are.
    pub ema_decay: f64,
    /// The recipe, verbatim TOML.
    pub recipe: String,
    /// Content hash of the teacher, for a distilled model.
    pub teacher: Option<String>,
}

/// What the file of weights must be. The default belongs to weights that are not written yet.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WeightsRecord {
    /// Number of weights.
    pub parameters: u64,
    /// BLAKE3 of `model.safetensors`, in hexadecimal.
    pub blake3: String,
}

#[cfg(test)]
pub(super) mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::domain::{QualityRow, Sampler};

    /// A manifest that breaks no bound.
    pub(in crate::checkpoint) fn example() -> Manifest {
        Manifest {
            schema_version: SCHEMA_VERSION,
            description: "clothes".into(),
            architecture: Architecture::Dit {
                patch: 2,
                width: 64,
                depth: 2,
                heads: 4,
                mlp_ratio: 4,
                frequencies: 16,
                max_frequency: 100.5,
            },
            data: DataSpec {
                name: "fashion-mnist".into(),
                shape: vec![1, 28, 28],
                range: [-1.0, 1.0],
                classes: vec!["bag".into(), "boot".into()],
            },
            noise_scale: 1.0,
            time_convention: TimeConvention::Noise0Data1,
            guidance: Guidance::None,
            time_pairs: TimePairs::Triangle,
            training: TrainingRecord {
                objective: "lmd".into(),
                steps: 10,
                samples: 1000,
                ema_decay: 0.999,
                recipe: "seed = 1".into(),
                teacher: Some("ab".repeat(32)),
            },
            weights: WeightsRecord { parameters: 12, blake3: "0f".repeat(32) },
            quality: None,
            grids: BTreeMap::new(),
        }
    }

    fn parse(text: &str) -> Result<Manifest> {
        Manifest::parse(text.as_bytes(), Path::new("config.json"))
    }

    fn problem(text: &str) -> String {
        parse(text).err().map(|e| e.to_string()).unwrap_or_default()
    }

    fn json() -> String {
        example().to_json(Path::new("config.json")).unwrap()
    }

    #[test]
    fn it_reads_what_it_writes() {
        assert_eq!(parse(&json()).unwrap(), example());
        let info = example().info(ModelId { name: "clothes".into(), version: 2 });
        assert_eq!((info.architecture.as_str(), info.elements(), info.parameters), ("dit", 784, 12));
    }

    /// What was measured of a model is an optional part: older files do not have it.
    #[test]
    fn findings_are_read_back_and_may_be_absent() {
        assert!(!json().contains("quality") && !json().contains("grids"));
        let row = QualityRow { sampler: Sampler::FlowMap, steps: 4, evaluations: 4, value: 0.25 };
        let (evaluator, measure) = ("flowmap 1".to_owned(), "KL".to_owned());
        let quality = Some(Quality { evaluator, measure, floor: Some(0.009), samples: 64, rows: vec![row] });
        let found = Manifest { quality, grids: BTreeMap::from([(2, vec![0.0, 0.3, 1.0])]), ..example() };
        let text = found.to_json(Path::new("config.json")).unwrap();
        assert_eq!(parse(&text).unwrap(), found);
        let info = found.info(ModelId { name: "clothes".into(), version: 2 });
        assert_eq!((info.quality, info.grids), (found.quality, vec![TimeGrid::new(vec![0.0, 0.3, 1.0]).unwrap()]));
        for (from, to, expected) in [
            ("\"measure\"", "\"meter\"", "unknown field `meter`"),
            ("\"value\": 0.25", "\"value\": 0.25, \"best\": true", "unknown field `best`"),
            ("\"2\": [", "\"3\": [", "grids.3 has 2 steps"),
            ("0.3,", "1.3,", "grids.2"),
            ("\"steps\": 4", "\"steps\": 0", "quality.rows.steps 0"),
        ] {
            let changed = text.replace(from, to);
            assert!(changed != text && problem(&changed).contains(expected), "{}", problem(&changed));
        }
    }

    #[test]
    fn the_schema_version_is_judged_before_anything_else() {
        let later = r#"{"schema_version": 7, "novelty": true}"#;
        assert!(problem(later).contains("schema version 7 is not the one read here, 1"));
        assert!(problem("{}").contains("no `schema_version`") && problem("[").contains("is not JSON"));
    }

    #[test]
    fn unknown_missing_and_doubled_fields_are_refused_at_any_depth() {
        for (from, to, expected) in [
            ("\"noise_scale\"", "\"noise\"", "unknown field `noise`"),
            ("\"patch\": 2,", "", "missing field `patch`"),
            ("\"patch\": 2,", "\"patch\": 2, \"patch\": 2,", "duplicate field `patch`"),
            ("\"steps\": 10,", "\"steps\": 10, \"steps\": 10,", "duplicate field `steps`"),
            ("\"kind\": \"none\"", "\"kind\": \"none\", \"max\": 3", "unknown field `guidance.max`"),
            ("\"kind\": \"dit\"", "\"kind\": \"gan\"", "unknown variant `gan`"),
            ("\"patch\": 2", "\"patch\": 3", "patch"),
        ] {
            let text = json().replace(from, to);
            assert_ne!(text, json(), "{from}");
            assert!(problem(&text).contains(expected), "{}", problem(&text));
        }
    }

    proptest! {
        #[test]
        fn a_changed_byte_is_an_error_or_a_legal_manifest(at in 0usize..2000, byte in any::<u8>()) {
            let mut bytes = json().into_bytes();
            let at = at % bytes.len();
            bytes[at] = byte;
            if let Ok(manifest) = Manifest::parse(&bytes, Path::new("config.json")) {
                let again = manifest.to_json(Path::new("config.json"));
                prop_assert_eq!(parse(&again.unwrap()).unwrap(), manifest);
            }
        }
    }
}
