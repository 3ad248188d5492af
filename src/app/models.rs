//! From a repository to a catalogue and the recipe of its engine.

use std::sync::Arc;

use candle_core::Device as Candle;

use crate::api::Catalogue;
use crate::checkpoint::{Checkpoint, Repository};
use crate::config::{Config, Device, Gpu, Models, Precision};
use crate::domain::{ModelId, ModelInfo, ModelRef};
use crate::engine::{DeviceEngine, Engine, Loaded};
use crate::error::{Error, Result};
use crate::model::{self, Executable};

/// The embedded model that is used where nobody names one.
pub const EMBEDDED_DEFAULT: &str = "fashion-mnist";

/// Makes the engine on the thread that will own it: a device is touched by no other.
pub type EngineMaker = Box<dyn FnOnce() -> Result<Box<dyn Engine>> + Send>;

/// What a server serves.
pub struct Parts {
    /// The models.
    pub catalogue: Catalogue,
    /// The engines for these models, by the same keys: one for each worker.
    pub engines: Vec<EngineMaker>,
}

impl Parts {
    /// Reads the configured models; blocks while it does.
    ///
    /// # Errors
    /// [`Error::Config`] when a configured model does not exist, [`Error::File`] when one cannot be read.
    pub fn load(config: &Config) -> Result<Self> {
        let repository = match &config.models.repository {
            Some(root) => Repository::open(root)?,
            None => Repository::embedded(),
        };
        let ids = chosen(&repository, &config.models)?;
        let checkpoints = ids.iter().map(|id| repository.load(id)).collect::<Result<Vec<_>>>()?;
        let default = default(&config.models, &ids);
        let info = |(id, checkpoint): (ModelId, &Checkpoint)| checkpoint.manifest.info(id);
        let infos: Arc<[ModelInfo]> = ids.into_iter().zip(&checkpoints).map(info).collect();
        let catalogue = Catalogue::new(Arc::clone(&infos), &default).map_err(|error| {
            Error::Config(vec![format!("models.default: {error}; set it to one of these, or to \"\"")])
        })?;
        let checkpoints: Arc<[Checkpoint]> = checkpoints.into();
        let replicas = config.engine.replicas.get();
        let threads = (config.engine.threads.get() / replicas).max(1);
        let places = config.engine.devices.iter().flat_map(|&device| std::iter::repeat_n(device, replicas));
        let kind = Kind { threads, gpu: options(config.engine.gpu) };
        let engines = places.map(|device| engine(device, kind, &checkpoints, &infos)).collect();
        Ok(Self { catalogue, engines })
    }
}

/// How an engine computes.
#[derive(Clone, Copy)]
struct Kind {
    /// On a CPU.
    threads: usize,
    gpu: model::Options,
}

fn options(gpu: Gpu) -> model::Options {
    let precision = match gpu.precision {
        Precision::F32 => model::device::Precision::F32,
        Precision::Bf16 => model::device::Precision::Bf16,
    };
    model::Options { precision, graphs: gpu.graphs, fixed_rows: gpu.fixed_rows }
}

/// Makes an engine for these checkpoints on `device`.
fn engine(device: Device, kind: Kind, checkpoints: &Arc<[Checkpoint]>, infos: &Arc<[ModelInfo]>) -> EngineMaker {
    let (checkpoints, infos) = (Arc::clone(checkpoints), Arc::clone(infos));
    Box::new(move || {
        let device = open(device)?;
        let load = |(checkpoint, info): (&Checkpoint, &ModelInfo)| {
            let net = match &device {
                Candle::Cpu => model::load(checkpoint, &device)?,
                _ => Executable::OnDevice(Box::new(model::load_on(checkpoint, &device, kind.gpu)?)),
            };
            Ok(Loaded { net, info: info.clone() })
        };
        let loaded = checkpoints.iter().zip(infos.iter()).map(load).collect::<Result<Vec<_>>>()?;
        Ok(Box::new(DeviceEngine::new(loaded, device, kind.threads)?) as Box<dyn Engine>)
    })
}

/// The model for requests without a name; the catalogue chooses where this names none either.
fn default(models: &Models, loaded: &[ModelId]) -> ModelRef {
    let is_preferred = |id: &ModelId| models.repository.is_none() && id.name == EMBEDDED_DEFAULT;
    match models.default == ModelRef::default() && loaded.iter().any(is_preferred) {
        true => ModelRef { name: Some(EMBEDDED_DEFAULT.into()), version: None },
        false => models.default.clone(),
    }
}

/// The models to load, each once, by name and version.
fn chosen(repository: &Repository, models: &Models) -> Result<Vec<ModelId>> {
    let there = repository.list();
    if there.is_empty() {
        let place =
            models.repository.as_ref().map_or("this program embeds".into(), |root| format!("{} has", root.display()));
        return Err(Error::Config(vec![format!("models.repository: {place} no models; give a folder NAME/VERSION/…")]));
    }
    if models.load.is_empty() {
        let is_latest = |id: &&ModelId| there.iter().all(|other| other.name != id.name || other.version <= id.version);
        return Ok(there.iter().filter(is_latest).cloned().collect());
    }
    let mut problems = Vec::new();
    let mut ids: Vec<ModelId> = Vec::new();
    for reference in &models.load {
        match repository.resolve(reference, None) {
            Ok(id) => ids.push(id),
            Err(error) => problems.push(format!("models.load: {error}")),
        }
    }
    ids.sort();
    ids.dedup();
    if problems.is_empty() { Ok(ids) } else { Err(Error::Config(problems)) }
}

fn open(device: Device) -> Result<Candle> {
    match device {
        Device::Cpu => Ok(Candle::Cpu),
        Device::Cuda(ordinal) => Candle::new_cuda(ordinal)
            .map_err(|e| Error::Config(vec![format!("engine.device = \"cuda:{ordinal}\": cannot be opened: {e}")])),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chosen_default(repository: Option<&str>, default: &str, loaded: &[&str]) -> Option<String> {
        let models = Models { repository: repository.map(Into::into), load: vec![], default: default.parse().unwrap() };
        let ids = loaded.iter().map(|name| ModelId { name: (*name).into(), version: 1 });
        super::default(&models, &ids.collect::<Vec<_>>()).name
    }

    #[test]
    fn without_a_default_the_embedded_one_is_taken_where_it_is_served() {
        let both = ["checkerboard", EMBEDDED_DEFAULT];
        assert_eq!(chosen_default(None, "", &both).as_deref(), Some(EMBEDDED_DEFAULT));
        assert_eq!(chosen_default(None, "checkerboard", &both).as_deref(), Some("checkerboard"));
        assert_eq!(chosen_default(None, "", &["checkerboard"]), None);
        assert_eq!(chosen_default(Some("models"), "", &both), None);
    }
}
