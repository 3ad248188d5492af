//! Requests that go on from finished images: their receipts, checked against the loaded weights and each other.
//!
//! A receipt comes from outside and may say anything. What is made from it is a function of what it says and of nothing
//! else, so that a wrong one can waste its own request only.

use std::sync::Arc;

use super::{Plan, Reader, model_reference};
use crate::api::catalogue::Catalogue;
use crate::api::proto::v1;
use crate::domain::{Digest, Initial, ModelInfo, ModelKey, Sampler, Source, TimeGrid};
use crate::error::Result;

/// Where finished images are.
const DATA_TIME: f64 = 1.0;

impl<'a> Reader<'a> {
    /// The model of the first receipt, whose version must be stated; the others are compared with it later.
    pub(super) fn continued_model(&mut self, first: &v1::Receipt, catalogue: &Catalogue) -> Result<Option<ModelKey>> {
        let reference = match model_reference(&first.model) {
            Ok(reference) if reference.version.is_some() => reference,
            Ok(_) => {
                self.reject("continue_from[0].model", "must be name@version");
                return Ok(None);
            }
            Err(violation) => {
                self.reject("continue_from[0].model", violation.description);
                return Ok(None);
            }
        };
        let key = catalogue.resolve(&reference)?;
        if !self.request.model.is_empty() {
            match model_reference(&self.request.model) {
                Ok(named) if catalogue.resolve(&named)? == key => (),
                Ok(_) => self.reject("model", format!("the receipts are of {}; leave it out", first.model)),
                Err(violation) => self.violations.push(violation),
            }
        }
        Ok(Some(key))
    }

    /// Images that go on from those of `receipts` along the later times of `grid`.
    pub(super) fn continued(&mut self, receipts: &'a [v1::Receipt], grid: &TimeGrid, model: &ModelInfo) -> Plan {
        self.excluded();
        let receipts = &receipts[..receipts.len().min(self.limits.max_count as usize)];
        let first = &receipts[0];
        let sampler = self.receipts_sampler(first, model);
        if first.guidance.is_finite() {
            self.legal_guidance("continue_from[0].guidance", first.guidance, model);
        } else {
            self.reject("continue_from[0].guidance", format!("is {}, must be finite", first.guidance));
        }
        let mut plan = Plan { sampler, guidance: first.guidance, grid: grid.clone(), sources: Vec::new(), steps: 0 };
        let (mut steps, mut ways) = (0, Vec::with_capacity(receipts.len()));
        for (i, receipt) in receipts.iter().enumerate() {
            self.same_kind(i, receipt, first, model);
            let label = self.label(&format!("continue_from[{i}].label"), receipt.label, model);
            let Some(way) = self.way(i, &receipt.times, grid) else { continue };
            if model.time_pairs.allows(sampler, true) {
                self.legal_continuation(i, sampler, &way, model);
            }
            steps += way.steps() as u64;
            plan.steps = plan.steps.max(u32::try_from(way.steps()).unwrap_or(u32::MAX));
            plan.sources.push(Source { label, walked: walked(&receipt.times), ..source(receipt) });
            ways.push(way);
        }
        self.work("continue_from", u32::try_from(receipts.len()).unwrap_or(u32::MAX), steps, sampler);
        // Where all go the same way, the job says so; else it says what they have in common, the times that come later.
        if let Some(way) = ways.first().filter(|way| ways.iter().all(|other| other == *way)) {
            plan.grid = way.clone();
        }
        plan.steps = plan.steps.max(1);
        plan
    }

    /// What the receipts have, and the request must not repeat.
    fn excluded(&mut self) {
        let v1::GenerateRequest { count, labels, guidance, seed, sampler, gamma, .. } = self.request;
        for (field, is_there) in [
            ("count", count.is_some()),
            ("labels", !labels.is_empty()),
            ("guidance", guidance.is_some()),
            ("seed", seed.is_some()),
            ("sampler", *sampler != v1::Sampler::Unspecified as i32),
            ("gamma", gamma.is_some()),
        ] {
            if is_there {
                self.reject(field, "excludes continue_from, whose receipts have it");
            }
        }
    }

