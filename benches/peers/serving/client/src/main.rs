//! Puts Triton under the load that `flowmap bench` makes: the same requests at the same times from the same seed,
//! counted the same way, by a client of the same kind, so that both servers share the machine with the same guest.
//!
//! ```text
//! triton-load --concurrency 128 --seconds 10
//! triton-load --rate 200 --seconds 20
//! ```

use std::error::Error;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use clap::Parser;
use flowmap::load::{Ending, Mix, Outcome, Process, Random, Summary};
use tokio::task::JoinSet;
use tonic::transport::Channel;

use inference::grpc_inference_service_client::GrpcInferenceServiceClient as Client;
use inference::model_infer_request::InferInputTensor;
use inference::{ModelInferRequest, ModelReadyRequest};

mod inference {
    tonic::include_proto!("inference");
}

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// The model's name.
const MODEL: &str = "flowmap";
/// Streams of random numbers of clients in a closed loop begin here, as in `flowmap bench`.
const STREAM: u64 = 1 << 32;

/// Puts Triton under load and prints what became of the requests, as JSON.
#[derive(Debug, Parser)]
struct Args {
    /// The server's address.
    #[arg(long, default_value = "http://127.0.0.1:18001")]
    server: String,
    /// Open loop: requests a second, Poisson.
    #[arg(long, required_unless_present = "concurrency")]
    rate: Option<f64>,
    /// Closed loop: clients that each wait for their answer.
    #[arg(long, conflicts_with = "rate")]
    concurrency: Option<u32>,
    #[arg(long, default_value = "1:0.4,2:0.3,4:0.2,8:0.1")]
    mix: Mix,
    #[arg(long, default_value_t = 10.0)]
    seconds: f64,
    #[arg(long, default_value_t = 2.0)]
    warmup_seconds: f64,
    #[arg(long, default_value_t = 4)]
    connections: usize,
    #[arg(long, default_value_t = 1)]
    seed: u64,
    #[arg(long, default_value_t = 10)]
    classes: u64,
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let args = Args::parse();
    let target = Target::connect(&args).await?;
    let outcomes = match (args.rate, args.concurrency) {
        (Some(rate), _) => open(&args, &target, rate).await?,
        (None, clients) => closed(&args, &target, clients.unwrap_or(1)).await?,
    };
    let measured: Vec<Outcome> = outcomes.into_iter().filter(|outcome| outcome.at_s >= 0.0).collect();
    println!("{}", serde_json::to_string(&Summary::new(&measured, args.seconds))?);
    Ok(())
}

/// Connections, which requests take in turn.
#[derive(Clone)]
struct Target {
    clients: Arc<[Client<Channel>]>,
    count: Arc<AtomicU64>,
    seed: u64,
    classes: u64,
}

impl Target {
    async fn connect(args: &Args) -> Result<Self, Box<dyn Error>> {
        let mut clients = Vec::new();
        for _ in 0..args.connections {
            let channel = Channel::from_shared(args.server.clone())?.tcp_nodelay(true).connect().await?;
            clients.push(Client::new(channel));
        }
        let name = ModelReadyRequest { name: MODEL.into(), version: String::new() };
        if !clients[0].model_ready(name).await?.into_inner().ready {
            return Err("the model is not ready".into());
        }
        Ok(Self { clients: clients.into(), count: Arc::default(), seed: args.seed, classes: args.classes })
    }

    /// Sends the request that is due at `instant` and waits for its image.
    async fn send(&self, at_s: f64, instant: Instant, steps: u32) -> Outcome {
        let number = self.count.fetch_add(1, Ordering::Relaxed);
        let place = usize::try_from(number).unwrap_or(0) % self.clients.len();
        let mut client = self.clients[place].clone();
        match client.model_infer(request(steps, number % self.classes, self.seed.wrapping_add(number))).await {
            Ok(response) if response.get_ref().raw_output_contents.len() == 1 => {
                let latency_s = instant.elapsed().as_secs_f32();
                let whole = Outcome { images: 1, full_images: 1, steps_used: steps, ..Outcome::answered(at_s, steps, latency_s, None) };
                Outcome { first_image_s: Some(latency_s), ..whole }
            }
            Ok(_) => Outcome::unanswered(at_s, steps, Ending::Failed),
            Err(why) => {
                eprintln!("{why}");
                Outcome::unanswered(at_s, steps, Ending::Failed)
            }
        }
    }
}

/// A request for one image.
fn request(steps: u32, label: u64, seed: u64) -> ModelInferRequest {
    let input = |name: &str, datatype: &str| InferInputTensor {
        name: name.into(),
        datatype: datatype.into(),
        shape: vec![1, 1],
    };
    ModelInferRequest {
        model_name: MODEL.into(),
        inputs: vec![input("steps", "INT32"), input("label", "INT64"), input("seed", "UINT64")],
        raw_input_contents: vec![
            steps.to_le_bytes().to_vec(),
            label.to_le_bytes().to_vec(),
            seed.to_le_bytes().to_vec(),
        ],
        ..Default::default()
    }
}

/// Requests are sent when they are due, whatever became of those before them.
async fn open(args: &Args, target: &Target, rate: f64) -> Result<Vec<Outcome>, Box<dyn Error>> {
    let arrivals = Process::Poisson.arrivals(rate, &args.mix, args.seed)?;
    let arrivals: Vec<_> = arrivals.take_while(|a| a.at_s < args.warmup_seconds + args.seconds).collect();
    let begun = Instant::now() + Duration::from_millis(5);
    let (warmup_s, target) = (args.warmup_seconds, target.clone());
    // A thread of its own, as in `flowmap bench`: the runtime's clock ticks in milliseconds.
    let sender = tokio::task::spawn_blocking(move || {
        let mut tasks = JoinSet::new();
        let runtime = tokio::runtime::Handle::current();
        for arrival in arrivals {
            let instant = begun + Duration::from_secs_f64(arrival.at_s);
            std::thread::sleep(instant.saturating_duration_since(Instant::now()));
            let target = target.clone();
            let send = async move { target.send(arrival.at_s - warmup_s, instant, arrival.steps).await };
            tasks.spawn_on(send, &runtime);
        }
        tasks
    });
    Ok(sender.await?.join_all().await)
}

/// Each client sends its next request when it has its answer.
async fn closed(args: &Args, target: &Target, clients: u32) -> Result<Vec<Outcome>, Box<dyn Error>> {
    let begun = Instant::now();
    let until = begun + Duration::from_secs_f64(args.warmup_seconds + args.seconds);
    let mut tasks = JoinSet::new();
    for number in 0..clients {
        let (target, mix, warmup_s) = (target.clone(), args.mix.clone(), args.warmup_seconds);
        let mut random = Random::new(args.seed, STREAM + u64::from(number));
        tasks.spawn(async move {
            let mut outcomes = Vec::new();
            while Instant::now() < until {
                let instant = Instant::now();
                let at_s = (instant - begun).as_secs_f64() - warmup_s;
                outcomes.push(target.send(at_s, instant, mix.draw(&mut random)).await);
            }
            outcomes
        });
    }
    Ok(tasks.join_all().await.into_iter().flatten().collect())
}
