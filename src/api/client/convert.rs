//! Wire → domain, as a client sees it: the mirror of what the server writes.

use std::time::Duration;

use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt};

use super::v1;
use crate::api::proto::NULL_LABEL;
use crate::api::status::{CLIENT_STALLED, DEADLINE_INFEASIBLE, PREDICTED_WAIT, REASON_DOMAIN};
use crate::domain::{
    Digest, Gamma, Guidance, ModelId, ModelInfo, Quality, QualityRow, Receipt, Sampler, StepsReason, TimeGrid,
    TimePairs,
};
use crate::error::{Error, Result, Violation};

/// When to come back to a full server that does not say.
const RETRY: Duration = Duration::from_secs(1);
/// How [`Error::Unavailable`] begins: the server has said it already.
const UNAVAILABLE: &str = "unavailable: ";

/// The error that a server told as `status`.
pub(super) fn error(status: &Status) -> Error {
    let (details, message) = (status.get_error_details(), status.message());
    let retry_after = details.retry_info().and_then(|info| info.retry_delay);
    match status.code() {
        Code::InvalidArgument => Error::Invalid(violations(&details, message)),
        Code::NotFound => Error::NotFound(message.into()),
        Code::ResourceExhausted => exhausted(&details, retry_after.unwrap_or(RETRY)),
        Code::DeadlineExceeded => Error::DeadlineExceeded,
        Code::Cancelled => Error::Cancelled,
        Code::Unavailable => Error::Unavailable(unavailable(message, retry_after)),
        Code::Internal => Error::Compute(internal(&details, message)),
        code => Error::Unavailable(format!("the server answered {code:?}: {message}")),
    }
}

/// What there was too little of.
fn exhausted(details: &ErrorDetails, retry_after: Duration) -> Error {
    let info = details.error_info().filter(|info| info.domain == REASON_DOMAIN);
    match info.map(|info| info.reason.as_str()) {
        Some(CLIENT_STALLED) => Error::Stalled,
        Some(DEADLINE_INFEASIBLE) => {
            let told = info.and_then(|info| info.metadata.get(PREDICTED_WAIT)?.parse().ok());
            Error::Overloaded { retry_after, predicted: told.map(Duration::from_millis) }
        }
        _ => Error::Overloaded { retry_after, predicted: None },
    }
}

fn violations(details: &ErrorDetails, message: &str) -> Vec<Violation> {
    let told = details.bad_request().map(|bad| bad.field_violations.as_slice()).unwrap_or_default();
    match told {
        [] => vec![Violation::new("request", message)],
        told => told.iter().map(|v| Violation::new(&v.field, &v.description)).collect(),
    }
}

fn unavailable(message: &str, retry_after: Option<Duration>) -> String {
    let why = message.strip_prefix(UNAVAILABLE).unwrap_or(message);
    match retry_after {
        Some(delay) => format!("{why}; retry in {} ms", delay.as_millis()),
        None => why.into(),
    }
}

fn internal(details: &ErrorDetails, message: &str) -> String {
    match details.request_info() {
        Some(info) if !info.request_id.is_empty() => format!("{message}, {}", info.request_id),
        _ => message.into(),
    }
}

/// An answer that the contract does not allow.
pub(super) fn breach(what: &str) -> Error {
    Error::Compute(format!("the server's answer breaks the contract of flowmap.v1: {what}"))
}

/// A model as its users see it.
///
/// # Errors
/// [`Error::Compute`] where it takes guidance or times in a way that this program does not know.
pub(super) fn model(model: v1::Model) -> Result<ModelInfo> {
    let id = ModelId { name: model.name.clone(), version: model.version };
    let unknown = |what: &str| breach(&format!("{id} has {what} that this program does not know; use a newer one"));
    let guidance = guidance(&model).ok_or_else(|| unknown("a guidance mode"))?;
    let time_pairs = time_pairs(&model).ok_or_else(|| unknown("time pairs"))?;
    Ok(ModelInfo {
        guidance,
        time_pairs,
        description: model.description,
        architecture: model.architecture,
        parameters: model.parameters,
        shape: model.shape.iter().map(|&side| side as usize).collect(),
        value_range: [model.value_min, model.value_max],
        noise_scale: model.noise_scale,
        classes: model.classes,
        objective: model.objective,
        content_hash: model.content_hash,
        quality: model.quality.map(quality).transpose()?,
        grids: model.tuned_grids.into_iter().filter_map(|grid| TimeGrid::new(grid.times).ok()).collect(),
        id,
    })
}

