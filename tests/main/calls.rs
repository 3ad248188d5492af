//! Calls that succeed: what the contract promises of their answers.

use flowmap::api::proto::v1;
use flowmap::api::proto::v1::generate_response::Event;
use flowmap::domain::Digest;

use crate::support::{Setup, all, model, request};

fn image(event: &Event) -> Option<&v1::Image> {
    if let Event::Image(image) = event { Some(image) } else { None }
}

fn images(events: &[Event]) -> Vec<&v1::Image> {
    events.iter().filter_map(image).collect()
}

#[tokio::test]
async fn a_generation_opens_with_accepted_and_closes_with_its_summary() {
    let server = Setup::new().start().await;
    let asked = v1::GenerateRequest {
        labels: vec![2, -1, 0],
        guidance: Some(2.0),
        request_id: "mine".into(),
        sampler: v1::Sampler::Heun.into(),
        ..request(3, 2)
    };
    let events = all(&mut server.client().await, asked).await.unwrap();
    let [Event::Accepted(accepted), middle @ .., Event::Summary(summary)] = events.as_slice() else {
        panic!("{events:?}")
    };
    assert_eq!((accepted.request_id.as_str(), accepted.model.as_str()), ("mine", "tiny@1"));
    assert_eq!((accepted.times.as_slice(), accepted.evaluations, accepted.guidance), (&[0.0, 0.5, 1.0][..], 4, 2.0));
    assert_eq!((accepted.sampler(), accepted.output_encoding()), (v1::Sampler::Heun, v1::OutputEncoding::Png));
    assert_eq!((summary.images, summary.evaluations, summary.full_images), (3, 12, 3));
    assert_eq!(accepted.min_steps, 2);
    let mut images = images(middle);
    images.sort_by_key(|image| image.index);
    let told: Vec<_> = images.iter().map(|i| (i.index, i.label, i.steps, i.evaluations)).collect();
    assert_eq!(told, [(0, 2, 2, 4), (1, -1, 2, 4), (2, 0, 2, 4)]);
    assert!(images.iter().all(|i| i.data.starts_with(b"\x89PNG") && i.total_bytes == i.data.len() as u64));
    assert!(images.iter().all(|i| i.shape == [1, 4, 4]));
    assert!(images.iter().all(|i| (i.steps_asked, i.steps_reason()) == (2, v1::StepsReason::Asked)));
    assert!(images.iter().all(|i| i.digest == Digest::of(&i.data).as_bytes()));
}

#[tokio::test]
async fn an_empty_request_takes_defaults_and_is_told_them() {
    let server = Setup::new().start().await;
    let mut client = server.client().await;
    let mut seeds = Vec::new();
    for _ in 0..2 {
        let events = all(&mut client, v1::GenerateRequest::default()).await.unwrap();
        let Event::Accepted(accepted) = &events[0] else { panic!("{events:?}") };
        assert_eq!((accepted.evaluations, accepted.request_id.len(), images(&events).len()), (4, 16, 1));
        seeds.push(accepted.seed);
    }
    assert_ne!(seeds[0], seeds[1], "a seed that was not asked for is drawn anew");
}

#[tokio::test]
async fn a_large_image_comes_in_pieces() {
    let large = flowmap::domain::ModelInfo { shape: vec![3, 17, 17], ..model("large") };
    let server = Setup::new().model(large).set("server.chunk_bytes", 1024).start().await;
    let asked = v1::GenerateRequest { output_encoding: v1::OutputEncoding::Float32.into(), ..request(2, 5) };
    let events = all(&mut server.client().await, asked).await.unwrap();
    for image in images(&events) {
        let mut data = image.data.to_vec();
        for event in &events {
            if let Event::ImageChunk(chunk) = event
                && chunk.index == image.index
            {
                assert_eq!(chunk.offset, data.len() as u64);
                assert!(chunk.data.len() <= 1024);
                data.extend_from_slice(&chunk.data);
            }
        }
        assert_eq!((image.total_bytes, data.len()), (3 * 17 * 17 * 4, 3 * 17 * 17 * 4));
        // The scripted engine's final state is its number of evaluations.
        assert!(data.as_chunks().0.iter().all(|x| f32::from_le_bytes(*x) == 5.0));
    }
}

#[tokio::test]
async fn models_are_listed_and_described() {
    let server = Setup::new().start().await;
    let mut client = server.client().await;
    let listed = client.list_models(v1::ListModelsRequest {}).await.unwrap().into_inner().models;
    assert_eq!((listed.len(), listed[0].name.as_str(), listed[0].is_default), (1, "tiny", true));
    for name in ["", "tiny", "tiny@1"] {
        let found = client.get_model(v1::GetModelRequest { model: name.into() }).await.unwrap().into_inner();
        assert_eq!(found.model.as_ref(), Some(&listed[0]));
    }
    assert_eq!(listed[0].guidance_mode(), v1::GuidanceMode::TwoCall);
    assert_eq!((listed[0].classes.len(), listed[0].shape.as_slice(), listed[0].guidance_max), (3, &[1, 4, 4][..], 4.0));
}
