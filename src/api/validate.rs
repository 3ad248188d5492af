//! Parses a request into a job that cannot be wrong, or into every violation.
//!
//! Each field is read by one method that either gives its value or records what is wrong and gives a harmless
//! stand-in, so that the fields after it are still judged; a stand-in never leaves this file, because a single
//! violation refuses the request. Sizes are compared with their bounds before anything of that size is made.

mod anytime;
mod continuation;
mod grid;
mod state;
#[cfg(test)]
pub(super) mod tests;

use std::str::FromStr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::arrival::Arrival;
use super::catalogue::Catalogue;
use super::encode::Encoding;
use super::proto::{NULL_LABEL, v1};
use super::settings::Limits;
use crate::domain::{Gamma, Job, ModelInfo, ModelKey, ModelRef, Sampler, Source, TimeGrid};
use crate::error::{Error, Result, Violation};

/// Longest request id, in characters.
const MAX_REQUEST_ID_CHARS: usize = 128;
/// Longest model name with its version, in bytes: what a file system takes as a folder's name.
const MAX_MODEL_BYTES: usize = 255;
/// Steps where a request names none.
const DEFAULT_STEPS: u32 = 4;

/// A request that passed.
#[derive(Debug)]
pub(super) struct Parsed {
    /// For the scheduler.
    pub(super) job: Job,
    /// For the way back.
    pub(super) encoding: Encoding,
}

/// Reads `request`. Pure: what the server adds of its own comes in `arrival`.
///
/// # Errors
/// [`Error::NotFound`] when the model is not loaded, otherwise [`Error::Invalid`] with every violation.
pub(super) fn parse(
    request: &v1::GenerateRequest,
    catalogue: &Catalogue,
    limits: &Limits,
    arrival: &Arrival,
) -> Result<Parsed> {
    let mut reader = Reader { request, limits, violations: Vec::new() };
    let model = reader.model(catalogue)?;
    let request_id = reader.request_id(arrival);
    let deadline = reader.deadline(arrival);
    let priority = reader.priority();
    let count = reader.count();
    let grid = reader.grid();
    let sampler = reader.sampler();
    let encoding = reader.encoding();
    let guidance = reader.finite_guidance();
    // Without a model there is nothing to compare the rest with.
    let Some(model) = model else { return Err(Error::Invalid(reader.violations)) };
    let info = catalogue.info(model);
    let plan = match request.continue_from.as_slice() {
        [] => reader.anew(Wishes { count, sampler, guidance, seed: request.seed.unwrap_or(arrival.seed) }, grid, info),
        receipts => reader.continued(receipts, &grid, info),
    };
    let min_steps = reader.min_steps(&plan, info);
    let previews = reader.previews(&plan);
    let encoding = reader.legal_encoding(encoding, info);
    let initial = reader.initial(count, info);
    reader.same_states(initial.as_ref(), info);
    reader.finish()?;
    let Plan { sampler, guidance, grid, sources, .. } = plan;
    let (tenant, deadline) = (Arc::clone(&arrival.tenant), Some(deadline));
    let job = Job {
        request_id,
        tenant,
        priority,
        model,
        sampler,
        grid,
        min_steps,
        sources,
        guidance,
        initial,
        deadline,
        previews,
    };
    Ok(Parsed { job, encoding })
}

/// What a request for new images says, as far as it does.
struct Wishes {
    count: u32,
    sampler: Option<Sampler>,
    guidance: Option<f32>,
    seed: u64,
}

/// Which images are made, and how.
struct Plan {
    sampler: Sampler,
    guidance: f32,
    /// The times of every image; of those that go on from others, these come after the ones that they have walked.
    grid: TimeGrid,
    sources: Vec<Source>,
    /// Steps of the longest image, those that it has walked included.
    steps: u32,
}

/// The name by which a request is logged and answered, whether or not the rest of it is right.
pub(super) fn request_name(request: &v1::GenerateRequest, arrival: &Arrival) -> Arc<str> {
    match request.request_id.as_str() {
        id if id.is_empty() || !is_request_id(id) => arrival.name().into(),
        id => id.into(),
    }
}

/// How a client names a model.
pub(super) fn model_reference(text: &str) -> Result<ModelRef, Violation> {
    if text.len() > MAX_MODEL_BYTES {
        return Err(Violation::new("model", format!("is longer than {MAX_MODEL_BYTES} bytes")));
    }
    // What a repository allows in names, and no more: the rest need not be repeated in logs and answers.
    if !text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.@".contains(&byte)) {
        return Err(Violation::new("model", "has other characters than ASCII letters, digits and any of '-_.@'"));
    }
    ModelRef::from_str(text).map_err(|problem| Violation::new("model", problem))
}