fn quality(quality: v1::Quality) -> Result<Quality> {
    let row = |row: &v1::QualityRow| {
        let v1::QualityRow { steps, evaluations, value, gamma, .. } = *row;
        Ok(QualityRow { sampler: sampler(row.sampler(), gamma)?, steps, evaluations, value })
    };
    let rows = quality.rows.iter().map(row).collect::<Result<_>>()?;
    let v1::Quality { evaluator, measure, floor, samples, .. } = quality;
    Ok(Quality { evaluator, measure, floor, samples, rows })
}

fn guidance(model: &v1::Model) -> Option<Guidance> {
    match model.guidance_mode() {
        v1::GuidanceMode::Unspecified => None,
        v1::GuidanceMode::None => Some(Guidance::None),
        v1::GuidanceMode::Baked => Some(Guidance::Baked { scale: model.guidance_default }),
        v1::GuidanceMode::Input => Some(Guidance::Input { max: model.guidance_max }),
        v1::GuidanceMode::TwoCall => Some(Guidance::TwoCall { max: model.guidance_max }),
    }
}

fn time_pairs(model: &v1::Model) -> Option<TimePairs> {
    match model.time_pairs() {
        v1::TimePairs::Unspecified => None,
        v1::TimePairs::Diagonal => Some(TimePairs::Diagonal),
        v1::TimePairs::Triangle => Some(TimePairs::Triangle),
        v1::TimePairs::Square => Some(TimePairs::Square),
        v1::TimePairs::End => Some(TimePairs::End),
        v1::TimePairs::Dyadic => Some(TimePairs::Dyadic { levels: model.dyadic_levels }),
    }
}

/// The numbers of an image that was asked for as [`v1::OutputEncoding::Float32`], row-major.
///
/// # Errors
/// [`Error::Compute`] where the image is encoded otherwise or does not fill its shape.
pub fn floats(image: &v1::Image) -> Result<Vec<f32>> {
    numbers(image.index, image.output_encoding(), &image.shape, &image.data)
}

/// The numbers of a preview of such an image.
///
/// # Errors
/// As [`floats`].
pub fn preview_floats(preview: &v1::Preview) -> Result<Vec<f32>> {
    numbers(preview.index, preview.output_encoding(), &preview.shape, &preview.data)
}

fn numbers(index: u32, encoding: v1::OutputEncoding, shape: &[u32], data: &[u8]) -> Result<Vec<f32>> {
    if encoding != v1::OutputEncoding::Float32 {
        return Err(breach(&format!("image {index} is not of float32")));
    }
    let elements = shape.iter().try_fold(1usize, |n, &side| n.checked_mul(side as usize));
    let (numbers, rest) = data.as_chunks();
    if !rest.is_empty() || elements != Some(numbers.len()) {
        let bytes = data.len();
        return Err(breach(&format!("image {index} has {bytes} bytes and the shape {shape:?}")));
    }
    Ok(numbers.iter().map(|&bytes| f32::from_le_bytes(bytes)).collect())
}

impl TryFrom<v1::Receipt> for Receipt {
    type Error = Error;

    fn try_from(receipt: v1::Receipt) -> Result<Self> {
        let digest = |bytes: &[u8]| Digest::from_bytes(bytes).ok_or_else(|| breach("a digest of another length"));
        let label = match receipt.label {
            NULL_LABEL => None,
            label => Some(u32::try_from(label).map_err(|_| breach("a label below -1"))?),
        };
        let initial = Some(&receipt.initial_state_digest).filter(|bytes| !bytes.is_empty());
        Ok(Self {
            label,
            sampler: sampler(receipt.sampler(), receipt.gamma)?,
            initial_state_noised: receipt.initial_state_noised,
            initial_state_digest: initial.map(|bytes| digest(bytes)).transpose()?,
            sample_digest: digest(&receipt.sample_digest)?,
            model: receipt.model,
            content_hash: receipt.content_hash,
            seed: receipt.seed,
            index: receipt.index,
            guidance: receipt.guidance,
            times: receipt.times,
        })
    }
}

