//! A server with a scripted engine, and clients for it.

use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

use flowmap::api::Catalogue;
use flowmap::api::proto::v1;
use flowmap::api::proto::v1::generate_response::Event;
use flowmap::api::proto::v1::generation_service_client::GenerationServiceClient;
use flowmap::app::{App, Parts};
use flowmap::config::{Config, Layers, Override};
use flowmap::domain::{Guidance, ModelId, ModelInfo, ModelRef, TimePairs};
use flowmap::engine::scripted::{Record, Scripted, Verdict};
use flowmap::engine::{Batch, Engine, Outcome, RowId};
use flowmap::error::Result;
use flowmap::shutdown::{Ending, Stopper, Stops};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::task::JoinHandle;
use tokio_stream::StreamExt;
use tonic::transport::Channel;
use tonic::{Status, Streaming};

/// Nothing here takes this long; where it passes, a test hangs.
const PATIENCE: Duration = Duration::from_secs(30);

pub(crate) type Client = GenerationServiceClient<Channel>;

/// What a test changes of the ordinary server.
pub(crate) struct Setup {
    pub(crate) model: ModelInfo,
    pub(crate) settings: Vec<(&'static str, String)>,
    pub(crate) script: Box<dyn FnMut(&Batch) -> Verdict + Send>,
    /// What the engine's making waits for.
    pub(crate) start: Gate,
    /// What every forward takes, those that measure the device included.
    pub(crate) forward: Duration,
}

/// A device that takes its time.
struct Slow {
    engine: Scripted,
    forward: Duration,
}

impl Engine for Slow {
    fn step(&mut self, batch: &Batch) -> Result<Vec<Outcome>> {
        std::thread::sleep(self.forward);
        self.engine.step(batch)
    }

    fn release(&mut self, rows: &[RowId]) {
        self.engine.release(rows);
    }
}

impl Setup {
    /// A model of 1 × 4 × 4 images with three classes and a device that does as it is told.
    pub(crate) fn new() -> Self {
        let (script, start, forward) = (Box::new(|_: &Batch| Verdict::Proceed), Gate::default(), Duration::ZERO);
        Self { model: model("tiny"), settings: vec![], script, start, forward }
    }

    /// Changes a setting.
    pub(crate) fn set(mut self, key: &'static str, value: impl ToString) -> Self {
        self.settings.push((key, value.to_string()));
        self
    }

    /// Changes the model.
    pub(crate) fn model(mut self, model: ModelInfo) -> Self {
        self.model = model;
        self
    }

    /// Decides how forwards end.
    pub(crate) fn script(mut self, script: impl FnMut(&Batch) -> Verdict + Send + 'static) -> Self {
        self.script = Box::new(script);
        self
    }

    /// Forwards wait for the gate.
    pub(crate) fn gate(self, gate: &Gate) -> Self {
        let gate = gate.clone();
        self.script(move |_| {
            gate.pass();
            Verdict::Proceed
        })
    }

    /// The engine is made when the gate opens.
    pub(crate) fn slow_start(mut self, gate: &Gate) -> Self {
        self.start = gate.clone();
        self
    }

    /// Makes every forward take this long.
    pub(crate) fn slow(mut self, forward: Duration) -> Self {
        self.forward = forward;
        self
    }

