//! Requests of different step counts share forwards, and no image can tell.

use std::sync::Arc;

use candle_core::{Device, Tensor};
use flowmap::api::proto::v1;
use flowmap::api::{Client, client::floats};
use flowmap::app::App;
use flowmap::checkpoint::Repository;
use flowmap::domain::{ModelRef, Sampler, TimeGrid};
use flowmap::flow::FlowMap;
use flowmap::flow::guidance::Guided;
use flowmap::flow::sampler::{initial, sample};
use flowmap::model;
use flowmap::shutdown::Stops;
use tokio::sync::Barrier;
use tokio::task::JoinSet;

use crate::support::{config, get};

/// The step counts that requests ask for, in turn.
const STEPS: [u32; 5] = [1, 2, 3, 4, 8];
/// Requests at a time.
const REQUESTS: u64 = 64;
/// Images of a request, each of another class.
const IMAGES: u32 = 2;

/// What request `seed` asks for: steps, classes, guidance.
fn plan(seed: u64) -> (u32, Vec<i32>, f32) {
    let place = i32::try_from(seed).unwrap();
    let labels = [place % 11 - 1, (place + 3) % 11 - 1].to_vec();
    (STEPS[seed as usize % STEPS.len()], labels, if seed.is_multiple_of(4) { 2.0 } else { 1.0 })
}

/// Request `seed` over the wire, once all are ready.
async fn served(address: String, seed: u64, ready: Arc<Barrier>) -> Vec<Vec<f32>> {
    let mut client = Client::connect(&address).await.unwrap();
    ready.wait().await;
    let (steps, labels, guidance) = plan(seed);
    let asked = v1::GenerateRequest {
        count: Some(IMAGES),
        steps: Some(steps),
        labels,
        guidance: Some(guidance),
        seed: Some(seed),
        output_encoding: v1::OutputEncoding::Float32.into(),
        ..Default::default()
    };
    let mut generation = client.generate(asked).await.unwrap();
    let mut images = vec![Vec::new(); IMAGES as usize];
    while let Some(image) = generation.next().await.unwrap() {
        assert_eq!((image.steps, image.evaluations), (steps, steps));
        images[image.index as usize] = floats(&image).unwrap();
    }
    images
}

/// Request `seed` by the library, alone.
fn alone(net: &dyn FlowMap, shape: &[usize], classes: u32, seed: u64) -> Vec<Vec<f32>> {
    let (steps, labels, guidance) = plan(seed);
    let labels: Vec<u32> = labels.into_iter().map(|label| u32::try_from(label).unwrap_or(classes)).collect();
    let labels = Tensor::new(labels, &Device::Cpu).unwrap();
    let net = Guided { net, null_label: classes, scale: guidance.into() };
    let noise = initial(seed, 0..IMAGES, shape, 1.0, &Device::Cpu).unwrap();
    let end = sample(&net, Sampler::FlowMap, &TimeGrid::uniform(steps), &noise, &labels).unwrap();
    end.flatten_from(1).unwrap().to_vec2().unwrap()
}

/// The sum and the number of a histogram's observations of the model: other tests of this process have theirs.
fn histogram(metrics: &str, name: &str) -> (f64, f64) {
    let value = |suffix: &str| {
        let series = format!("{name}_{suffix}{{model=\"fashion-mnist@1\"}}");
        let line = metrics.lines().find(|line| line.starts_with(&series));
        line.and_then(|line| line.rsplit(' ').next()).unwrap().parse::<f64>().unwrap()
    };
    (value("sum"), value("count"))
}

#[tokio::test(flavor = "multi_thread")]
async fn every_image_of_64_mixed_requests_is_the_image_computed_alone() {
    let repository = Repository::embedded();
    let id = repository.resolve(&"fashion-mnist".parse::<ModelRef>().unwrap(), None).unwrap();
    let checkpoint = repository.load(&id).unwrap();
    // However slow the machine: forwards are as large as the queue allows.
    let settings = vec![("models.load", "fashion-mnist".into()), ("scheduler.max_step_ms", "60000".into())];
    let app = App::build(&config(settings)).await.unwrap();
    let (address, http) = (format!("http://{}", app.grpc_address()), app.http_address().to_string());
    let (stopper, stops) = Stops::manual();
    let running = tokio::spawn(app.serve(stops));

    let (mut requests, ready) = (JoinSet::new(), Arc::new(Barrier::new(REQUESTS as usize)));
    for seed in 0..REQUESTS {
        let (address, ready) = (address.clone(), Arc::clone(&ready));
        requests.spawn(async move { (seed, served(address, seed, ready).await) });
    }
    let answers = requests.join_all().await;

    let (_, metrics) = get(&http, "/metrics").await;
    let (rows, forwards) = histogram(&metrics, "flowmap_batch_rows");
    let (plans, _) = histogram(&metrics, "flowmap_batch_distinct_plans");
    assert!(rows / forwards > 4.0, "{rows} rows in {forwards} forwards");
    assert!(plans / forwards > 2.0, "{plans} step counts in {forwards} forwards");

    let net = model::load(&checkpoint, &Device::Cpu).unwrap();
    let data = &checkpoint.manifest.data;
    for (seed, images) in answers {
        let expected = alone(&net, &data.shape, data.classes.len() as u32, seed);
        assert_eq!(images, expected, "request {seed}: {:?}", plan(seed));
    }
    stopper.stop();
    running.await.unwrap().unwrap();
}