    fn receipts_sampler(&mut self, first: &v1::Receipt, model: &ModelInfo) -> Sampler {
        let field = "continue_from[0].sampler";
        let sampler = self.known_sampler("continue_from[0].", first.sampler, first.gamma);
        match sampler {
            Some(sampler) if model.time_pairs.allows(sampler, true) => (),
            Some(sampler) => {
                let problem = format!("{sampler} is not for several steps of this model");
                self.illegal_sampler(field, &problem, true, model);
            }
            None if first.sampler == v1::Sampler::Unspecified as i32 => self.reject(field, "is missing"),
            None => (),
        }
        sampler.unwrap_or_else(|| model.time_pairs.default_sampler())
    }

    /// Whether a receipt is of the loaded weights and made like the first one.
    fn same_kind(&mut self, i: usize, receipt: &v1::Receipt, first: &v1::Receipt, model: &ModelInfo) {
        if receipt.content_hash != model.content_hash {
            let description = format!("is not of the weights that are loaded as {}: {}", model.id, model.content_hash);
            self.reject(format!("continue_from[{i}].content_hash"), description);
        }
        if receipt.model != first.model {
            self.reject(format!("continue_from[{i}].model"), "differs from the first receipt's");
        }
        if receipt.guidance.to_bits() != first.guidance.to_bits() {
            self.reject(format!("continue_from[{i}].guidance"), "differs from the first receipt's");
        }
        if receipt.gamma.map(f32::to_bits) != first.gamma.map(f32::to_bits) {
            self.reject(format!("continue_from[{i}].gamma"), "differs from the first receipt's");
        }
        if receipt.sampler != first.sampler {
            self.reject(format!("continue_from[{i}].sampler"), "differs from the first receipt's");
        }
        if !matches!(receipt.sample_digest.len(), 0 | Digest::BYTES) {
            self.reject(format!("continue_from[{i}].sample_digest"), not_a_digest(&receipt.sample_digest));
        }
    }

    /// Whether the model knows every jump of a way on from an image.
    fn legal_continuation(&mut self, i: usize, sampler: Sampler, way: &TimeGrid, model: &ModelInfo) {
        if let Err(problem) = model.time_pairs.check(sampler, way) {
            let description = format!("with the later times of the grid {problem}");
            self.reject(format!("continue_from[{i}].times"), description);
        }
    }

    /// The times that an image will have visited which has visited `times`.
    fn way(&mut self, i: usize, times: &[f64], grid: &TimeGrid) -> Option<TimeGrid> {
        let field = format!("continue_from[{i}].times");
        let (own, start) = (self.bounded_grid(&field, times)?, self.start());
        let (first, last) = (own.times()[0], own.times()[own.steps()]);
        if first != start {
            self.reject(format!("{field}[0]"), format!("is {first}, but this request's images begin at {start}"));
            return None;
        }
        if last != DATA_TIME {
            self.reject(field, format!("end at {last}; only an image that was finished, at 1, can be continued"));
            return None;
        }
        let walked = &own.times()[..own.steps()];
        let Some(way) = grid.after(walked) else {
            let last = walked.last().copied().unwrap_or(start);
            self.reject(field, format!("lead to {last}, after which the request's grid has no time"));
            return None;
        };
        let most = self.limits.max_steps;
        if way.steps() > most as usize {
            self.reject(field, format!("make {} steps with those that come later, the most is {most}", way.steps()));
            return None;
        }
        Some(way)
    }

    /// Whether the states of the request are those that its receipts began with.
    pub(super) fn same_states(&mut self, initial: Option<&Initial>, model: &ModelInfo) {
        let receipts = self.request.continue_from.iter().take(self.limits.max_count as usize);
        let digests: Vec<Digest> = match receipts.len() {
            0 => return,
            _ => initial
                .map_or(&[][..], |initial| &*initial.states)
                .chunks(model.elements().max(1))
                .map(Digest::of_numbers)
                .collect(),
        };
        let own = |i| if digests.len() == 1 { digests.first() } else { digests.get(i) };
        for (i, receipt) in receipts.enumerate() {
            let told = &receipt.initial_state_digest;
            let is_noised = self.request.initial_state.as_ref().is_some_and(|state| state.add_noise);
            if receipt.initial_state_noised != is_noised {
                let description = format!("is {}, initial_state.add_noise is {is_noised}", !is_noised);
                self.reject(format!("continue_from[{i}].initial_state_noised"), description);
            }
            let problem = match (self.request.initial_state.is_some(), told.is_empty()) {
                (false, true) => continue,
                (true, true) => "is empty: the image began with noise, not with initial_state".into(),
                (_, false) if told.len() != Digest::BYTES => not_a_digest(told),
                (false, false) => "is there: send the image's initial_state again".into(),
                (true, false) if own(i).is_some_and(|digest| digest.as_bytes() != told.as_ref()) => {
                    "is of another state than initial_state has".into()
                }
                (true, false) => continue,
            };
            self.reject(format!("continue_from[{i}].initial_state_digest"), problem);
        }
    }
}

