//! A client of the generation service: connects with clear errors, joins the pieces of images, and turns a status
//! back into the crate's error.
//!
//! Thin on purpose: requests and answers are the messages of [`proto::v1`](super::proto::v1), so that whatever the
//! contract can say, this client can say.

mod answer;
mod convert;

use std::time::Duration;

use tokio::time::{Instant, timeout_at};
use tonic::metadata::{Ascii, MetadataValue};
use tonic::transport::{Channel, Endpoint};
use tonic::{Request, Status, Streaming};

use answer::Answer;
pub use answer::Arrival;
pub use convert::{floats, preview_floats, sampler};

use super::arrival::TENANT_HEADER;
use super::proto::v1;
use super::proto::v1::generation_service_client::GenerationServiceClient;
use crate::domain::ModelInfo;
use crate::error::{Error, Result};

/// How long a connection may take: longer than any network's round trips, shorter than a person's patience.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// How long an answer may take that the server has in its memory.
const CALL_TIMEOUT: Duration = Duration::from_secs(10);
/// How long after a request's own deadline its answer is still waited for: the server says best what it knows.
const DEADLINE_SLACK: Duration = Duration::from_secs(2);
/// A server that has been silent for this long while a request is open is asked for a sign of life …
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(20);
/// … and given up if it gives none for this long.
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(10);

/// A connection to a server.
#[derive(Debug, Clone)]
pub struct Client {
    service: GenerationServiceClient<Channel>,
    tenant: Option<MetadataValue<Ascii>>,
}

impl Client {
    /// Connects to a server, for example `http://127.0.0.1:50051`; the scheme may be left out.
    ///
    /// # Errors
    /// [`Error::Config`] for what is no address, [`Error::Unavailable`] where nothing answers.
    pub async fn connect(server: &str) -> Result<Self> {
        let endpoint = endpoint(server)?;
        let connected = endpoint
            .connect_timeout(CONNECT_TIMEOUT)
            .tcp_nodelay(true)
            .http2_keep_alive_interval(KEEPALIVE_INTERVAL)
            .keep_alive_timeout(KEEPALIVE_TIMEOUT)
            .connect()
            .await;
        let channel = connected.map_err(|e| Error::Unavailable(format!("no connection to {server}: {}", root(&e))))?;
        Ok(Self { service: GenerationServiceClient::new(channel), tenant: None })
    }

    /// The same client, on whose requests the server works on the account of `tenant`.
    ///
    /// # Errors
    /// [`Error::Config`] for a name that cannot be sent.
    pub fn on_account_of(self, tenant: &str) -> Result<Self> {
        let name = tenant.parse().map_err(|_| Error::Config(vec![format!("'{tenant}' is not a name in ASCII")]))?;
        Ok(Self { tenant: Some(name), ..self })
    }

    /// The loaded models, the default one first.
    ///
    /// # Errors
    /// What the server answered, or a model that this program does not understand.
    pub async fn models(&mut self) -> Result<Vec<ModelInfo>> {
        let answer = self.service.list_models(v1::ListModelsRequest {});
        let models = told(Some(Instant::now() + CALL_TIMEOUT), answer).await?.into_inner().models;
        models.into_iter().map(convert::model).collect()
    }

    /// One loaded model by `name`, `name@version` or, empty, the default one.
    ///
    /// # Errors
    /// [`Error::NotFound`] where it is not loaded, and as [`Client::models`].
    pub async fn model(&mut self, name: &str) -> Result<ModelInfo> {
        let answer = self.service.get_model(v1::GetModelRequest { model: name.into() });
        let model = told(Some(Instant::now() + CALL_TIMEOUT), answer).await?.into_inner().model;
        convert::model(model.ok_or_else(|| convert::breach("GetModel answered without a model"))?)
    }

