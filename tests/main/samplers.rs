//! Samplers, time pairs and beginnings, as clients meet them.

use candle_core::{Device, Tensor};
use flowmap::api::client::{floats, sampler};
use flowmap::api::{Client, proto::v1};
use flowmap::checkpoint::Checkpoint;
use flowmap::domain::{NoiseKey, Receipt, Sampler, TimeGrid, TimePairs};
use flowmap::error::Error;
use flowmap::flow::noise;
use flowmap::flow::sampler::{Fresh, sample_with};
use flowmap::model;
use tokio::task::JoinSet;

use crate::real::{Repository, SHAPE};
use crate::support::request;

/// Numbers in a sample.
const ELEMENTS: usize = 3 * 16 * 16;

/// The images of a request by their index, and their numbers.
async fn made(client: &mut Client, asked: v1::GenerateRequest) -> Vec<(v1::Image, Vec<f32>)> {
    let asked = v1::GenerateRequest { output_encoding: v1::OutputEncoding::Float32.into(), ..asked };
    let mut generation = client.generate(asked).await.unwrap();
    let mut images = Vec::new();
    while let Some(image) = generation.next().await.unwrap() {
        let numbers = floats(&image).unwrap();
        images.push((image, numbers));
    }
    images.sort_by_key(|(image, _)| image.index);
    images
}

/// One image by the library, alone, from `state` or from noise.
fn alone(repository: &Repository, sampler: Sampler, times: &[f64], key: NoiseKey, state: Option<Vec<f32>>) -> Vec<f32> {
    let net = model::load(&Checkpoint::read(&repository.checkpoint()).unwrap(), &Device::Cpu).unwrap();
    let state = state.unwrap_or_else(|| noise::initial(key.seed, key.index, ELEMENTS, 1.0));
    let x = Tensor::from_vec(state, [&[1], &SHAPE[..]].concat(), &Device::Cpu).unwrap();
    let (grid, labels) = (TimeGrid::new(times.to_vec()).unwrap(), Tensor::new(&[3u32], &Device::Cpu).unwrap());
    let fresh = Fresh { keys: &[key], scale: 1.0 };
    let end = sample_with(&net, sampler, &grid, &x, &labels, &fresh).unwrap();
    end.flatten_all().unwrap().to_vec1().unwrap()
}

fn gamma(gamma: f32, seed: u64, steps: u32) -> v1::GenerateRequest {
    let sampler = v1::Sampler::Gamma.into();
    v1::GenerateRequest { sampler, gamma: Some(gamma), seed: Some(seed), ..request(2, steps) }
}

#[tokio::test]
async fn fresh_noise_is_the_images_own_whatever_shares_its_forwards() {
    let repository = Repository::new();
    let server = repository.serve().await;
    let mut requests = JoinSet::new();
    for seed in 0..12u64 {
        let mut client = Client::connect(&server.address).await.unwrap();
        let asked = gamma([0.0, 0.5, 1.0][seed as usize % 3], seed, 1 + seed as u32 % 5);
        requests.spawn(async move { (asked.clone(), made(&mut client, asked).await) });
    }
    for (asked, images) in requests.join_all().await {
        for (image, numbers) in images {
            let receipt = image.receipt.unwrap();
            assert_eq!((receipt.sampler(), receipt.gamma), (v1::Sampler::Gamma, asked.gamma));
            let by = sampler(receipt.sampler(), receipt.gamma).unwrap();
            let key = NoiseKey { seed: receipt.seed, index: receipt.index };
            assert_eq!(image.evaluations, asked.steps.unwrap());
            assert_eq!(numbers, alone(&repository, by, &receipt.times, key, None), "{by}");
        }
    }
}

#[tokio::test]
async fn a_continued_image_keeps_the_noise_that_it_had() {
    let repository = Repository::new();
    for (kept_bytes, evaluations) in [("67108864", 2), ("0", 3)] {
        let server = repository.serve_with(vec![("scheduler.kept_bytes", kept_bytes.into())]).await;
        let mut client = Client::connect(&server.address).await.unwrap();
        let first = made(&mut client, gamma(0.7, 5, 2)).await;
        // The same noise and times by another sampler leave another state behind.
        let plain = v1::GenerateRequest { sampler: v1::Sampler::FlowMap.into(), gamma: None, ..gamma(0.0, 5, 2) };
        assert_ne!(made(&mut client, plain).await[0].1, first[0].1);
        let continue_from = first.iter().map(|(image, _)| image.receipt.clone().unwrap()).collect();
        let asked = v1::GenerateRequest { continue_from, steps: Some(4), ..Default::default() };
        for (image, numbers) in made(&mut client, asked).await {
            let key = NoiseKey { seed: 5, index: image.index };
            let by = "gamma:0.7".parse().unwrap();
            assert_eq!(numbers, alone(&repository, by, &[0.0, 0.5, 0.75, 1.0], key, None));
            assert_eq!(image.evaluations, evaluations);
        }
    }
}

