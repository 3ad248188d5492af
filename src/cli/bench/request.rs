//! One request, and what became of it.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Instant;

use super::plan::Plan;
use crate::api::Client;
use crate::api::client::Arrival;
use crate::api::proto::v1;
use crate::error::{Error, Result};
use crate::load::{Ending, Outcome};

/// A server and what is asked of it.
#[derive(Debug, Clone)]
pub(super) struct Target {
    connections: Arc<[Client]>,
    template: v1::GenerateRequest,
    classes: u32,
    deadline_ms: Option<u32>,
    min_steps: Option<u32>,
    seed: u64,
    count: Arc<AtomicU64>,
    /// Why the first request that failed did.
    failure: Arc<OnceLock<String>>,
}

/// When a request is due, and for what.
#[derive(Debug, Clone, Copy)]
pub(super) struct Due {
    /// In seconds since the measurement began; before 0 it only warms up.
    pub(super) at_s: f64,
    pub(super) instant: Instant,
    pub(super) steps: u32,
    /// A deadline of its own.
    pub(super) deadline_ms: Option<u32>,
}

impl Target {
    /// Connects, and asks for one image, so that what no request can have is told before thousands ask for it.
    ///
    /// # Errors
    /// Why the server is not there, or what it has against the request.
    pub(super) async fn connect(plan: &Plan) -> Result<Self> {
        let mut connections = Vec::new();
        for _ in 0..plan.connections {
            connections.push(Client::connect(&plan.server).await?);
        }
        let model = connections[0].model(&plan.model).await?;
        let template = v1::GenerateRequest {
            model: model.id.to_string(),
            count: Some(plan.count),
            guidance: plan.guidance,
            output_encoding: plan.encoding.into(),
            priority: plan.priority.into(),
            previews: plan.previews.then(v1::Previews::default),
            ..Default::default()
        };
        let classes = u32::try_from(model.classes.len()).unwrap_or(u32::MAX);
        if let Some(class) = plan.class.filter(|&class| class >= classes) {
            return Err(Error::Config(vec![format!("--class: {} has {classes} classes, no {class}", model.id)]));
        }
        let target = Self {
            connections: connections.into(),
            template: v1::GenerateRequest { labels: plan.class.map(label).into_iter().collect(), ..template },
            classes,
            deadline_ms: plan.deadline_ms,
            min_steps: plan.min_steps,
            seed: plan.seed,
            count: Arc::default(),
            failure: Arc::default(),
        };
        let steps = plan.mix.parts().iter().map(|part| part.steps).max().unwrap_or(1);
        let previews = target.template.previews.clone().filter(|_| steps > 1);
        let first = v1::GenerateRequest { steps: Some(steps), previews, ..target.template.clone() };
        let mut generation = target.connections[0].clone().generate(first).await?;
        while generation.next().await?.is_some() {}
        Ok(target)
    }

    /// The same without deadlines, for all steps.
    pub(super) fn unhurried(&self) -> Self {
        Self { deadline_ms: None, min_steps: None, ..self.clone() }
    }

    /// Sends a request and waits for its end.
    pub(super) async fn send(&self, due: Due) -> Outcome {
        let number = self.count.fetch_add(1, Ordering::Relaxed);
        let deadline_ms = due.deadline_ms.or(self.deadline_ms);
        let mut request = v1::GenerateRequest {
            steps: Some(due.steps),
            min_steps: self.min_steps.map(|least| least.min(due.steps)),
            seed: Some(self.seed.wrapping_add(number)),
            deadline_ms,
            ..self.template.clone()
        };
        if request.labels.is_empty() && self.classes > 0 {
            request.labels = vec![label(u32::try_from(number % u64::from(self.classes)).unwrap_or(0))];
        }
        if due.steps < 2 {
            request.previews = None;
        }
        let place = usize::try_from(number).unwrap_or(0) % self.connections.len();
        let mut client = self.connections[place].clone();
        let mut made = Made::default();
        let ended = receive(&mut client, request, due, &mut made).await;
        let why = ended.as_ref().err().map(ToString::to_string);
        let outcome = made.outcome(due, deadline_ms, ended);
        if let Some(why) = why.filter(|_| outcome.ending == Ending::Failed) {
            self.failure.get_or_init(|| why);
        }
        outcome
    }

    /// Why the first request that failed did.
    pub(super) fn failure(&self) -> Option<&str> {
        self.failure.get().map(String::as_str)
    }
}

/// What has come of a request.
#[derive(Debug, Default)]
struct Made {
    images: u32,
    full: u32,
    steps: u32,
    first_image_s: Option<f32>,
    first_preview_s: Option<f32>,
}

impl Made {
    fn outcome(self, due: Due, deadline_ms: Option<u32>, ended: Result<f32>) -> Outcome {
        let deadline_s = deadline_ms.map(|ms| ms as f32 / 1e3);
        let outcome = match ended {
            Ok(latency_s) => Outcome::answered(due.at_s, due.steps, latency_s, deadline_s),
            Err(Error::Overloaded { .. }) => Outcome::unanswered(due.at_s, due.steps, Ending::Refused),
            Err(Error::DeadlineExceeded) => Outcome::unanswered(due.at_s, due.steps, Ending::Late),
            Err(_) => Outcome::unanswered(due.at_s, due.steps, Ending::Failed),
        };
        Outcome {
            images: self.images,
            full_images: self.full,
            steps_used: self.steps,
            first_image_s: self.first_image_s,
            first_preview_s: self.first_preview_s,
            deadline_s,
            ..outcome
        }
    }
}

/// Seconds from when the request was due to its last image.
async fn receive(client: &mut Client, request: v1::GenerateRequest, due: Due, made: &mut Made) -> Result<f32> {
    let since = || due.instant.elapsed().as_secs_f32();
    let mut generation = client.generate(request).await?;
    let mut last = 0.0;
    while let Some(arrival) = generation.arrival().await? {
        match arrival {
            Arrival::Preview(_) => _ = made.first_preview_s.get_or_insert_with(since),
            Arrival::Image(image) => {
                last = since();
                made.first_image_s.get_or_insert(last);
                made.images += 1;
                made.steps = made.steps.saturating_add(image.steps);
                made.full += u32::from(image.steps >= due.steps);
            }
        }
    }
    Ok(last)
}

fn label(class: u32) -> i32 {
    i32::try_from(class).unwrap_or(i32::MAX)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn an_end_is_sorted_by_what_the_server_said() {
        let due = Due { at_s: 1.0, instant: Instant::now(), steps: 4, deadline_ms: None };
        let ends = |ended| {
            let made = Made { images: 1, full: 0, steps: 2, ..Made::default() };
            let outcome = made.outcome(due, Some(200), ended);
            assert_eq!((outcome.steps_asked, outcome.steps_used, outcome.full_images), (4, 2, 0));
            outcome.ending
        };
        assert_eq!([ends(Ok(0.1)), ends(Ok(0.3))], [Ending::InTime, Ending::Late]);
        assert_eq!([ends(Err(Error::DeadlineExceeded)), ends(Err(Error::Cancelled))], [Ending::Late, Ending::Failed]);
        assert_eq!(ends(Err(Error::Unavailable("stopping".into()))), Ending::Failed);
        let full = Error::Overloaded { retry_after: Duration::ZERO, predicted: None };
        assert_eq!(ends(Err(full)), Ending::Refused);
    }
}
