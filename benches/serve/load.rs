//! Clients in closed loops.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use flowmap::api::proto::v1::generate_response::Event;
use flowmap::api::proto::v1::generation_service_client::GenerationServiceClient;
use flowmap::api::proto::v1::{GenerateRequest, GenerateResponse, OutputEncoding};
use tokio::task::JoinSet;
use tonic::Streaming;
use tonic::transport::{Channel, Endpoint};

use super::Failure;

type Client = GenerationServiceClient<Channel>;

/// What each request asks for.
#[derive(Debug, Clone, Copy)]
pub(super) struct Load {
    pub(super) encoding: OutputEncoding,
    pub(super) steps: u32,
    pub(super) count: u32,
}

impl Default for Load {
    fn default() -> Self {
        Self { encoding: OutputEncoding::Float32, steps: 1, count: 1 }
    }
}

/// Clients at work.
pub(super) struct Clients {
    enough: Arc<AtomicBool>,
    tasks: JoinSet<Result<(), Failure>>,
}

impl Clients {
    /// Lets them finish.
    pub(super) async fn stop(mut self) -> Result<(), Failure> {
        self.enough.store(true, Ordering::Relaxed);
        while let Some(ended) = self.tasks.join_next().await {
            ended??;
        }
        Ok(())
    }
}

impl Load {
    fn request(self, seed: u64) -> GenerateRequest {
        let mut request = GenerateRequest {
            steps: Some(self.steps),
            seed: Some(seed),
            count: Some(self.count),
            ..Default::default()
        };
        request.set_output_encoding(self.encoding);
        request
    }

    /// `clients` clients over `connections`, each of which asks anew when it has its image.
    pub(super) async fn start(self, address: String, connections: usize, clients: usize) -> Result<Clients, Failure> {
        let enough = Arc::new(AtomicBool::new(false));
        let (connections, mut tasks) = (connect(&address, connections).await?, JoinSet::new());
        for number in 0..clients {
            let (mut client, enough) = (connections[number % connections.len()].clone(), Arc::clone(&enough));
            tasks.spawn(async move {
                while !enough.load(Ordering::Relaxed) {
                    finish(client.generate(self.request(number as u64)).await?.into_inner()).await?;
                }
                Ok(())
            });
        }
        Ok(Clients { enough, tasks })
    }

    /// One request after the other for some time; what each took, in µs.
    pub(super) async fn one_by_one(self, address: String, time: Duration) -> Result<Vec<f64>, Failure> {
        let mut client = connect(&address, 1).await?.remove(0);
        let (begun, mut latencies) = (Instant::now(), Vec::new());
        while begun.elapsed() < time {
            let sent = Instant::now();
            finish(client.generate(self.request(latencies.len() as u64)).await?.into_inner()).await?;
            latencies.push(1e6 * sent.elapsed().as_secs_f64());
        }
        Ok(latencies)
    }

    /// Opens `streams` streams, and keeps them open while the result lives.
    pub(super) async fn open(
        self,
        address: String,
        connections: usize,
        streams: usize,
    ) -> Result<Vec<(Client, Streaming<GenerateResponse>)>, Failure> {
        let (connections, mut open) = (connect(&address, connections).await?, Vec::with_capacity(streams));
        for number in 0..streams {
            let mut client = connections[number % connections.len()].clone();
            let mut stream = client.generate(self.request(number as u64)).await?.into_inner();
            stream.message().await?.ok_or("a stream ended at once")?;
            open.push((client, stream));
        }
        Ok(open)
    }
}

async fn connect(address: &str, connections: usize) -> Result<Vec<Client>, Failure> {
    let endpoint = Endpoint::from_shared(address.to_owned())?.tcp_nodelay(true);
    let mut clients = Vec::with_capacity(connections);
    for _ in 0..connections {
        clients.push(Client::new(endpoint.connect().await?));
    }
    Ok(clients)
}

/// Reads a stream to its summary.
async fn finish(mut stream: Streaming<GenerateResponse>) -> Result<(), Failure> {
    let mut is_complete = false;
    while let Some(message) = stream.message().await? {
        is_complete = matches!(message.event, Some(Event::Summary(_)));
    }
    if is_complete { Ok(()) } else { Err("a stream ended without its summary".into()) }
}