    /// Starts it.
    pub(crate) async fn start(self) -> Server {
        let config = config(self.settings);
        let catalogue = Catalogue::new(Arc::new([self.model]), &ModelRef::default()).unwrap();
        let (engine, record) = Scripted::new(catalogue.models(), self.script);
        let (start, engine) = (self.start, Slow { engine, forward: self.forward });
        let make = move || {
            start.pass();
            Ok(Box::new(engine) as Box<dyn Engine>)
        };
        let parts = Parts { catalogue, engines: vec![Box::new(make)] };
        let app = App::assemble(&config, parts).await.unwrap();
        let (grpc, http) = (app.grpc_address().to_string(), app.http_address().to_string());
        let (stopper, stops) = Stops::manual();
        let served = tokio::spawn(app.serve(stops));
        Server { grpc, http, stopper, served, record }
    }
}

/// The defaults on free ports, and these settings.
pub(crate) fn config(settings: Vec<(&'static str, String)>) -> Config {
    let free_ports = [("server.grpc_address", "127.0.0.1:0".into()), ("server.http_address", "127.0.0.1:0".into())];
    let set = |(key, value): (&str, String)| Override { key: key.into(), value, flag: "--set".into() };
    let layers = Layers::load(None, [], free_ports.into_iter().chain(settings).map(set)).unwrap();
    Config::read(&layers).unwrap()
}

/// A model whose name keeps its metrics apart from those of other tests.
pub(crate) fn model(name: &str) -> ModelInfo {
    ModelInfo {
        id: ModelId { name: name.into(), version: 1 },
        description: "Nothing".into(),
        architecture: "scripted".into(),
        parameters: 0,
        shape: vec![1, 4, 4],
        value_range: [0.0, 255.0],
        noise_scale: 1.0,
        classes: ["zero", "one", "two"].map(String::from).to_vec(),
        guidance: Guidance::TwoCall { max: 4.0 },
        time_pairs: TimePairs::Triangle,
        objective: "none".into(),
        content_hash: "00".into(),
        quality: None,
        grids: vec![],
    }
}

/// Holds forwards back while it is closed. A worker still takes jobs in front of a closed gate, because it looks for
/// them before each forward.
#[derive(Clone, Default)]
pub(crate) struct Gate(Arc<(Mutex<Passes>, Condvar)>);

#[derive(Default)]
enum Passes {
    #[default]
    All,
    Some(u32),
}

impl Gate {
    pub(crate) fn close(&self) {
        self.turn(Passes::Some(0));
    }

    pub(crate) fn open(&self) {
        self.turn(Passes::All);
    }

    /// Lets one forward through.
    pub(crate) fn let_one_pass(&self) {
        self.turn(Passes::Some(1));
    }

    fn turn(&self, passes: Passes) {
        *self.0.0.lock().unwrap() = passes;
        self.0.1.notify_all();
    }

    fn pass(&self) {
        let (passes, changed) = &*self.0;
        let closed = |passes: &mut Passes| matches!(passes, Passes::Some(0));
        let mut passes = changed.wait_while(passes.lock().unwrap(), closed).unwrap();
        if let Passes::Some(left) = &mut *passes {
            *left -= 1;
        }
    }
}

/// A server that serves.
pub(crate) struct Server {
    pub(crate) grpc: String,
    pub(crate) http: String,
    pub(crate) stopper: Stopper,
    pub(crate) served: JoinHandle<Result<Ending>>,
    pub(crate) record: Record,
}

impl Server {
    /// A new connection.
    pub(crate) async fn channel(&self) -> Channel {
        Channel::from_shared(format!("http://{}", self.grpc)).unwrap().connect().await.unwrap()
    }

    /// A new connection whose streams take 64 KiB ahead of their readers.
    pub(crate) async fn narrow_channel(&self) -> Channel {
        let endpoint = Channel::from_shared(format!("http://{}", self.grpc)).unwrap();
        endpoint.initial_stream_window_size(65_535).connect().await.unwrap()
    }

    /// A client on a new connection.
    pub(crate) async fn client(&self) -> Client {
        GenerationServiceClient::new(self.channel().await)
    }

    /// Status and body of a GET.
    pub(crate) async fn get(&self, path: &str) -> (u16, String) {
        get(&self.http, path).await
    }

    /// How it ended.
    pub(crate) async fn ended(self) -> Result<Ending> {
        within(self.served).await.unwrap()
    }
}

/// Status and body of a GET.
pub(crate) async fn get(address: &str, path: &str) -> (u16, String) {
    let mut stream = tokio::net::TcpStream::connect(address).await.unwrap();
    let request = format!("GET {path} HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    (head.split(' ').nth(1).unwrap().parse().unwrap(), body.into())
}

/// The future's value; panics where it never comes.
pub(crate) async fn within<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, future).await.expect("still waiting")
}

/// Waits until `condition` holds.
pub(crate) async fn until(mut condition: impl AsyncFnMut() -> bool) {
    within(async {
        while !condition().await {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    })
    .await;
}

/// A request for `count` images in `steps` steps.
pub(crate) fn request(count: u32, steps: u32) -> v1::GenerateRequest {
    v1::GenerateRequest { count: Some(count), steps: Some(steps), ..Default::default() }
}

/// The open stream of a request.
pub(crate) async fn open(
    client: &mut Client,
    request: v1::GenerateRequest,
) -> Result<Streaming<v1::GenerateResponse>, Status> {
    within(client.generate(request)).await.map(tonic::Response::into_inner)
}

/// The next event.
pub(crate) async fn next(stream: &mut Streaming<v1::GenerateResponse>) -> Result<Event, Status> {
    let message = within(stream.next()).await.expect("the stream has ended");
    message.map(|message| message.event.expect("an event"))
}

/// How a stream fails that nobody has read until now; everything but its end may come before.
pub(crate) async fn failure(unread: &mut Streaming<v1::GenerateResponse>) -> Status {
    loop {
        match next(unread).await {
            Ok(Event::Summary(_)) => panic!("the summary was kept"),
            Ok(_) => (),
            Err(status) => return status,
        }
    }
}

/// Every event of a request, or how it failed.
pub(crate) async fn all(client: &mut Client, request: v1::GenerateRequest) -> Result<Vec<Event>, Status> {
    let mut stream = open(client, request).await?;
    let mut events = Vec::new();
    while let Some(message) = within(stream.next()).await {
        events.push(message?.event.expect("an event"));
    }
    Ok(events)
}
