//! A hundred thousand streams, most of them dropped at some moment, leave nothing behind.

use std::collections::HashSet;
use std::sync::{Arc, Mutex};

use flowmap::api::Catalogue;
use flowmap::api::proto::v1;
use flowmap::app::{App, Parts};
use flowmap::domain::ModelRef;
use flowmap::engine::{Batch, Engine, Outcome, Purpose, RowId};
use flowmap::error::Result;
use flowmap::shutdown::Stops;
use tokio::task::JoinSet;
use tokio_stream::StreamExt;
use tonic::Code;

use crate::support::{Client, config, get, model, request, until};

/// Streams in all.
const STREAMS: u32 = 100_000;
/// Streams at a time.
const AT_A_TIME: u32 = 32;
/// Images that the server takes at a time.
const CAPACITY: u32 = 256;

/// A device whose only work is to know which rows it holds.
struct Holding(Arc<Mutex<HashSet<RowId>>>);

impl Engine for Holding {
    fn step(&mut self, batch: &Batch) -> Result<Vec<Outcome>> {
        let mut held = self.0.lock().unwrap();
        let outcome = |step: &flowmap::engine::RowStep| match step.purpose {
            Purpose::Advance => {
                held.insert(step.row);
                Outcome::Running
            }
            Purpose::Preview => Outcome::Preview(vec![0.0; 16]),
            Purpose::Finish { keep } => {
                held.remove(&step.row);
                Outcome::Finished { state: vec![0.0; 16], before: keep.then(|| vec![0.0; 16]) }
            }
        };
        Ok(batch.rows.iter().map(outcome).collect())
    }

    fn release(&mut self, rows: &[RowId]) {
        let mut held = self.0.lock().unwrap();
        rows.iter().for_each(|row| _ = held.remove(row));
    }
}

/// A number below `bound` that depends on `number` without a pattern.
fn drawn(number: u32, salt: u32, bound: u32) -> u32 {
    (number.wrapping_mul(0x9E37_79B9) ^ salt.wrapping_mul(0x85EB_CA6B)).rotate_left(13).wrapping_mul(0xC2B2_AE35)
        % bound
}

/// Opens a stream and leaves it after some messages, or before the first, or reads it to its end.
async fn stream(client: &mut Client, number: u32) {
    let mut asked = request(1 + drawn(number, 1, 3), 1 + drawn(number, 2, 8));
    asked.min_steps = Some(1);
    asked.previews = number.is_multiple_of(5).then(v1::Previews::default);
    let open = client.generate(asked);
    if number.is_multiple_of(7) {
        // Left while it is being opened.
        let patience = std::time::Duration::from_micros(u64::from(drawn(number, 3, 300)));
        let _ = tokio::time::timeout(patience, open).await;
        return;
    }
    let mut messages = match open.await {
        Ok(response) => response.into_inner(),
        Err(refused) => return assert_eq!(refused.code(), Code::ResourceExhausted, "{refused}"),
    };
    for _ in 0..drawn(number, 4, 6) {
        match messages.next().await {
            Some(Ok(_)) => {}
            Some(Err(refused)) => return assert_eq!(refused.code(), Code::ResourceExhausted, "{refused}"),
            None => return,
        }
    }
}

/// The value of a series.
fn value(metrics: &str, series: &str) -> f64 {
    let line = metrics.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' '));
    line.unwrap_or_else(|| panic!("{series} is not in\n{metrics}")).parse().unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hundred_thousand_dropped_streams_leave_nothing_behind() {
    let settings = vec![
        ("scheduler.max_queued_images", CAPACITY.to_string()),
        ("limits.max_count", CAPACITY.to_string()),
        ("limits.max_deadline_ms", "60000".into()),
    ];
    let held = Arc::new(Mutex::new(HashSet::new()));
    let engine = Holding(Arc::clone(&held));
    let catalogue = Catalogue::new(Arc::new([model("soak")]), &ModelRef::default()).unwrap();
    let parts = Parts { catalogue, engines: vec![Box::new(move || Ok(Box::new(engine) as Box<dyn Engine>))] };
    let app = App::assemble(&config(settings), parts).await.unwrap();
    let (grpc, http) = (format!("http://{}", app.grpc_address()), app.http_address().to_string());
    let (stopper, stops) = Stops::manual();
    let served = tokio::spawn(app.serve(stops));
    let mut tasks = JoinSet::new();
    for task in 0..AT_A_TIME {
        let mut client = Client::connect(grpc.clone()).await.unwrap();
        tasks.spawn(async move {
            for number in (task..STREAMS).step_by(AT_A_TIME as usize) {
                stream(&mut client, number).await;
            }
        });
    }
    while let Some(done) = tasks.join_next().await {
        done.unwrap();
    }
    // The process has other servers: what is this one's alone is what it says of its model.
    let resting = async || {
        let (_, metrics) = get(&http, "/metrics").await;
        let level = |name: &str| value(&metrics, &format!("{name}{{model=\"soak@1\"}}"));
        level("flowmap_images_waiting") + level("flowmap_images_running") + level("flowmap_evaluations_pending") == 0.0
    };
    until(resting).await;
    until(async || held.lock().unwrap().is_empty()).await;
    // Every permit is back: all of them are to be had at once.
    let mut client = Client::connect(grpc).await.unwrap();
    until(async || {
        let Ok(response) = client.generate(request(CAPACITY, 2)).await else { return false };
        let events: Vec<_> = response.into_inner().collect().await;
        events.len() == CAPACITY as usize + 2 && events.iter().all(Result::is_ok)
    })
    .await;
    stopper.stop();
    served.await.unwrap().unwrap();
}
