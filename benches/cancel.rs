//! From the moment a client drops its stream to the moment the device has forgotten its rows, in step times: over a real
//! socket, beside other streams that keep the device busy. A cancellation waits for the forward in progress, hence half
//! a step on average and one at most, and the rest is the way there.
//!
//! ```text
//! cargo bench --bench cancel
//! ```

use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::{Duration, Instant};

use flowmap::api::Catalogue;
use flowmap::api::proto::v1;
use flowmap::api::proto::v1::generation_service_client::GenerationServiceClient;
use flowmap::app::{App, Parts};
use flowmap::checkpoint::Repository;
use flowmap::config::{Config, Layers, Override};
use flowmap::domain::ModelRef;
use flowmap::engine::{Batch, Engine, Outcome, Purpose, RowId, RowStep};
use flowmap::shutdown::Stops;
use tokio_stream::StreamExt;

/// What a forward takes.
const STEP: Duration = Duration::from_millis(10);
/// Streams that are cancelled.
const STREAMS: u64 = 1000;
/// The seed by which a stream that will be cancelled is known to the device; others have another.
const DOOMED: u64 = 4711;

type Failure = Box<dyn std::error::Error + Send + Sync>;

/// A device that takes its time and tells when it was told to forget a row of a stream that is cancelled.
struct Slow {
    elements: usize,
    watched: Option<RowId>,
    forgotten: SyncSender<Instant>,
}

impl Engine for Slow {
    fn step(&mut self, batch: &Batch) -> flowmap::error::Result<Vec<Outcome>> {
        std::thread::sleep(STEP);
        let is_doomed = |row: &&RowStep| row.start.is_some() && row.noise.seed == DOOMED;
        if let Some(row) = batch.rows.iter().find(is_doomed) {
            self.watched = Some(row.row);
        }
        let outcome = |row: &RowStep| match row.purpose {
            Purpose::Advance => Outcome::Running,
            _ => Outcome::Finished { state: vec![0.0; self.elements], before: None },
        };
        Ok(batch.rows.iter().map(outcome).collect())
    }

    fn release(&mut self, rows: &[RowId]) {
        if self.watched.is_some_and(|row| rows.contains(&row)) {
            self.watched = None;
            let _ = self.forgotten.try_send(Instant::now());
        }
    }
}

fn main() -> Result<(), Failure> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let mut delays = runtime.block_on(measure())?;
    delays.sort_unstable_by(f64::total_cmp);
    let quantile = |q: f64| delays[((delays.len() - 1) as f64 * q) as usize];
    println!("{STREAMS} streams cancelled at random moments beside 8 others; forwards of {} ms", STEP.as_millis());
    println!("from drop to release, in step times:\n");
    println!("| p50 | p90 | p99 | largest |");
    println!("| ---: | ---: | ---: | ---: |");
    println!("| {:.2} | {:.2} | {:.2} | {:.2} |", quantile(0.5), quantile(0.9), quantile(0.99), quantile(1.0));
    Ok(())
}

async fn measure() -> Result<Vec<f64>, Failure> {
    let (forgotten, heard) = sync_channel(1);
    let (address, stop) = serve(forgotten).await?;
    let others = (0..8u64).map(|seed| {
        let address = address.clone();
        tokio::spawn(async move { stream(&address, seed, 200).await.map(drop) })
    });
    let others: Vec<_> = others.collect();
    let mut client = GenerationServiceClient::connect(address.clone()).await?;
    let mut delays = Vec::new();
    for number in 0..STREAMS {
        delays.push(cancelled(&mut client, number, &heard).await?);
    }
    others.into_iter().for_each(|other| other.abort());
    stop.stop();
    Ok(delays)
}

/// A server of the slow device.
async fn serve(forgotten: SyncSender<Instant>) -> Result<(String, flowmap::shutdown::Stopper), Failure> {
    let set = |key: &str, value: &str| Override { key: key.into(), value: value.into(), flag: "--set".into() };
    let settings = [
        set("server.grpc_address", "127.0.0.1:0"),
        set("server.http_address", "127.0.0.1:0"),
        set("scheduler.max_step_ms", "1000"),
        set("limits.max_evaluations", "1000000"),
    ];
    let config = Config::read(&Layers::load(None, [], settings)?)?;
    let repository = Repository::embedded();
    let id = repository.resolve(&"fashion-mnist".parse::<ModelRef>()?, None)?;
    let info = repository.load(&id)?.manifest.info(id);
    let engine = Slow { elements: info.elements(), watched: None, forgotten };
    let catalogue = Catalogue::new(Arc::new([info]), &ModelRef::default())?;
    let parts = Parts { catalogue, engines: vec![Box::new(move || Ok(Box::new(engine) as Box<dyn Engine>))] };
    let app = App::assemble(&config, parts).await?;
    let address = format!("http://{}", app.grpc_address());
    let (stopper, stops) = Stops::manual();
    tokio::spawn(app.serve(stops));
    Ok((address, stopper))
}

/// Reads streams of `steps` steps, one after the other, for ever.
async fn stream(address: &str, seed: u64, steps: u32) -> Result<(), tonic::Status> {
    let mut client = GenerationServiceClient::connect(address.to_owned())
        .await
        .map_err(|e| tonic::Status::unknown(e.to_string()))?;
    loop {
        let asked = v1::GenerateRequest { steps: Some(steps), seed: Some(seed), ..Default::default() };
        let mut messages = client.generate(asked).await?.into_inner();
        while messages.next().await.transpose()?.is_some() {}
    }
}

/// Opens a stream, drops it at some moment of some forward, and waits until the device has forgotten it.
async fn cancelled(
    client: &mut GenerationServiceClient<tonic::transport::Channel>,
    number: u64,
    heard: &Receiver<Instant>,
) -> Result<f64, Failure> {
    let asked = v1::GenerateRequest { steps: Some(200), seed: Some(DOOMED), ..Default::default() };
    let mut messages = client.generate(asked).await?.into_inner();
    messages.next().await.transpose()?;
    // Between the second and the fourth forward, at a moment that is even over a step.
    let phase = (number as f64 * 0.618_033_988_749_894_9).fract();
    tokio::time::sleep(2 * STEP + STEP.mul_f64(2.0 * phase)).await;
    let dropped = Instant::now();
    drop(messages);
    let forgotten = tokio::task::block_in_place(|| heard.recv_timeout(Duration::from_secs(5)))?;
    Ok(forgotten.saturating_duration_since(dropped).as_secs_f64() / STEP.as_secs_f64())
}
