//! Domain → wire: the events of one generation, from what its request said.

use prost::bytes::Bytes;

use super::encode::{Encoded, Encoding};
use super::models::wire_shape;
use super::proto::{NULL_LABEL, micros, v1};
use crate::domain::{Accepted, Digest, Gamma, Image, Job, ModelInfo, Preview, Receipt, Source, StepsReason, Summary};

/// What the events of a request are told with, beside what happens.
#[derive(Debug)]
pub(super) struct Teller {
    /// All but what only the scheduler knows.
    opening: v1::Accepted,
    shape: Vec<u32>,
    /// What all images' receipts have in common.
    receipt: Receipt,
    images: Vec<Origin>,
}

/// Where an image comes from and how far it was to go.
#[derive(Debug)]
struct Origin {
    source: Source,
    steps_asked: u32,
    initial: Option<Digest>,
}

impl Teller {
    /// For the request that became `job` of `model`.
    pub(super) fn new(job: &Job, model: &ModelInfo, encoding: Encoding) -> Self {
        Self {
            opening: opening(job, model, encoding),
            shape: wire_shape(model),
            receipt: Receipt {
                model: model.id.to_string(),
                content_hash: model.content_hash.clone(),
                seed: 0,
                index: 0,
                label: None,
                guidance: job.guidance,
                sampler: job.sampler,
                times: Vec::new(),
                initial_state_digest: None,
                initial_state_noised: job.initial.as_ref().is_some_and(|initial| initial.noised_to.is_some()),
                sample_digest: Digest::of(&[]),
            },
            images: origins(job, model),
        }
    }

    /// The request was taken.
    pub(super) fn accepted(&self, accepted: Accepted) -> v1::Accepted {
        v1::Accepted {
            evaluations: accepted.evaluations,
            queue_position: u32::try_from(accepted.queue_position).unwrap_or(u32::MAX),
            predicted_us: micros(accepted.predicted),
            ..self.opening.clone()
        }
    }

    /// An image is finished, and encoded as `encoded`; the message is still without its data.
    pub(super) fn image(&self, image: Image, encoded: &Encoded) -> v1::Image {
        let receipt = self.receipt(&image, encoded.sample_digest);
        let steps_asked = self.images.get(image.index as usize).map_or(0, |origin| origin.steps_asked);
        v1::Image {
            index: image.index,
            label: wire_label(receipt.label),
            shape: self.shape.clone(),
            output_encoding: self.opening.output_encoding,
            total_bytes: encoded.data.len() as u64,
            data: Bytes::new(),
            steps: u32::try_from(image.times.len().saturating_sub(1)).unwrap_or(u32::MAX),
            evaluations: image.evaluations,
            queue_us: micros(image.queued),
            compute_us: micros(image.computed),
            steps_asked,
            steps_reason: v1::StepsReason::from(image.reason).into(),
            digest: Bytes::copy_from_slice(encoded.digest.as_bytes()),
            receipt: Some(Receipt { times: image.times, ..receipt }.into()),
        }
    }

    /// An image can be shown in `total_bytes`; the message is still without its data.
    pub(super) fn preview(&self, preview: &Preview, total_bytes: usize) -> v1::Preview {
        v1::Preview {
            index: preview.index,
            evaluations: preview.evaluations,
            shape: self.shape.clone(),
            output_encoding: self.opening.output_encoding,
            total_bytes: total_bytes as u64,
            data: Bytes::new(),
        }
    }

    /// The receipt of an image, but for its times.
    fn receipt(&self, image: &Image, sample_digest: Digest) -> Receipt {
        let common = Receipt { sample_digest, ..self.receipt.clone() };
        // The scheduler makes no other images than those of the job.
        let Some(Origin { source, initial, .. }) = self.images.get(image.index as usize) else { return common };
        let Source { seed, index, label, .. } = *source;
        Receipt { seed, index, label, initial_state_digest: *initial, ..common }
    }
}

/// All images were made.
pub(super) fn summary(summary: Summary) -> v1::Summary {
    v1::Summary {
        images: summary.images,
        evaluations: summary.evaluations,
        total_us: micros(summary.total),
        full_images: summary.full,
    }
}

fn opening(job: &Job, model: &ModelInfo, encoding: Encoding) -> v1::Accepted {
    v1::Accepted {
        request_id: job.request_id.to_string(),
        model: model.id.to_string(),
        times: job.grid.times().to_vec(),
        sampler: v1::Sampler::from(job.sampler).into(),
        gamma: job.sampler.gamma().map(Gamma::value),
        evaluations: 0,
        guidance: job.guidance,
        seed: job.sources.first().map_or(0, |source| source.seed),
        output_encoding: encoding.to_wire().into(),
        queue_position: 0,
        min_steps: job.min_steps,
        predicted_us: 0,
    }
}

fn origins(job: &Job, model: &ModelInfo) -> Vec<Origin> {
    let states = job.initial.as_ref().map_or(&[][..], |initial| &*initial.states);
    let digests: Vec<Digest> = states.chunks(model.elements().max(1)).map(Digest::of_numbers).collect();
    let origin = |(place, source): (usize, &Source)| {
        let own = source.walked.as_deref().and_then(|walked| job.grid.after(walked));
        let steps = own.as_ref().unwrap_or(&job.grid).steps();
        Origin {
            source: source.clone(),
            steps_asked: u32::try_from(steps).unwrap_or(u32::MAX),
            initial: if digests.len() == 1 { digests.first() } else { digests.get(place) }.copied(),
        }
    };
    job.sources.iter().enumerate().map(origin).collect()
}

fn wire_label(label: Option<u32>) -> i32 {
    label.and_then(|label| i32::try_from(label).ok()).unwrap_or(NULL_LABEL)
}

impl From<StepsReason> for v1::StepsReason {
    fn from(reason: StepsReason) -> Self {
        match reason {
            StepsReason::Asked => Self::Asked,
            StepsReason::Deadline => Self::Deadline,
            StepsReason::Overload => Self::Overload,
            StepsReason::Shutdown => Self::Shutdown,
        }
    }
}

impl From<Receipt> for v1::Receipt {
    fn from(receipt: Receipt) -> Self {
        let bytes = |digest: Digest| Bytes::copy_from_slice(digest.as_bytes());
        Self {
            model: receipt.model,
            content_hash: receipt.content_hash,
            seed: receipt.seed,
            index: receipt.index,
            label: wire_label(receipt.label),
            guidance: receipt.guidance,
            sampler: v1::Sampler::from(receipt.sampler).into(),
            gamma: receipt.sampler.gamma().map(Gamma::value),
            initial_state_noised: receipt.initial_state_noised,
            times: receipt.times,
            initial_state_digest: receipt.initial_state_digest.map(bytes).unwrap_or_default(),
            sample_digest: bytes(receipt.sample_digest),
        }
    }
}