    /// Asks for images and waits until the server has taken the request. Dropping the result cancels it. A deadline of
    /// the request holds here, too: a server that has vanished does not outlast it.
    ///
    /// # Errors
    /// [`Error::Invalid`] with every wrong field, [`Error::Overloaded`] with the time to come back, and whatever else
    /// kept the server from taking it.
    pub async fn generate(&mut self, request: v1::GenerateRequest) -> Result<Generation> {
        let allowed = request.deadline_ms.map(|ms| Duration::from_millis(ms.into()) + DEADLINE_SLACK);
        let until = allowed.map(|allowed| Instant::now() + allowed);
        let mut request = Request::new(request);
        if let Some(tenant) = &self.tenant {
            request.metadata_mut().insert(TENANT_HEADER, tenant.clone());
        }
        let mut stream = told(until, self.service.generate(request)).await?.into_inner();
        match receive(&mut stream, until).await? {
            v1::generate_response::Event::Accepted(accepted) => {
                Ok(Generation { stream, until, accepted, answer: Answer::default() })
            }
            _ => Err(convert::breach("the stream did not open with `accepted`")),
        }
    }
}

/// A request that was taken, while its images arrive.
#[derive(Debug)]
pub struct Generation {
    stream: Streaming<v1::GenerateResponse>,
    /// When the server must have said everything.
    until: Option<Instant>,
    accepted: v1::Accepted,
    answer: Answer,
}

impl Generation {
    /// What the server made of the request.
    pub fn accepted(&self) -> &v1::Accepted {
        &self.accepted
    }

    /// The next image, whole, in the order in which they finish; `None` once all have come. Previews are passed over:
    /// [`Generation::arrival`] has them.
    ///
    /// # Errors
    /// Why the generation ended early.
    pub async fn next(&mut self) -> Result<Option<v1::Image>> {
        loop {
            match self.arrival().await? {
                Some(Arrival::Image(image)) => return Ok(Some(image)),
                Some(Arrival::Preview(_)) => (),
                None => return Ok(None),
            }
        }
    }

    /// The next image or preview, whole; `None` once all images have come.
    ///
    /// # Errors
    /// Why the generation ended early.
    pub async fn arrival(&mut self) -> Result<Option<Arrival>> {
        while self.answer.summary().is_none() {
            if let Some(arrival) = self.answer.take(receive(&mut self.stream, self.until).await?)? {
                return Ok(Some(arrival));
            }
        }
        Ok(None)
    }

    /// The end of the story, once [`Generation::next`] has given `None`.
    pub fn summary(&self) -> Option<&v1::Summary> {
        self.answer.summary()
    }
}

/// What the server answers, if it does by `until`.
async fn told<T>(until: Option<Instant>, answer: impl Future<Output = Result<T, Status>>) -> Result<T> {
    let answered = match until {
        Some(until) => timeout_at(until, answer).await.map_err(|_| Error::DeadlineExceeded)?,
        None => answer.await,
    };
    answered.map_err(|status| convert::error(&status))
}

async fn receive(
    stream: &mut Streaming<v1::GenerateResponse>,
    until: Option<Instant>,
) -> Result<v1::generate_response::Event> {
    let message = told(until, stream.message()).await?;
    let message =
        message.ok_or_else(|| Error::Unavailable("the stream ended before the images were all there".into()))?;
    message.event.ok_or_else(|| convert::breach("an event of a kind that this program does not know"))
}

fn endpoint(server: &str) -> Result<Endpoint> {
    let url = if server.contains("://") { server.to_owned() } else { format!("http://{server}") };
    let wrong = |why: &str| Error::Config(vec![format!("'{server}' {why}; an address is like http://127.0.0.1:50051")]);
    if !url.starts_with("http://") {
        return Err(wrong("has a scheme that is not spoken here: put a proxy that ends TLS in front"));
    }
    Endpoint::from_shared(url).map_err(|_| wrong("is not the address of a server"))
}

/// The innermost cause: those around it say no more than "transport error".
fn root(error: &dyn std::error::Error) -> String {
    let mut cause = error;
    while let Some(inner) = cause.source() {
        cause = inner;
    }
    cause.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_server_that_has_vanished_does_not_outlast_the_deadline() {
        let silence = std::future::pending::<Result<(), Status>>();
        assert!(matches!(told(Some(Instant::now()), silence).await, Err(Error::DeadlineExceeded)));
    }

    #[test]
    fn addresses_are_checked_before_they_are_called() {
        for good in ["http://127.0.0.1:50051", "localhost:50051", "http://[::1]:1"] {
            assert!(endpoint(good).is_ok(), "{good}");
        }
        for bad in ["https://a:1", "unix:///tmp/s", "http://", "a b:1"] {
            assert!(matches!(endpoint(bad), Err(Error::Config(_))), "{bad}");
        }
    }
}