fn is_request_id(id: &str) -> bool {
    id.len() <= MAX_REQUEST_ID_CHARS && id.bytes().all(|byte| (b' '..=b'~').contains(&byte))
}

/// Reads a request field by field and collects what is wrong.
struct Reader<'a> {
    request: &'a v1::GenerateRequest,
    limits: &'a Limits,
    violations: Vec<Violation>,
}

impl Reader<'_> {
    fn reject(&mut self, field: impl Into<String>, description: impl Into<String>) {
        self.violations.push(Violation::new(field, description));
    }

    fn finish(self) -> Result<()> {
        if self.violations.is_empty() { Ok(()) } else { Err(Error::Invalid(self.violations)) }
    }

    /// `None` after a violation; a well-formed name that is not loaded ends the reading.
    fn model(&mut self, catalogue: &Catalogue) -> Result<Option<ModelKey>> {
        if let Some(first) = self.request.continue_from.first() {
            return self.continued_model(first, catalogue);
        }
        match model_reference(&self.request.model) {
            Ok(reference) => catalogue.resolve(&reference).map(Some),
            Err(violation) => {
                self.violations.push(violation);
                Ok(None)
            }
        }
    }

    fn request_id(&mut self, arrival: &Arrival) -> Arc<str> {
        if !is_request_id(&self.request.request_id) {
            self.reject("request_id", format!("is not at most {MAX_REQUEST_ID_CHARS} printable ASCII characters"));
        }
        request_name(self.request, arrival)
    }

    fn deadline(&mut self, arrival: &Arrival) -> Instant {
        if self.request.deadline_ms == Some(0) {
            self.reject("deadline_ms", "is 0, must be at least 1");
        }
        let asked = self.request.deadline_ms.map(|ms| Duration::from_millis(ms.into()));
        let waits = [asked, arrival.timeout].into_iter().flatten();
        arrival.at + waits.fold(self.limits.max_deadline, Duration::min)
    }

    fn count(&mut self) -> u32 {
        let (field, count) = match self.request.continue_from.len() {
            0 => ("count", self.request.count.unwrap_or(1)),
            receipts => ("continue_from", u32::try_from(receipts).unwrap_or(u32::MAX)),
        };
        if count == 0 || count > self.limits.max_count {
            self.reject(field, format!("is {count}, must be 1 to {}", self.limits.max_count));
            return 1;
        }
        count
    }

    /// `None` where the server chooses.
    fn sampler(&mut self) -> Option<Sampler> {
        self.known_sampler("", self.request.sampler, self.request.gamma)
    }

    /// `None` for none, and for one that is not known. `of` is the path of the message whose fields these are.
    fn known_sampler(&mut self, of: &str, sampler: i32, gamma: Option<f32>) -> Option<Sampler> {
        let known = match v1::Sampler::try_from(sampler) {
            Ok(v1::Sampler::Unspecified) => None,
            Ok(v1::Sampler::FlowMap) => Some(Sampler::FlowMap),
            Ok(v1::Sampler::Euler) => Some(Sampler::Euler),
            Ok(v1::Sampler::Heun) => Some(Sampler::Heun),
            Ok(v1::Sampler::Gamma) => return Some(self.gamma_sampler(of, gamma)),
            Err(unknown) => {
                self.reject(format!("{of}sampler"), format!("{} is not a sampler", unknown.0));
                None
            }
        };
        if gamma.is_some() {
            self.reject(format!("{of}gamma"), "is for SAMPLER_GAMMA alone");
        }
        known
    }

    /// Gamma 1, the sampler of consistency models, where no other is named.
    fn gamma_sampler(&mut self, of: &str, gamma: Option<f32>) -> Sampler {
        match gamma.map_or(Ok(Gamma::ONE), Gamma::new) {
            Ok(gamma) => Sampler::Gamma(gamma),
            Err(problem) => {
                self.reject(format!("{of}gamma"), problem);
                Sampler::CONSISTENCY
            }
        }
    }

    /// New images from noise or from states.
    fn anew(&mut self, wishes: Wishes, grid: TimeGrid, model: &ModelInfo) -> Plan {
        let Wishes { count, sampler, guidance, seed } = wishes;
        let sampler = sampler.unwrap_or_else(|| model.time_pairs.default_sampler());
        self.legal_way(sampler, &grid, model);
        let steps = u32::try_from(grid.steps()).unwrap_or(u32::MAX);
        self.work("count", count, u64::from(steps) * u64::from(count), sampler);
        let labels = self.labels(count, model);
        let guidance = guidance.unwrap_or_else(|| model.guidance.default_scale());
        self.legal_guidance("guidance", guidance, model);
        let sources = (0..).zip(labels).map(|(index, label)| Source::noise(seed, index, label)).collect();
        Plan { sampler, guidance, grid, sources, steps }
    }

    /// Whether the model knows every jump of a way. The times are at fault where other times would do.
    fn legal_way(&mut self, sampler: Sampler, grid: &TimeGrid, model: &ModelInfo) {
        let Err(problem) = model.time_pairs.check(sampler, grid) else { return };
        if !model.time_pairs.allows(sampler, grid.is_rising()) {
            return self.illegal_sampler("sampler", &problem, grid.is_rising(), model);
        }
        let field = if self.request.time_grid.is_some() { "time_grid.times" } else { "steps" };
        self.reject(field, problem);
    }

    fn illegal_sampler(&mut self, field: &str, problem: &str, rising: bool, model: &ModelInfo) {
        let legal: Vec<String> = model.time_pairs.samplers(rising).map(|sampler| sampler.to_string()).collect();
        let legal = if legal.is_empty() { "none".into() } else { legal.join(", ") };
        let description = format!("{problem}; possible: {legal}");
        self.reject(field, description);
    }

    /// Bounds the whole request, whose parts may each be within theirs.
    fn work(&mut self, field: &str, count: u32, steps: u64, sampler: Sampler) {
        let all = steps.saturating_mul(sampler.evaluations_per_step().into());
        let most = self.limits.max_evaluations;
        if all > most {
            self.reject(field, format!("{count} images of these steps take {all} evaluations, the most is {most}"));
        }
    }

    /// One label per image.
    fn labels(&mut self, count: u32, model: &ModelInfo) -> Vec<Option<u32>> {
        let labels = &self.request.labels;
        let images = count as usize;
        match labels.len() {
            0 => return vec![None; images],
            n if n == 1 || n == images => (),
            n => {
                self.reject("labels", format!("has {n} entries, must have none, 1, or one per image ({count})"));
                return Vec::new();
            }
        }
        let read: Vec<Option<u32>> =
            labels.iter().enumerate().map(|(i, &l)| self.label(&format!("labels[{i}]"), l, model)).collect();
        if read.len() == images { read } else { vec![read[0]; images] }
    }

    fn label(&mut self, field: &str, label: i32, model: &ModelInfo) -> Option<u32> {
        if label == NULL_LABEL {
            return None;
        }
        let known = u32::try_from(label).ok().filter(|&l| (l as usize) < model.classes.len());
        if known.is_none() {
            let allowed = match model.classes.len() {
                0 => format!("{} has no classes, so only -1 is possible", model.id),
                n => format!("must be 0 to {}, or -1 for no class", n - 1),
            };
            self.reject(field, format!("is {label}; {allowed}"));
        }
        known
    }

    /// `None` where the model's own scale is used.
    fn finite_guidance(&mut self) -> Option<f32> {
        let scale = self.request.guidance?;
        if !scale.is_finite() {
            self.reject("guidance", format!("is {scale}, must be finite"));
            return None;
        }
        Some(scale)
    }

    fn legal_guidance(&mut self, field: &str, scale: f32, model: &ModelInfo) {
        if !model.guidance.allows(scale) {
            let allowed = allowed_guidance(model);
            self.reject(field, format!("is {scale}; {} takes {allowed}", model.id));
        }
    }

    /// `None` where the server chooses.
    fn encoding(&mut self) -> Option<Encoding> {
        match v1::OutputEncoding::try_from(self.request.output_encoding) {
            Ok(v1::OutputEncoding::Unspecified) => None,
            Ok(v1::OutputEncoding::Float32) => Some(Encoding::Float32),
            Ok(v1::OutputEncoding::Uint8) => Some(Encoding::Uint8),
            Ok(v1::OutputEncoding::Png) => Some(Encoding::Png),
            Err(unknown) => {
                self.reject("output_encoding", format!("{} is not an encoding", unknown.0));
                None
            }
        }
    }

    fn legal_encoding(&mut self, asked: Option<Encoding>, model: &ModelInfo) -> Encoding {
        let encoding = asked.unwrap_or_else(|| Encoding::default_for(model));
        if encoding == Encoding::Png && !model.is_image() {
            let description = format!("PNG needs images of 1 or 3 channels; {} makes {:?}", model.id, model.shape);
            self.reject("output_encoding", description);
        }
        encoding
    }
}

fn allowed_guidance(model: &ModelInfo) -> String {
    use crate::domain::Guidance;
    match model.guidance {
        Guidance::None => "none, so only scale 1".into(),
        Guidance::Baked { scale } => format!("only the scale of its training, {scale}"),
        Guidance::Input { max } => format!("1 to {max}"),
        Guidance::TwoCall { max } => format!("0 to {max}"),
    }
}