#[tokio::test]
async fn a_consistency_model_is_sampled_as_one_and_says_so() {
    let repository = Repository::with(TimePairs::End);
    let server = repository.serve().await;
    let mut client = Client::connect(&server.address).await.unwrap();
    assert_eq!(client.model("small").await.unwrap().time_pairs, TimePairs::End);
    for (image, numbers) in made(&mut client, v1::GenerateRequest { seed: Some(3), ..request(2, 3) }).await {
        let receipt = Receipt::try_from(image.receipt.unwrap()).unwrap();
        assert_eq!(receipt.sampler, Sampler::CONSISTENCY);
        let key = NoiseKey { seed: 3, index: image.index };
        assert_eq!(numbers, alone(&repository, Sampler::CONSISTENCY, &receipt.times, key, None));
    }
    let asked = v1::GenerateRequest { sampler: v1::Sampler::FlowMap.into(), ..request(1, 2) };
    let told = client.generate(asked).await.err().unwrap();
    let Error::Invalid(violations) = &told else { panic!("{told}") };
    assert_eq!(violations[0].field, "sampler");
    assert!(violations[0].description.contains("only jumps to t = 1"), "{told}");
}

#[tokio::test]
async fn a_shortcut_model_jumps_by_powers_of_two() {
    let repository = Repository::with(TimePairs::Dyadic { levels: 5 });
    let server = repository.serve().await;
    let mut client = Client::connect(&server.address).await.unwrap();
    assert_eq!(client.model("small").await.unwrap().time_pairs, TimePairs::Dyadic { levels: 5 });
    for steps in [3, 64] {
        let Err(Error::Invalid(violations)) = client.generate(request(1, steps)).await else { panic!("accepted") };
        assert_eq!(violations[0].field, "steps");
        assert!(violations[0].description.ends_with("a power of two up to 32"), "{}", violations[0].description);
    }
    // Too late for all steps, whatever the machine: each image has a number of them that the model knows.
    let asked = v1::GenerateRequest { min_steps: Some(1), deadline_ms: Some(400), ..request(64, 32) };
    for (image, _) in made(&mut client, asked).await {
        let times = image.receipt.unwrap().times;
        let pairs = TimePairs::Dyadic { levels: 5 };
        assert!(times.windows(2).all(|pair| pairs.contains(pair[0], pair[1])), "{times:?}");
    }
}

fn states(numbers: &[f32], time: f64, add_noise: bool) -> Option<v1::InitialState> {
    let float32_data = numbers.iter().flat_map(|x| x.to_le_bytes()).collect();
    let states = Some(v1::Tensor { shape: SHAPE.map(|side| side as u32).to_vec(), float32_data });
    Some(v1::InitialState { states, time, add_noise })
}

#[tokio::test]
async fn data_begins_with_the_noise_of_each_image() {
    let repository = Repository::new();
    let server = repository.serve().await;
    let mut client = Client::connect(&server.address).await.unwrap();
    let data = repository.samples(1, 1, &[0]).concat();
    let begun = |index| noise::noised(&data, 0.5, NoiseKey { seed: 8, index }, 1.0);
    let asked = v1::GenerateRequest { initial_state: states(&data, 0.5, true), seed: Some(8), ..request(2, 2) };
    let first = made(&mut client, asked).await;
    for (image, numbers) in &first {
        let key = NoiseKey { seed: 8, index: image.index };
        let by = Sampler::FlowMap;
        assert_eq!(*numbers, alone(&repository, by, &[0.5, 0.75, 1.0], key, Some(begun(image.index))));
        assert!(image.receipt.as_ref().unwrap().initial_state_noised);
    }
    let continue_from: Vec<_> = first.iter().map(|(image, _)| image.receipt.clone().unwrap()).collect();
    let on = |add_noise| v1::GenerateRequest {
        initial_state: states(&data, 0.5, add_noise),
        continue_from: continue_from.clone(),
        steps: Some(2),
        ..Default::default()
    };
    let again = made(&mut client, on(true)).await;
    assert!(first.iter().zip(&again).all(|(first, again)| first.1 == again.1), "receipts bring the images back");
    assert!(matches!(client.generate(on(false)).await, Err(Error::Invalid(_))));
}

#[tokio::test]
async fn a_square_model_encodes_and_decodes() {
    let repository = Repository::with(TimePairs::Square);
    let server = repository.serve().await;
    let mut client = Client::connect(&server.address).await.unwrap();
    let data = repository.samples(1, 1, &[0]).concat();
    let falling = Some(v1::TimeGrid { times: vec![1.0, 0.5, 0.0] });
    let back = v1::GenerateRequest { steps: None, time_grid: falling, ..request(1, 0) };
    let back = v1::GenerateRequest { initial_state: states(&data, 1.0, false), ..back };
    let (_, code) = made(&mut client, back).await.remove(0);
    let key = NoiseKey { seed: 0, index: 0 };
    assert_eq!(code, alone(&repository, Sampler::FlowMap, &[1.0, 0.5, 0.0], key, Some(data)));
    let on = v1::GenerateRequest { initial_state: states(&code, 0.0, false), ..request(1, 2) };
    let (_, forth) = made(&mut client, on).await.remove(0);
    assert_eq!(forth, alone(&repository, Sampler::FlowMap, &[0.0, 0.5, 1.0], key, Some(code)));
}
