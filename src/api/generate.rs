//! One generation from acceptance to its summary.
//!
//! A task per request moves images from the scheduler's ticket to the response stream. When the job has ended, the
//! client has gone or does not read, or the deadline has passed, the ticket is dropped, which cancels unfinished images. The request
//! itself goes on until the transport has taken its last message, again within the deadline: only then is it counted,
//! logged, and its place given to another, so that a stop waits for what is on its way.

use std::sync::Arc;
use std::time::{Duration, Instant};

use prost::bytes::Bytes;
use tokio::sync::OwnedSemaphorePermit;
use tonic::Code;
use tracing::Instrument;

use super::encode::Encoding;
use super::events::{self, Teller};
use super::observe::Observation;
use super::proto::v1::generate_response::Event;
use super::proto::{micros, v1};
use super::responses::{self, Messages, Overseer, Responses};
use super::service::Shared;
use super::status::{code, code_name, status};
use crate::domain::{Image, Job, JobEvent, ModelInfo, ModelKey, Preview};
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
        // It is large, and moved less often where it is put aside first.
        let run = Box::pin(self.run(messages, overseer, observation));
        tokio::spawn(run.instrument(span));
        responses
    }

    fn span(&self) -> tracing::Span {
        tracing::info_span!(
            "generate",
            request_id = &*self.job.request_id,
            model = %self.model().id,
            count = self.job.sources.len(),
            steps = self.job.grid.steps(),
            tenant = &*self.job.tenant,
        )
    }

    async fn run(self, messages: Messages, mut stream: Overseer, observation: Observation) {
        let told = Teller::new(&self.job, self.model(), self.encoding);
        let Self { shared, job, encoding, permit } = self;
        let (request_id, deadline, patience) = (Arc::clone(&job.request_id), job.deadline, shared.settings.stall);
        let model = job.model;
        let mut delivery = Delivery { shared, model, told, encoding, messages, progress: Progress::new() };
        let served = tokio::select! {
            biased;
            outcome = delivery.serve(job) => outcome,
            left = stream.left(patience) => Err(left),
            () = passed(deadline) => Err(Error::DeadlineExceeded),
        };
        if let Err(error) = &served {
            stream.fail(status(error, &request_id));
        }
        let Delivery { progress, messages, .. } = delivery;
        drop(messages);
        let left = match &served {
            // It has been waited for already.
            Err(Error::Stalled) => Error::Stalled,
            _ => tokio::select! {
                biased;
                left = stream.left(patience) => left,
                () = passed(deadline) => Error::DeadlineExceeded,
            },
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
    model: ModelKey,
    told: Teller,
    encoding: Encoding,
    messages: Messages,
    progress: Progress,
}

impl Delivery {
    async fn serve(&mut self, job: Job) -> Result<()> {
        let has_previews = job.previews.is_some();
        let mut ticket = submit(&self.shared, job)?;
        self.messages.send(Event::Accepted(self.told.accepted(ticket.accepted))).await?;
        loop {
            if has_previews {
                // Where a message waits, previews had better stay with the scheduler: there newer ones take their place.
                self.messages.taken().await?;
            }
            match ticket.next().await {
                Some(JobEvent::Preview(preview)) => self.preview(preview).await?,
                Some(JobEvent::Image(image)) => self.image(image).await?,
                Some(JobEvent::Finished(summary)) => {
                    return self.messages.send(Event::Summary(events::summary(summary))).await;
                }
                Some(JobEvent::Failed(error)) => return Err(error),
                None => return Err(Error::Compute("the worker forgot a job".into())),
            }
        }
    }

    async fn image(&mut self, mut image: Image) -> Result<()> {
        self.progress.image(&image);
        let (index, state) = (image.index, std::mem::take(&mut image.state));
        let encoded = self.encoding.finish(state, self.shared.catalogue.info(self.model)).await?;
        let head = self.told.image(image, &encoded);
        self.pieces(index, encoded.data, |data| Event::Image(v1::Image { data, ..head })).await
    }

    async fn preview(&mut self, mut preview: Preview) -> Result<()> {
        let (index, state) = (preview.index, std::mem::take(&mut preview.state));
        let data = self.encoding.encode(state, self.shared.catalogue.info(self.model)).await?;
        let head = self.told.preview(&preview, data.len());
        self.pieces(index, data, |data| Event::Preview(v1::Preview { data, ..head })).await
    }

    /// Sends an image's data in messages of at most `chunk_bytes` of it, the first of which `head` makes.
    async fn pieces(&mut self, index: u32, mut data: Bytes, head: impl FnOnce(Bytes) -> Event) -> Result<()> {
        let chunk_bytes = self.shared.settings.chunk_bytes;
        let total = data.len();
        self.messages.send(head(data.split_to(chunk_bytes.min(total)))).await?;
        while !data.is_empty() {
            let offset = (total - data.len()) as u64;
            let piece = data.split_to(chunk_bytes.min(data.len()));
            self.messages.send(Event::ImageChunk(v1::ImageChunk { index, offset, data: piece })).await?;
        }
        self.shared.sent_bytes.increment(total as u64);
        self.progress.sent_bytes += total as u64;
        Ok(())
    }
}

/// Hands the job over and counts a refusal.
fn submit(shared: &Shared, job: Job) -> Result<Ticket> {
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
