//! One generation from acceptance to its summary.
//!
//! A task per request moves images from the scheduler's ticket to the response stream. When the job has ended, the
//! client has gone, or the deadline has passed, the ticket is dropped, which cancels unfinished images. The request
//! itself goes on until the transport has taken its last message, again within the deadline: only then is it counted,
//! logged, and its place given to another, so that a stop waits for what is on its way.

use std::sync::Arc;
use std::time::{Duration, Instant};

use prost::bytes::Bytes;
use tokio::sync::{OwnedSemaphorePermit, mpsc};
use tonic::Code;
use tracing::Instrument;

use super::encode::Encoding;
use super::models::wire_shape;
use super::observe::Observation;
use super::proto::v1::generate_response::Event;
use super::proto::{NULL_LABEL, micros, v1};
use super::responses::{self, Overseer, Responses};
use super::service::Shared;
use super::status::{code, code_name, status};
use crate::domain::{Accepted, Image, Job, JobEvent, ModelInfo, Sampler, Summary};
use crate::error::{Error, Result};
use crate::scheduler::Ticket;
use crate::telemetry::metrics;

/// A request that passed every check and holds its place.
#[derive(Debug)]
pub(super) struct Generation {
    pub(super) shared: Arc<Shared>,
    pub(super) job: Job,
    pub(super) encoding: Encoding,
    pub(super) permit: OwnedSemaphorePermit,
}

impl Generation {
    /// Starts the request's task. Dropping the returned stream ends it.
    pub(super) fn spawn(self, observation: Observation) -> Responses {
        let (messages, overseer, responses) = responses::channel();
        let span = self.span();
        tokio::spawn(self.run(messages, overseer, observation).instrument(span));
        responses
    }

    fn span(&self) -> tracing::Span {
        tracing::info_span!(
            "generate",
            request_id = &*self.job.request_id,
            model = %self.model().id,
            count = self.job.sources.len(),
            steps = self.job.grid.steps(),
        )
    }

    async fn run(self, messages: mpsc::Sender<v1::GenerateResponse>, mut stream: Overseer, observation: Observation) {
        let Self { shared, job, encoding, permit } = self;
        let (request_id, deadline) = (Arc::clone(&job.request_id), job.deadline);
        let mut delivery = Delivery {
            labels: job.sources.iter().map(|source| source.label).collect(),
            shared,
            encoding,
            messages,
            progress: Progress::new(),
        };
        let served = tokio::select! {
            biased;
            outcome = delivery.serve(job) => outcome,
            () = stream.dropped() => Err(Error::Cancelled),
            () = passed(deadline) => Err(Error::DeadlineExceeded),
        };
        if let Err(error) = &served {
            stream.fail(status(error, &request_id));
        }
        let Delivery { progress, messages, .. } = delivery;
        drop(messages);
        let left = tokio::select! {
            biased;
            () = stream.dropped() => Error::Cancelled,
            () = passed(deadline) => Error::DeadlineExceeded,
        };
        let is_delivered = stream.close(status(&left, &request_id));
        let outcome = served.and_then(|()| if is_delivered { Ok(()) } else { Err(left) });
        report(&outcome, &progress);
        observation.end(outcome.as_ref().map_or_else(code, |()| Code::Ok));
        drop(permit);
    }

    fn model(&self) -> &ModelInfo {
        self.shared.catalogue.info(self.job.model)
    }
}

async fn passed(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => tokio::time::sleep_until(deadline.into()).await,
        None => std::future::pending().await,
    }
}

/// The one log line of a request.
fn report(outcome: &Result<()>, progress: &Progress) {
    let Progress { images, evaluations, sent_bytes, queued, .. } = *progress;
    let (total, queued) = (progress.since.elapsed(), queued.unwrap_or_default());
    let fields = (images, evaluations, sent_bytes, micros(queued), micros(total));
    let (images, evaluations, sent_bytes, queue_us, total_us) = fields;
    match outcome {
        Ok(()) => {
            tracing::info!(code = "OK", images, evaluations, sent_bytes, queue_us, total_us, "request done");
        }
        Err(error) => {
            let (code_name, cause) = (code_name(code(error)), error.to_string());
            match code(error) {
                Code::Internal => tracing::error!(
                    code = code_name,
                    cause,
                    images,
                    evaluations,
                    sent_bytes,
                    queue_us,
                    total_us,
                    "request failed"
                ),
                _ => tracing::info!(
                    code = code_name,
                    cause,
                    images,
                    evaluations,
                    sent_bytes,
                    queue_us,
                    total_us,
                    "request ended early"
                ),
            }
        }
    }
}

/// How far a request has come.
#[derive(Debug)]
struct Progress {
    since: Instant,
    images: u32,
    evaluations: u64,
    sent_bytes: u64,
    /// The first image's wait.
    queued: Option<Duration>,
}

