//! The catalogue on the wire: `ListModels` and `GetModel`.

use super::catalogue::Catalogue;
use super::proto::v1;
use super::validate::model_reference;
use crate::domain::{Guidance, ModelInfo, ModelKey, Quality, QualityRow, TimePairs};
use crate::error::{Error, Result};

/// Every loaded model, the default one first.
pub(super) fn list(catalogue: &Catalogue) -> v1::ListModelsResponse {
    v1::ListModelsResponse { models: catalogue.keys().into_iter().map(|key| describe(catalogue, key)).collect() }
}

/// One loaded model.
///
/// # Errors
/// [`Error::Invalid`] for a malformed name, [`Error::NotFound`] for one that is not loaded.
pub(super) fn find(catalogue: &Catalogue, request: &v1::GetModelRequest) -> Result<v1::GetModelResponse> {
    let reference = model_reference(&request.model).map_err(|violation| Error::Invalid(vec![violation]))?;
    let key = catalogue.resolve(&reference)?;
    Ok(v1::GetModelResponse { model: Some(describe(catalogue, key)) })
}

fn describe(catalogue: &Catalogue, key: ModelKey) -> v1::Model {
    let model = catalogue.info(key);
    let (guidance_mode, guidance_max) = guidance(model.guidance);
    v1::Model {
        name: model.id.name.clone(),
        version: model.id.version,
        is_default: key == catalogue.default_model(),
        description: model.description.clone(),
        architecture: model.architecture.clone(),
        parameters: model.parameters,
        shape: wire_shape(model),
        value_min: model.value_range[0],
        value_max: model.value_range[1],
        noise_scale: model.noise_scale,
        classes: model.classes.clone(),
        guidance_mode: guidance_mode.into(),
        guidance_default: model.guidance.default_scale(),
        guidance_max,
        time_pairs: time_pairs(model.time_pairs).into(),
        dyadic_levels: dyadic_levels(model.time_pairs),
        objective: model.objective.clone(),
        content_hash: model.content_hash.clone(),
        quality: model.quality.as_ref().map(quality),
        tuned_grids: model.grids.iter().map(|grid| v1::TimeGrid { times: grid.times().to_vec() }).collect(),
    }
}

fn quality(quality: &Quality) -> v1::Quality {
    let row = |row: &QualityRow| v1::QualityRow {
        sampler: v1::Sampler::from(row.sampler).into(),
        steps: row.steps,
        evaluations: row.evaluations,
        value: row.value,
        gamma: row.sampler.gamma().map(f32::from),
    };
    v1::Quality {
        evaluator: quality.evaluator.clone(),
        measure: quality.measure.clone(),
        floor: quality.floor,
        samples: quality.samples,
        rows: quality.rows.iter().map(row).collect(),
    }
}

/// A sample's shape on the wire. Dimensions of a loaded model are far below 2³².
pub(super) fn wire_shape(model: &ModelInfo) -> Vec<u32> {
    model.shape.iter().map(|&dimension| dimension as u32).collect()
}

fn guidance(guidance: Guidance) -> (v1::GuidanceMode, f32) {
    match guidance {
        Guidance::None => (v1::GuidanceMode::None, 1.0),
        Guidance::Baked { scale } => (v1::GuidanceMode::Baked, scale),
        Guidance::Input { max } => (v1::GuidanceMode::Input, max),
        Guidance::TwoCall { max } => (v1::GuidanceMode::TwoCall, max),
    }
}

fn time_pairs(pairs: TimePairs) -> v1::TimePairs {
    match pairs {
        TimePairs::Diagonal => v1::TimePairs::Diagonal,
        TimePairs::Triangle => v1::TimePairs::Triangle,
        TimePairs::Square => v1::TimePairs::Square,
        TimePairs::End => v1::TimePairs::End,
        TimePairs::Dyadic { .. } => v1::TimePairs::Dyadic,
    }
}

fn dyadic_levels(pairs: TimePairs) -> u32 {
    match pairs {
        TimePairs::Dyadic { levels } => levels,
        TimePairs::Diagonal | TimePairs::Triangle | TimePairs::Square | TimePairs::End => 0,
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::api::validate::tests::model;
    use crate::domain::{Sampler, TimeGrid};

    #[test]
    fn findings_are_told() {
        let row = QualityRow { sampler: Sampler::Heun, steps: 4, evaluations: 8, value: 0.25 };
        let (evaluator, measure) = ("flowmap 1".to_owned(), "KL".to_owned());
        let quality = Some(Quality { evaluator, measure, floor: Some(0.009), samples: 64, rows: vec![row] });
        let grids = vec![TimeGrid::new(vec![0.0, 0.3, 1.0]).unwrap()];
        let measured = ModelInfo { quality, grids, ..model() };
        let catalogue = Catalogue::new(Arc::new([measured]), &"digits".parse().unwrap()).unwrap();
        let told = list(&catalogue).models.remove(0);
        assert_eq!(told.tuned_grids, [v1::TimeGrid { times: vec![0.0, 0.3, 1.0] }]);
        let told = told.quality.unwrap();
        assert_eq!((told.measure.as_str(), told.floor, told.samples), ("KL", Some(0.009), 64));
        let row =
            v1::QualityRow { sampler: v1::Sampler::Heun.into(), steps: 4, evaluations: 8, value: 0.25, gamma: None };
        assert_eq!(told.rows, [row]);
    }
}
