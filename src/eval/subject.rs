//! The networks under evaluation: read from a folder or taken from the program.

use std::path::Path;

use candle_core::{Device, Tensor};
use serde::Deserialize;

use super::generate::Beginnings;
use crate::checkpoint::{Checkpoint, DataSpec, Manifest, Repository};
use crate::data::DataSource;
use crate::domain::{Guidance, ModelRef};
use crate::error::{Error, Result};
use crate::flow::guidance::Guided;
use crate::flow::{Dual, FlowMap};
use crate::model;

/// A network with its manifest.
pub struct Subject {
    /// Folder or name that it came from.
    pub origin: String,
    /// Everything about it but its weights.
    pub manifest: Manifest,
    net: Box<dyn FlowMap>,
    /// The guidance scale that it is evaluated at.
    guidance: f32,
}

impl Subject {
    /// Loads `place`: a checkpoint's folder, else the name of an embedded model, `NAME` or `NAME@VERSION`. It is
    /// evaluated at its default guidance scale.
    ///
    /// # Errors
    /// [`Error::NotFound`] where it is neither; [`Error::File`] where its files are not as they should be.
    pub fn load(place: &str) -> Result<Self> {
        let checkpoint = read(place)?;
        let net = model::load(&checkpoint, &Device::Cpu)?;
        let guidance = checkpoint.manifest.guidance.default_scale();
        Ok(Self { origin: place.to_owned(), manifest: checkpoint.manifest, net: Box::new(net), guidance })
    }

    /// The same as tensors, for its exact derivatives.
    ///
    /// # Errors
    /// As [`Subject::load`].
    pub fn load_eager(place: &str) -> Result<Self> {
        let checkpoint = read(place)?;
        let net = model::load_eager(&checkpoint, &Device::Cpu)?;
        let guidance = checkpoint.manifest.guidance.default_scale();
        Ok(Self { origin: place.to_owned(), manifest: checkpoint.manifest, net, guidance })
    }

    /// What its samples with this `seed` begin with.
    pub fn beginnings(&self, seed: u64) -> Beginnings {
        let DataSpec { shape, classes, .. } = &self.manifest.data;
        Beginnings { seed, shape: shape.clone(), noise_scale: self.manifest.noise_scale, classes: classes.len() }
    }

    /// The data set that it was trained on, as its recipe names it, with its files in `folder` if one is given.
    ///
    /// # Errors
    /// [`Error::File`] where the recorded recipe names none.
    pub fn data(&self, folder: Option<&Path>) -> Result<DataSource> {
        /// What evaluation needs of a recipe; the rest belongs to training.
        #[derive(Deserialize)]
        struct Recorded {
            data: DataSource,
        }
        let recorded: Recorded = toml::from_str(&self.manifest.training.recipe).map_err(|e| {
            let problem = format!("the recorded recipe (training.recipe in config.json) names no data set: {e}");
            Error::file(&self.origin, problem)
        })?;
        Ok(folder.map_or(recorded.data.clone(), |folder| recorded.data.moved(folder)))
    }

    /// The guidance scale that it is evaluated at.
    pub fn guidance(&self) -> f32 {
        self.guidance
    }

    /// This network as the teacher of `student`: at the guidance scale that the student has baked in.
    ///
    /// # Errors
    /// [`Error::Config`] where their samples are not comparable.
    pub fn teaching(mut self, student: &Self) -> Result<Self> {
        let (own, other) = (&self.manifest, &student.manifest);
        let scale = student.guidance;
        let rules = [
            (own.data.shape == other.data.shape, "shape of a sample"),
            (own.data.range == other.data.range, "range of values"),
            (own.data.classes == other.data.classes, "classes"),
            (own.noise_scale == other.noise_scale, "noise scale"),
            (own.guidance.allows(scale), "guidance scale"),
        ];
        let problems: Vec<String> = rules
            .iter()
            .filter(|(same, _)| !same)
            .map(|(_, what)| format!("--teacher: its {what} is not that of --model; their samples cannot be compared"))
            .collect();
        self.guidance = scale;
        if problems.is_empty() { Ok(self) } else { Err(Error::Config(problems)) }
    }
}

impl FlowMap for Subject {
    fn velocity(&self, x: &Dual, s: &Dual, t: &Dual, labels: &Tensor) -> candle_core::Result<Dual> {
        let scale = match self.manifest.guidance {
            Guidance::TwoCall { .. } => f64::from(self.guidance),
            _ => 1.0,
        };
        let null_label = u32::try_from(self.manifest.data.classes.len()).map_err(candle_core::Error::wrap)?;
        Guided { net: self.net.as_ref(), null_label, scale }.velocity(x, s, t, labels)
    }
}

fn read(place: &str) -> Result<Checkpoint> {
    if Path::new(place).is_dir() {
        return Checkpoint::read(Path::new(place));
    }
    let repository = Repository::embedded();
    let neither = |problem: String| Error::NotFound(format!("'{place}' is not a folder, and {problem}"));
    let wanted: ModelRef = place.parse().map_err(|problem| neither(format!("as a model's name it {problem}")))?;
    let id = repository.resolve(&wanted, None).map_err(|e| neither(e.to_string()))?;
    repository.load(&id)
}
