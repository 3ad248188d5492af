//! Models and jobs for this room's tests.

use std::time::Duration;

use super::{Headroom, Limits};
use crate::domain::{Guidance, Job, ModelId, ModelInfo, ModelKey, Priority, Sampler, Source, TimeGrid, TimePairs};

/// A model of samples of one number, under two-call guidance.
pub(crate) fn model(name: &str, version: u32) -> ModelInfo {
    ModelInfo {
        id: ModelId { name: name.into(), version },
        description: String::new(),
        architecture: "toy".into(),
        parameters: 0,
        shape: vec![1],
        value_range: [-1.0, 1.0],
        noise_scale: 1.0,
        classes: vec!["zero".into(), "one".into()],
        guidance: Guidance::TwoCall { max: 8.0 },
        time_pairs: TimePairs::Square,
        objective: "lmd".into(),
        content_hash: String::new(),
        quality: None,
        grids: vec![],
    }
}

/// `images` images in `steps` jumps, without guidance or deadline, that give up nothing.
pub(crate) fn job(model: usize, images: usize, steps: u32) -> Job {
    Job {
        request_id: "test".into(),
        tenant: "".into(),
        priority: Priority::Normal,
        model: ModelKey(model),
        sampler: Sampler::FlowMap,
        grid: TimeGrid::uniform(steps),
        min_steps: steps,
        sources: (0..images).map(|index| Source::noise(0, u32::try_from(index).unwrap(), None)).collect(),
        guidance: 1.0,
        initial: None,
        deadline: None,
        previews: None,
    }
}

/// Limits that only bound the rows: nothing is kept free, given up, shown or kept.
pub(crate) fn limits(max_rows: usize) -> Limits {
    Limits {
        max_rows,
        max_step: Duration::from_secs(3600),
        efficiency: 1.0,
        max_queued_images: 10_000,
        headroom: Headroom { fraction: 0.0, most: Duration::ZERO },
        brown_out: None,
        preview_share: 0.0,
        kept_bytes: 0,
    }
}
