//! Requests that go on from finished images: their receipts, checked against the loaded weights and each other.
//!
//! A receipt comes from outside and may say anything. What is made from it is a function of what it says and of nothing
//! else, so that a wrong one can waste its own request only.

use std::sync::Arc;

use super::{Plan, Reader, model_reference};
use crate::api::catalogue::Catalogue;
use crate::api::proto::v1;
use crate::domain::{Digest, ModelInfo, ModelKey, Sampler, Source, TimeGrid};
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
        let v1::GenerateRequest { count, labels, guidance, seed, sampler, .. } = self.request;
        for (field, is_there) in [
            ("count", count.is_some()),
            ("labels", !labels.is_empty()),
            ("guidance", guidance.is_some()),
            ("seed", seed.is_some()),
            ("sampler", *sampler != v1::Sampler::Unspecified as i32),
        ] {
            if is_there {
                self.reject(field, "excludes continue_from, whose receipts have it");
            }
        }
    }

    fn receipts_sampler(&mut self, first: &v1::Receipt, model: &ModelInfo) -> Sampler {
        let field = "continue_from[0].sampler";
        let sampler = self.known_sampler(field, first.sampler);
        match sampler {
            Some(sampler) => self.legal_sampler(field, sampler, &TimeGrid::uniform(1), model),
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
        if receipt.sampler != first.sampler {
            self.reject(format!("continue_from[{i}].sampler"), "differs from the first receipt's");
        }
        if !matches!(receipt.sample_digest.len(), 0 | Digest::BYTES) {
            self.reject(format!("continue_from[{i}].sample_digest"), not_a_digest(&receipt.sample_digest));
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
    pub(super) fn same_states(&mut self, states: Option<&[f32]>, model: &ModelInfo) {
        let receipts = self.request.continue_from.iter().take(self.limits.max_count as usize);
        let digests: Vec<Digest> = match receipts.len() {
            0 => return,
            _ => states.unwrap_or_default().chunks(model.elements().max(1)).map(Digest::of_numbers).collect(),
        };
        let own = |i| if digests.len() == 1 { digests.first() } else { digests.get(i) };
        for (i, receipt) in receipts.enumerate() {
            let told = &receipt.initial_state_digest;
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