/// A sampler and its gamma.
///
/// # Errors
/// [`Error::Compute`] for a sampler that this program does not know, and a gamma that is none.
pub fn sampler(sampler: v1::Sampler, gamma: Option<f32>) -> Result<Sampler> {
    match sampler {
        v1::Sampler::Unspecified => Err(breach("a sampler that this program does not know")),
        v1::Sampler::FlowMap => Ok(Sampler::FlowMap),
        v1::Sampler::Euler => Ok(Sampler::Euler),
        v1::Sampler::Heun => Ok(Sampler::Heun),
        v1::Sampler::Gamma => {
            let gamma = gamma.ok_or_else(|| breach("gamma-sampling without a gamma"))?;
            Gamma::new(gamma).map(Sampler::Gamma).map_err(|problem| breach(&format!("a gamma that {problem}")))
        }
    }
}

impl TryFrom<v1::StepsReason> for StepsReason {
    type Error = Error;

    fn try_from(reason: v1::StepsReason) -> Result<Self> {
        match reason {
            v1::StepsReason::Unspecified => Err(breach("a reason that this program does not know")),
            v1::StepsReason::Asked => Ok(Self::Asked),
            v1::StepsReason::Deadline => Ok(Self::Deadline),
            v1::StepsReason::Overload => Ok(Self::Overload),
            v1::StepsReason::Shutdown => Ok(Self::Shutdown),
        }
    }
}

#[cfg(test)]
mod tests {
    use prost::bytes::Bytes;

    use super::*;
    use crate::api::status::status;

    fn there_and_back(told: &Error) -> String {
        error(&status(told, "r1")).to_string()
    }

    #[test]
    fn a_client_reads_what_the_server_meant() {
        for told in [
            Error::Invalid(vec![Violation::new("count", "is 0"), Violation::new("labels[3]", "is 12")]),
            Error::NotFound("model 'a' is not loaded".into()),
            Error::Overloaded { retry_after: Duration::from_millis(40), predicted: None },
            Error::Overloaded { retry_after: Duration::from_millis(40), predicted: Some(Duration::from_millis(1234)) },
            Error::Stalled,
            Error::DeadlineExceeded,
            Error::Cancelled,
        ] {
            assert_eq!(there_and_back(&told), told.to_string());
        }
        let stopping = Error::Unavailable("the server is stopping".into());
        assert_eq!(there_and_back(&stopping), format!("{stopping}; retry in 1000 ms"));
        assert!(there_and_back(&Error::Compute("secret".into())).ends_with("under this request's id, r1"));
    }

    #[test]
    fn receipts_survive_the_way_there_and_back() {
        let digest = Digest::of(b"a");
        for (label, initial_state_digest) in [(None, None), (Some(3), Some(digest))] {
            let receipt = Receipt {
                model: "a@1".into(),
                content_hash: "00".into(),
                seed: u64::MAX,
                index: 5,
                label,
                guidance: 1.5,
                sampler: Sampler::ALL[2 + usize::from(label.is_some())],
                times: vec![0.0, 0.1, 1.0],
                initial_state_digest,
                initial_state_noised: label.is_some(),
                sample_digest: digest,
            };
            assert_eq!(Receipt::try_from(v1::Receipt::from(receipt.clone())).unwrap(), receipt);
        }
        assert!(Receipt::try_from(v1::Receipt::default()).is_err());
    }

    #[test]
    fn a_status_of_another_kind_of_server_is_told_as_it_is() {
        let text = error(&Status::unimplemented("no such method")).to_string();
        assert!(text.contains("Unimplemented: no such method"), "{text}");
        let bare = error(&Status::invalid_argument("message too large")).to_string();
        assert_eq!(bare, "invalid request: request: message too large");
    }

    #[test]
    fn only_whole_float_images_are_numbers() {
        let image = |encoding: v1::OutputEncoding, shape: &[u32], bytes: &'static [u8]| v1::Image {
            output_encoding: encoding.into(),
            shape: shape.to_vec(),
            data: Bytes::from_static(bytes),
            ..Default::default()
        };
        let float = v1::OutputEncoding::Float32;
        assert_eq!(floats(&image(float, &[2, 1], &[0, 0, 128, 63, 0, 0, 0, 192])).unwrap(), [1.0, -2.0]);
        assert!(floats(&image(v1::OutputEncoding::Uint8, &[1], &[0; 4])).is_err());
        assert!(floats(&image(float, &[2], &[0; 4])).is_err());
        assert!(floats(&image(float, &[1], &[0; 5])).is_err());
        assert!(floats(&image(float, &[u32::MAX; 3], &[0; 4])).is_err());
    }
}