fn not_a_digest(bytes: &[u8]) -> String {
    format!("has {} bytes, a digest has {}", bytes.len(), Digest::BYTES)
}

/// An image's times but for its last jump, which it does not make again. After a single jump nothing is left to keep.
fn walked(times: &[f64]) -> Option<Arc<[f64]>> {
    times.split_last().map(|(_, walked)| walked).filter(|walked| walked.len() > 1).map(Into::into)
}

fn source(receipt: &v1::Receipt) -> Source {
    Source::noise(receipt.seed, receipt.index, None)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::validate::tests::{accept, empty, model, refused, tensor};

    /// An image of `digits@1` that has visited `times`.
    fn receipt(times: &[f64]) -> v1::Receipt {
        v1::Receipt {
            model: "digits@1".into(),
            content_hash: model().content_hash,
            seed: 5,
            index: 3,
            label: 2,
            guidance: 1.5,
            sampler: v1::Sampler::FlowMap.into(),
            times: times.to_vec(),
            ..Default::default()
        }
    }

    fn on(receipts: &[v1::Receipt], steps: u32) -> v1::GenerateRequest {
        v1::GenerateRequest { continue_from: receipts.to_vec(), steps: Some(steps), ..empty() }
    }

    #[test]
    fn images_go_on_from_where_their_last_jump_began() {
        let job = accept(&on(&[receipt(&[0.0, 0.25, 0.5, 1.0])], 8)).job;
        assert_eq!(job.grid.times(), [0.0, 0.25, 0.5, 0.625, 0.75, 0.875, 1.0]);
        let walked: Arc<[f64]> = [0.0, 0.25, 0.5].into();
        assert_eq!(job.sources, [Source { walked: Some(walked), ..Source::noise(5, 3, Some(2)) }]);
        assert_eq!((job.guidance, job.sampler, job.min_steps), (1.5, Sampler::FlowMap, 6));
        let explicit = v1::TimeGrid { times: vec![0.0, 0.9, 1.0] };
        let asked =
            v1::GenerateRequest { steps: None, time_grid: Some(explicit), ..on(&[receipt(&[0.0, 0.5, 1.0])], 0) };
        assert_eq!(accept(&asked).job.grid.times(), [0.0, 0.5, 0.9, 1.0]);
    }

    #[test]
    fn receipts_may_differ_in_all_but_their_kind() {
        let other = v1::Receipt { seed: 6, index: 0, label: -1, ..receipt(&[0.0, 0.75, 1.0]) };
        let job = accept(&on(&[receipt(&[0.0, 0.5, 1.0]), other, receipt(&[0.0, 1.0])], 4)).job;
        assert_eq!((job.grid, job.min_steps), (TimeGrid::uniform(4), 4));
        let walked: Vec<_> = job.sources.iter().map(|source| source.walked.as_deref()).collect();
        assert_eq!(walked, [Some(&[0.0, 0.5][..]), Some(&[0.0, 0.75]), None]);
        assert_eq!(job.sources[1].label, None);
        let far = accept(&on(&[receipt(&[0.0, 0.1, 0.2, 0.3, 1.0]), receipt(&[0.0, 1.0])], 2)).job;
        assert_eq!((far.grid.steps(), far.min_steps), (2, 5), "no image gives up steps unasked");
    }

    #[test]
    fn what_a_receipt_says_is_judged() {
        let good = || receipt(&[0.0, 0.5, 1.0]);
        let long: Vec<f64> = (0..=17).map(|i| f64::from(i) / 17.0).collect();
        for (receipts, steps, want) in [
            (vec![v1::Receipt { model: "digits".into(), ..good() }], 4, &["continue_from[0].model"][..]),
            (vec![v1::Receipt { content_hash: "01".into(), ..good() }], 4, &["continue_from[0].content_hash"]),
            (vec![v1::Receipt { label: 3, ..good() }], 4, &["continue_from[0].label"]),
            (vec![v1::Receipt { guidance: 9.0, ..good() }], 4, &["continue_from[0].guidance"]),
            (vec![v1::Receipt { guidance: f32::NAN, ..good() }], 4, &["continue_from[0].guidance"]),
            (vec![v1::Receipt { sampler: 0, ..good() }], 4, &["continue_from[0].sampler"]),
            (vec![v1::Receipt { sampler: 7, ..good() }], 4, &["continue_from[0].sampler"]),
            (vec![v1::Receipt { sample_digest: vec![0; 3].into(), ..good() }], 4, &["continue_from[0].sample_digest"]),
            (vec![good(), receipt(&[0.0, 0.5])], 4, &["continue_from[1].times"]),
            (vec![good(), good(), receipt(&[0.5, 1.0])], 4, &["continue_from[2].times[0]"]),
            (vec![receipt(&[0.0, 0.5, 0.4, 1.0])], 4, &["continue_from[0].times"]),
            (vec![receipt(&[])], 4, &["continue_from[0].times"]),
            (vec![receipt(&long)], 4, &["continue_from[0].times"]),
            (vec![receipt(&[0.0, 0.01, 0.02, 1.0])], 16, &["continue_from[0].times"]),
            (
                vec![good(), v1::Receipt { model: "square@1".into(), guidance: 2.5, sampler: 2, ..good() }],
                4,
                &["continue_from[1].model", "continue_from[1].guidance", "continue_from[1].sampler"],
            ),
            (vec![good(); 9], 2, &["continue_from"]),
            (vec![good(); 8], 16, &["continue_from"]),
        ] {
            assert_eq!(refused(on(&receipts, steps)), want, "{receipts:?}");
        }
    }

    #[test]
    fn a_grid_must_lead_further() {
        let explicit = v1::TimeGrid { times: vec![0.0, 0.5] };
        let asked =
            v1::GenerateRequest { steps: None, time_grid: Some(explicit), ..on(&[receipt(&[0.0, 0.5, 1.0])], 0) };
        assert_eq!(refused(asked), ["continue_from[0].times"]);
    }

    #[test]
    fn what_the_receipts_have_is_not_said_again() {
        let asked = v1::GenerateRequest {
            model: "square".into(),
            count: Some(1),
            labels: vec![1],
            guidance: Some(1.5),
            seed: Some(1),
            sampler: v1::Sampler::FlowMap.into(),
            ..on(&[receipt(&[0.0, 0.5, 1.0])], 4)
        };
        assert_eq!(refused(asked), ["model", "count", "labels", "guidance", "seed", "sampler"]);
        let named = v1::GenerateRequest { model: "digits".into(), ..on(&[receipt(&[0.0, 0.5, 1.0])], 4) };
        assert_eq!(accept(&named).job.grid.steps(), 3);
    }

    #[test]
    fn states_must_be_sent_again_and_be_the_same() {
        let (a, b) = ([0.5; 4], [0.25; 4]);
        let from = |state: &[f32; 4]| v1::Receipt {
            initial_state_digest: Digest::of_numbers(state).as_bytes().to_vec().into(),
            ..receipt(&[0.5, 0.75, 1.0])
        };
        let sent = |states: &[f32]| {
            let shape: &[u32] = if states.len() == 4 { &[1, 2, 2] } else { &[2, 1, 2, 2] };
            Some(v1::InitialState { time: 0.5, ..tensor(shape, states) })
        };
        let asked = |receipts: &[v1::Receipt], initial_state| v1::GenerateRequest { initial_state, ..on(receipts, 4) };
        let both = [from(&a), from(&b)];
        assert_eq!(accept(&asked(&both, sent(&[a, b].concat()))).job.initial.unwrap().states.len(), 8);
        assert!(accept(&asked(&[from(&a), from(&a)], sent(&a))).job.initial.is_some());
        let field = |i: usize| format!("continue_from[{i}].initial_state_digest");
        assert_eq!(refused(asked(&both, sent(&[b, a].concat()))), [field(0), field(1)]);
        assert_eq!(refused(asked(&both, sent(&a))), [field(1)]);
        let noise = receipt(&[0.5, 1.0]);
        assert_eq!(refused(asked(&[noise], sent(&a))), [field(0)]);
        let states_are_missing = refused(asked(&[v1::Receipt { times: vec![0.0, 1.0], ..from(&a) }], None));
        assert_eq!(states_are_missing, [field(0)]);
        let broken = v1::Receipt { initial_state_digest: vec![1].into(), ..from(&a) };
        assert_eq!(refused(asked(&[broken], sent(&a))), [field(0)]);
    }
}
