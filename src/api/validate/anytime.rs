//! What a request allows and wants of its images on their way: fewer steps, previews, its share of the device.

use std::sync::Arc;

use super::{Plan, Reader};
use crate::api::proto::v1;
use crate::domain::{ModelInfo, Priority};

impl Reader<'_> {
    pub(super) fn priority(&mut self) -> Priority {
        match v1::Priority::try_from(self.request.priority) {
            Ok(v1::Priority::Unspecified | v1::Priority::Normal) => Priority::Normal,
            Ok(v1::Priority::Low) => Priority::Low,
            Ok(v1::Priority::High) => Priority::High,
            Err(unknown) => {
                self.reject("priority", format!("{} is not a priority", unknown.0));
                Priority::Normal
            }
        }
    }

    /// The fewest steps after which an image may end: all of them, unless the request says otherwise; no fewer than it
    /// says, where the model does not know the jumps of so few.
    pub(super) fn min_steps(&mut self, plan: &Plan, model: &ModelInfo) -> u32 {
        let Plan { steps, sampler, .. } = *plan;
        let fewest = self.request.min_steps.unwrap_or(steps);
        if !(1..=steps).contains(&fewest) {
            self.reject("min_steps", format!("is {fewest}, must be 1 to the number of steps, {steps}"));
        } else if fewest < steps && !sampler.jumps() {
            let description =
                format!("is {fewest} of {steps}, but only flow-map and gamma can end early, and {sampler} is used");
            self.reject("min_steps", description);
        }
        model.time_pairs.steps_from(fewest, sampler, &plan.grid)
    }

    /// The evaluations after which previews are wanted, rising.
    pub(super) fn previews(&mut self, plan: &Plan) -> Option<Arc<[u32]>> {
        let wanted = &self.request.previews.as_ref()?.evaluations;
        let (steps, most) = (plan.steps, self.limits.max_steps as usize);
        if !plan.sampler.jumps() {
            let description =
                format!("only flow-map and gamma can show unfinished images, and {} is used", plan.sampler);
            self.reject("previews", description);
            return None;
        }
        if wanted.len() > most {
            self.reject("previews.evaluations", format!("has {} entries, the most is {most}", wanted.len()));
            return None;
        }
        for (i, evaluations) in wanted.iter().enumerate().filter(|(_, wanted)| !(1..steps).contains(wanted)) {
            let allowed = if steps > 1 { format!("must be 1 to {}", steps - 1) } else { "one step has none".into() };
            self.reject(format!("previews.evaluations[{i}]"), format!("is {evaluations}, {allowed}"));
        }
        let mut wanted = wanted.clone();
        wanted.sort_unstable();
        wanted.dedup();
        Some(wanted.into())
    }
}
