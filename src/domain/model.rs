//! What a loaded model is and what may be asked of it.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::{Quality, TimeGrid, TimePairs};

/// Name and version of a checkpoint, printed `name@version`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ModelId {
    /// Folder name in the model repository.
    pub name: String,
    /// Version, a positive number; the highest is the latest.
    pub version: u32,
}

impl fmt::Display for ModelId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}@{}", self.name, self.version)
    }
}

/// How a client names a model: nothing (the default one), a name (its latest version), or `name@version`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ModelRef {
    /// The name, if one was given.
    pub name: Option<String>,
    /// The version, if one was given.
    pub version: Option<u32>,
}

impl FromStr for ModelRef {
    type Err = String;

    fn from_str(s: &str) -> Result<Self, Self::Err> {
        if s.is_empty() {
            return Ok(Self::default());
        }
        let (name, version) = match s.split_once('@') {
            None => (s, None),
            Some((name, version)) => {
                let parsed = version.parse::<u32>().ok().filter(|v| *v > 0);
                (name, Some(parsed.ok_or_else(|| format!("version '{version}' is not a positive number"))?))
            }
        };
        if name.is_empty() {
            return Err("is '@version' without a name".into());
        }
        Ok(Self { name: Some(name.into()), version })
    }
}

/// Index of a model in the server's catalogue: cheap to copy, valid as long as the server runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ModelKey(pub usize);

/// How a checkpoint takes classifier-free guidance.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum Guidance {
    /// Not at all: only scale 1 is legal.
    None,
    /// The scale was fixed in training; only that scale is legal and costs nothing.
    Baked {
        /// The scale.
        scale: f32,
    },
    /// The network takes the scale as an input, `1 ..= max`.
    Input {
        /// The largest scale seen in training.
        max: f32,
    },
    /// `v_null + w (v_class - v_null)`: two rows in the forward where `w ≠ 1`.
    TwoCall {
        /// The largest scale that is accepted.
        max: f32,
    },
}

impl Guidance {
    /// The scale used where a request names none.
    pub fn default_scale(self) -> f32 {
        match self {
            Self::Baked { scale } => scale,
            Self::None | Self::Input { .. } | Self::TwoCall { .. } => 1.0,
        }
    }

    /// Whether `scale` may be asked for.
    pub fn allows(self, scale: f32) -> bool {
        match self {
            Self::None => scale == 1.0,
            Self::Baked { scale: baked } => scale == baked,
            Self::Input { max } => (1.0..=max).contains(&scale),
            Self::TwoCall { max } => (0.0..=max).contains(&scale),
        }
    }

    /// Rows that one evaluation of one image takes in a forward.
    pub fn rows(self, scale: f32, label: Option<u32>) -> usize {
        let twice = matches!(self, Self::TwoCall { .. }) && scale != 1.0 && label.is_some();
        if twice { 2 } else { 1 }
    }
}

/// A model as its users see it.
#[derive(Debug, Clone)]
pub struct ModelInfo {
    /// Name and version.
    pub id: ModelId,
    /// One sentence for people.
    pub description: String,
    /// Kind of network, for example `dit`.
    pub architecture: String,
    /// Number of weights.
    pub parameters: u64,
    /// Shape of one sample: `[channels, height, width]` for images, `[d]` for points.
    pub shape: Vec<usize>,
    /// Smallest and largest value of the data, mapped to 0 and 255 in an image.
    pub value_range: [f32; 2],
    /// Standard deviation of the noise at `t = 0`.
    pub noise_scale: f32,
    /// Class names by label; empty for an unconditional model.
    pub classes: Vec<String>,
    /// How guidance is taken.
    pub guidance: Guidance,
    /// Legal time pairs.
    pub time_pairs: TimePairs,
    /// Objective that trained it, for example `lmd`.
    pub objective: String,
    /// BLAKE3 of the weights' file, in hexadecimal.
    pub content_hash: String,
    /// How good it was found to be, where that was recorded.
    pub quality: Option<Quality>,
    /// Grids that were found better than uniform ones, one for a number of steps.
    pub grids: Vec<TimeGrid>,
}

impl ModelInfo {
    /// Numbers in one sample.
    pub fn elements(&self) -> usize {
        self.shape.iter().product()
    }

    /// Whether a sample can be written as a picture (1 or 3 channels).
    pub fn is_image(&self) -> bool {
        matches!(self.shape.as_slice(), [1 | 3, _, _])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn model_refs_parse() {
        assert_eq!("".parse(), Ok(ModelRef::default()));
        assert_eq!("a".parse(), Ok(ModelRef { name: Some("a".into()), version: None }));
        assert_eq!("a@2".parse(), Ok(ModelRef { name: Some("a".into()), version: Some(2) }));
        for bad in ["@1", "a@", "a@0", "a@-1", "a@x", "a@99999999999"] {
            assert!(bad.parse::<ModelRef>().is_err(), "{bad}");
        }
    }

    #[test]
    fn guidance_costs_a_second_row_only_where_it_acts() {
        let two = Guidance::TwoCall { max: 4.0 };
        assert_eq!((two.rows(2.0, Some(3)), two.rows(1.0, Some(3)), two.rows(2.0, None)), (2, 1, 1));
        assert!(two.allows(4.0) && !two.allows(4.1) && !two.allows(f32::NAN));
        assert!(Guidance::None.allows(1.0) && !Guidance::None.allows(2.0));
    }
}
