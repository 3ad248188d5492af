//! A server with a real network, small and never trained, and what it must answer.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use candle_core::{DType, Device, Tensor};
use flowmap::app::App;
use flowmap::checkpoint::{
    Architecture, Checkpoint, DataSpec, Manifest, Precision, TimeConvention, TrainingRecord, WeightsRecord,
};
use flowmap::domain::{Guidance, ModelId, ModelInfo, Sampler, TimeGrid, TimePairs};
use flowmap::flow::noise::normal;
use flowmap::flow::sampler::{initial, sample};
use flowmap::model::{self, Initialiser};
use flowmap::shutdown::{Stopper, Stops};
use tempfile::TempDir;

use crate::support::config;

/// Shape of a sample.
pub(crate) const SHAPE: [usize; 3] = [3, 16, 16];
/// Class names.
pub(crate) const CLASSES: [&str; 3] = ["Boot", "Bag", "Coat"];

/// A repository with the single model `small@1`.
pub(crate) struct Repository {
    folder: TempDir,
    manifest: Manifest,
}

impl Repository {
    pub(crate) fn new() -> Self {
        Self::with(TimePairs::Triangle)
    }

    /// The same network, said to have been trained at these pairs of times.
    pub(crate) fn with(time_pairs: TimePairs) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let initialiser = Initialiser::new(3);
        let plan = Manifest { time_pairs, ..manifest() };
        model::build(&plan.architecture, &plan.data, initialiser.builder(DType::F32, &Device::Cpu)).unwrap();
        let weights: BTreeMap<String, Tensor> = (0..).zip(initialiser.vars()).map(perturbed).collect();
        let dir = folder.path().join("small/1");
        let manifest = Checkpoint::write(&dir, plan, &weights, Precision::F32).unwrap();
        Self { folder, manifest }
    }

    pub(crate) fn root(&self) -> &Path {
        self.folder.path()
    }

    /// The checkpoint's folder.
    pub(crate) fn checkpoint(&self) -> PathBuf {
        self.root().join("small/1")
    }

    pub(crate) fn info(&self) -> ModelInfo {
        self.manifest.info(ModelId { name: "small".into(), version: 1 })
    }

    /// The samples of a request without guidance, by the library: one vector an image.
    pub(crate) fn samples(&self, seed: u64, steps: u32, labels: &[u32]) -> Vec<Vec<f32>> {
        let net = model::load(&Checkpoint::read(&self.checkpoint()).unwrap(), &Device::Cpu).unwrap();
        let x = initial(seed, 0..labels.len() as u32, &SHAPE, 1.0, &Device::Cpu).unwrap();
        let labels = Tensor::new(labels, &Device::Cpu).unwrap();
        let end = sample(&net, Sampler::FlowMap, &TimeGrid::uniform(steps), &x, &labels).unwrap();
        end.flatten_from(1).unwrap().to_vec2().unwrap()
    }

    /// Serves it on a free port until the guard is dropped.
    pub(crate) async fn serve(&self) -> Serving {
        self.serve_with(vec![]).await
    }

    /// The same with other settings.
    pub(crate) async fn serve_with(&self, more: Vec<(&'static str, String)>) -> Serving {
        let mut settings = vec![
            ("models.repository", self.root().display().to_string()),
            // Samples of 3 KiB come in three pieces.
            ("server.chunk_bytes", "1024".into()),
        ];
        settings.extend(more);
        let app = App::build(&config(settings)).await.unwrap();
        let address = format!("http://{}", app.grpc_address());
        let (stopper, stops) = Stops::manual();
        tokio::spawn(app.serve(stops));
        Serving { address, stopper }
    }
}

/// A server that stops when this is dropped.
pub(crate) struct Serving {
    pub(crate) address: String,
    stopper: Stopper,
}

impl Drop for Serving {
    fn drop(&mut self) {
        self.stopper.stop();
    }
}

/// Fresh networks end in zeros and would ignore time and class.
fn perturbed((index, (name, var)): (u32, (String, candle_core::Var))) -> (String, Tensor) {
    let noise = Tensor::from_vec(normal(5, index, var.elem_count()), var.dims(), &Device::Cpu).unwrap();
    (name, (var.as_tensor() + (noise * 0.2).unwrap()).unwrap())
}

fn manifest() -> Manifest {
    Manifest {
        schema_version: 1,
        description: "Never trained".into(),
        architecture: Architecture::Dit {
            patch: 4,
            width: 16,
            depth: 1,
            heads: 2,
            mlp_ratio: 2,
            frequencies: 4,
            max_frequency: 10.0,
        },
        data: DataSpec {
            name: "none".into(),
            shape: SHAPE.to_vec(),
            range: [-2.0, 2.0],
            classes: CLASSES.map(String::from).to_vec(),
        },
        noise_scale: 1.0,
        time_convention: TimeConvention::Noise0Data1,
        guidance: Guidance::TwoCall { max: 4.0 },
        time_pairs: TimePairs::Triangle,
        training: TrainingRecord {
            objective: "none".into(),
            steps: 0,
            samples: 0,
            ema_decay: 0.5,
            recipe: "seed = 3\n".into(),
            teacher: None,
        },
        weights: WeightsRecord::default(),
        quality: None,
        grids: std::collections::BTreeMap::new(),
    }
}