impl Progress {
    fn new() -> Self {
        Self { since: Instant::now(), images: 0, evaluations: 0, sent_bytes: 0, queued: None }
    }

    fn image(&mut self, image: &Image) {
        self.images += 1;
        self.evaluations += u64::from(image.evaluations);
        self.queued.get_or_insert(image.queued);
    }
}

/// Moves a job's events to its client.
struct Delivery {
    shared: Arc<Shared>,
    labels: Vec<Option<u32>>,
    encoding: Encoding,
    messages: mpsc::Sender<v1::GenerateResponse>,
    progress: Progress,
}

impl Delivery {
    async fn serve(&mut self, job: Job) -> Result<()> {
        let (model, sampler) = (job.model, job.sampler);
        let mut opening = opening(&job, self.shared.catalogue.info(model), self.encoding);
        let mut ticket = submit(&self.shared, job).await?;
        let Accepted { evaluations, queue_position, .. } = ticket.accepted;
        opening.evaluations = evaluations;
        opening.queue_position = u32::try_from(queue_position).unwrap_or(u32::MAX);
        self.send(Event::Accepted(opening)).await?;
        while let Some(event) = ticket.next().await {
            match event {
                JobEvent::Preview(_) => {}
                JobEvent::Image(image) => self.image(image, sampler, model).await?,
                JobEvent::Finished(summary) => return self.send(Event::Summary(closing(summary))).await,
                JobEvent::Failed(error) => return Err(error),
            }
        }
        Err(Error::Compute("the worker forgot a job".into()))
    }

    async fn image(&mut self, image: Image, sampler: Sampler, model: crate::domain::ModelKey) -> Result<()> {
        self.progress.image(&image);
        let shared = Arc::clone(&self.shared);
        let info = shared.catalogue.info(model);
        let label = self.labels.get(image.index as usize).copied().flatten();
        let head = v1::Image {
            index: image.index,
            label: label.and_then(|l| i32::try_from(l).ok()).unwrap_or(NULL_LABEL),
            shape: wire_shape(info),
            output_encoding: self.encoding.to_wire().into(),
            total_bytes: 0,
            data: Bytes::new(),
            steps: image.evaluations / sampler.evaluations_per_step(),
            evaluations: image.evaluations,
            queue_us: micros(image.queued),
            compute_us: micros(image.computed),
            ..Default::default()
        };
        let data = self.encoding.encode(image.state, info).await?;
        self.pieces(head, data).await
    }

    /// Sends an image in messages of at most `chunk_bytes` of data.
    async fn pieces(&mut self, head: v1::Image, mut data: Bytes) -> Result<()> {
        let chunk_bytes = self.shared.settings.chunk_bytes;
        let (index, total) = (head.index, data.len());
        let first = data.split_to(chunk_bytes.min(total));
        let image = v1::Image { total_bytes: total as u64, data: first, ..head };
        self.send(Event::Image(image)).await?;
        while !data.is_empty() {
            let offset = (total - data.len()) as u64;
            let piece = data.split_to(chunk_bytes.min(data.len()));
            self.send(Event::ImageChunk(v1::ImageChunk { index, offset, data: piece })).await?;
        }
        metrics::RESPONSE_BYTES.counter([]).increment(total as u64);
        self.progress.sent_bytes += total as u64;
        Ok(())
    }

    async fn send(&self, event: Event) -> Result<()> {
        let message = v1::GenerateResponse { event: Some(event) };
        self.messages.send(message).await.map_err(|_| Error::Cancelled)
    }
}

/// Hands the job over and counts a refusal.
async fn submit(shared: &Shared, job: Job) -> Result<Ticket> {
    let submitted = shared.scheduler.submit(job);
    let reason = match &submitted {
        Err(Error::Overloaded { predicted: Some(_), .. }) => "deadline",
        Err(Error::Overloaded { .. }) => "queue",
        Err(Error::Unavailable(_)) => "unavailable",
        _ => return submitted,
    };
    metrics::REJECTIONS.counter([reason]).increment(1);
    submitted
}

/// What the client is told before the first image, but for what only the scheduler knows.
fn opening(job: &Job, model: &ModelInfo, encoding: Encoding) -> v1::Accepted {
    v1::Accepted {
        request_id: job.request_id.to_string(),
        model: model.id.to_string(),
        times: job.grid.times().to_vec(),
        sampler: v1::Sampler::from(job.sampler).into(),
        evaluations: 0,
        guidance: job.guidance,
        seed: job.sources.first().map_or(0, |source| source.seed),
        output_encoding: encoding.to_wire().into(),
        queue_position: 0,
        ..Default::default()
    }
}

fn closing(summary: Summary) -> v1::Summary {
    let total_us = micros(summary.total);
    v1::Summary { images: summary.images, evaluations: summary.evaluations, total_us, ..Default::default() }
}
