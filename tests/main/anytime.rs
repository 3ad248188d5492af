//! Images that can end early, be shown on their way, and be continued: what clients see of it.

use std::time::Duration;

use flowmap::api::client::{Arrival, floats};
use flowmap::api::proto::v1;
use flowmap::api::proto::v1::generate_response::Event;
use flowmap::api::{Client, proto::v1::StepsReason};
use flowmap::domain::{Digest, Receipt};
use tonic::{Code, Request};
use tonic_types::StatusExt;

use crate::real::Repository;
use crate::support::{Gate, Setup, all, model, next, open, request, within};

#[tokio::test]
async fn a_short_deadline_costs_steps_and_not_the_image() {
    let setup =
        Setup::new().model(model("hurried")).slow(Duration::from_millis(20)).set("scheduler.headroom_percent", 50);
    let server = setup.set("scheduler.headroom_max_ms", 2000).start().await;
    let asked = v1::GenerateRequest { min_steps: Some(1), deadline_ms: Some(2000), ..request(1, 256) };
    let events = all(&mut server.client().await, asked).await.unwrap();
    let [Event::Accepted(accepted), Event::Image(image), Event::Summary(summary)] = events.as_slice() else {
        panic!("{events:?}")
    };
    assert_eq!((accepted.min_steps, summary.full_images), (1, 0));
    assert!((1..256).contains(&image.steps), "{} steps", image.steps);
    assert_eq!((image.steps_asked, image.steps_reason()), (256, StepsReason::Deadline));
    let times = &image.receipt.as_ref().unwrap().times;
    assert_eq!((times.len() as u32, times.last()), (image.steps + 1, Some(&1.0)));
}

#[tokio::test]
async fn what_cannot_be_in_time_is_refused_at_once() {
    let server = Setup::new().model(model("pressed")).slow(Duration::from_millis(10)).start().await;
    let mut client = server.client().await;
    let asked = v1::GenerateRequest { deadline_ms: Some(100), ..request(1, 256) };
    let status = all(&mut client, asked.clone()).await.unwrap_err();
    assert_eq!(status.code(), Code::ResourceExhausted, "{status}");
    assert!(status.get_details_retry_info().unwrap().retry_delay.is_some());
    assert!(status.metadata().contains_key("grpc-retry-pushback-ms"));
    let info = status.get_details_error_info().unwrap();
    assert_eq!((info.reason.as_str(), info.domain.as_str()), ("DEADLINE_INFEASIBLE", "flowmap"));
    assert!(info.metadata["predicted_wait_ms"].parse::<u64>().unwrap() > 100);
    let mut own = Client::connect(&server.grpc).await.unwrap();
    match own.generate(asked).await {
        Err(flowmap::error::Error::Overloaded { predicted: Some(wait), .. }) => {
            assert!(wait > Duration::from_millis(100));
        }
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_preview_comes_after_a_single_forward() {
    let gate = Gate::default();
    let server = Setup::new().model(model("shown")).gate(&gate).start().await;
    gate.close();
    let asked = v1::GenerateRequest { previews: Some(v1::Previews::default()), ..request(1, 8) };
    let mut stream = open(&mut server.client().await, asked).await.unwrap();
    assert!(matches!(next(&mut stream).await, Ok(Event::Accepted(_))));
    gate.let_one_pass();
    let Event::Preview(preview) = next(&mut stream).await.unwrap() else { panic!("no preview") };
    assert_eq!((preview.index, preview.evaluations, preview.shape.as_slice()), (0, 1, &[1, 4, 4][..]));
    assert!(preview.data.starts_with(b"\x89PNG") && preview.total_bytes == preview.data.len() as u64);
    gate.open();
    let mut evaluations = 1;
    loop {
        match next(&mut stream).await.unwrap() {
            Event::Preview(later) => {
                assert!(later.evaluations > evaluations && later.evaluations < 8);
                evaluations = later.evaluations;
            }
            Event::Image(image) => assert_eq!((image.steps, image.evaluations), (8, 8)),
            Event::Summary(summary) => break assert_eq!((summary.full_images, summary.evaluations), (1, 8)),
            other => panic!("{other:?}"),
        }
    }
}

#[tokio::test]
async fn a_slow_reader_gets_the_newest_preview() {
    let gate = Gate::default();
    let large = flowmap::domain::ModelInfo { shape: vec![3, 256, 256], ..model("newest") };
    let server = Setup::new().model(large).gate(&gate).start().await;
    let mut client = crate::support::Client::new(server.narrow_channel().await);
    let asked = v1::GenerateRequest {
        previews: Some(v1::Previews::default()),
        output_encoding: v1::OutputEncoding::Float32.into(),
        ..request(1, 64)
    };
    let mut stream = open(&mut client, asked).await.unwrap();
    crate::support::until(async || server.record.batches().iter().flat_map(|batch| &batch.rows).any(ends)).await;
    let (mut previews, mut images) = (0, 0);
    loop {
        match next(&mut stream).await.unwrap() {
            Event::Preview(_) => previews += 1,
            Event::Image(_) => images += 1,
            Event::Summary(_) => break,
            Event::Accepted(_) | Event::ImageChunk(_) => (),
        }
    }
    // A few were on their way; the others never were.
    assert!(previews < 16 && images == 1, "{previews} previews of 63");
}

fn ends(step: &flowmap::engine::RowStep) -> bool {
    matches!(step.purpose, flowmap::engine::Purpose::Finish { .. })
}

#[tokio::test]
async fn a_cancelled_request_is_in_no_later_forward() {
    let gate = Gate::default();
    let server = Setup::new().model(model("left")).gate(&gate).set("server.max_requests", 1).start().await;
    let mut client = server.client().await;
    gate.close();
    let mut first = open(&mut client, request(2, 200)).await.unwrap();
    assert!(matches!(next(&mut first).await, Ok(Event::Accepted(_))));
    crate::support::until(async || !server.record.batches().is_empty()).await;
    let before: Vec<_> = server.record.batches()[0].rows.iter().map(|step| step.row).collect();
    drop(first);
    // Once the next request has its place, the first one has left.
    let mut second = within(async {
        loop {
            match open(&mut client, request(1, 2)).await {
                Ok(stream) => break stream,
                Err(status) => assert_eq!(status.code(), Code::ResourceExhausted),
            }
        }
    })
    .await;
    gate.open();
    while !matches!(next(&mut second).await.unwrap(), Event::Summary(_)) {}
    let later = &server.record.batches()[1..];
    assert!(later.iter().flat_map(|batch| &batch.rows).all(|step| !before.contains(&step.row)));
    crate::support::until(async || before.iter().all(|row| server.record.released().contains(row))).await;
}

#[tokio::test]
async fn tenants_take_turns() {
    let gate = Gate::default();
    let server = Setup::new().model(model("shared")).gate(&gate).set("scheduler.max_rows", 1).start().await;
    let mut client = server.client().await;
    gate.close();
    let mut of = async |tenant: &'static str, count: u32, label: i32| {
        let mut asked = Request::new(v1::GenerateRequest { labels: vec![label], ..request(count, 1) });
        asked.metadata_mut().insert("flowmap-tenant", tenant.parse().unwrap());
        let mut stream = within(client.generate(asked)).await.unwrap().into_inner();
        assert!(matches!(next(&mut stream).await, Ok(Event::Accepted(_))));
        stream
    };
    let mut many = of("many", 16, 0).await;
    let mut few = of("few", 2, 1).await;
    gate.open();
    for stream in [&mut many, &mut few] {
        while !matches!(next(stream).await.unwrap(), Event::Summary(_)) {}
    }
    let order: Vec<_> = server.record.batches().iter().map(|batch| batch.rows[0].label).collect();
    let last_of_few = order.iter().rposition(|label| *label == Some(1)).unwrap();
    assert!(last_of_few <= 6, "those who asked for little waited for those who asked for much: {order:?}");
}

#[tokio::test]
async fn a_malformed_tenant_is_named() {
    let server = Setup::new().start().await;
    let mut asked = Request::new(request(1, 1));
    asked.metadata_mut().insert("flowmap-tenant", "x".repeat(65).parse().unwrap());
    let status = within(server.client().await.generate(asked)).await.unwrap_err();
    assert_eq!(status.code(), Code::InvalidArgument);
    assert_eq!(status.get_details_bad_request().unwrap().field_violations[0].field, "flowmap-tenant");
}

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

#[tokio::test]
async fn a_continuation_is_the_image_made_at_once_and_costs_what_is_new() {
    let repository = Repository::new();
    for (kept_bytes, evaluations) in [("67108864", 2), ("0", 3)] {
        let server = repository.serve_with(vec![("scheduler.kept_bytes", kept_bytes.into())]).await;
        let mut client = Client::connect(&server.address).await.unwrap();
        let kind =
            || v1::GenerateRequest { labels: vec![2, 0, -1], guidance: Some(2.5), seed: Some(11), ..request(3, 2) };
        let first = made(&mut client, kind()).await;
        let continue_from = first.iter().map(|(image, _)| image.receipt.clone().unwrap()).collect();
        let asked = v1::GenerateRequest { continue_from, steps: Some(4), ..Default::default() };
        let further = made(&mut client, asked).await;
        let grid = v1::TimeGrid { times: vec![0.0, 0.5, 0.75, 1.0] };
        let at_once = made(&mut client, v1::GenerateRequest { steps: None, time_grid: Some(grid), ..kind() }).await;
        for ((further, numbers), (at_once, same)) in further.iter().zip(&at_once) {
            assert_eq!(numbers, same);
            assert_eq!((further.evaluations, further.steps, at_once.evaluations), (evaluations, 3, 3));
            assert_eq!((&further.receipt, &further.digest), (&at_once.receipt, &at_once.digest));
        }
        assert_eq!(further.len(), 3);
    }
}

#[tokio::test]
async fn digests_and_receipts_are_of_what_was_sent() {
    let repository = Repository::new();
    let server = repository.serve().await;
    let mut client = Client::connect(&server.address).await.unwrap();
    let asked = v1::GenerateRequest { labels: vec![1, -1], seed: Some(u64::MAX), ..request(2, 3) };
    for (image, numbers) in made(&mut client, asked.clone()).await {
        let receipt = Receipt::try_from(image.receipt.clone().unwrap()).unwrap();
        assert_eq!(Digest::from_bytes(&image.digest), Some(Digest::of(&image.data)));
        assert_eq!(receipt.sample_digest, Digest::of_numbers(&numbers));
        assert_eq!((receipt.content_hash, receipt.model.as_str()), (repository.info().content_hash, "small@1"));
        assert_eq!((receipt.seed, receipt.index, receipt.initial_state_digest), (u64::MAX, image.index, None));
        assert_eq!(receipt.times, [0.0, 1.0 / 3.0, 2.0 / 3.0, 1.0]);
    }
    let states: Vec<f32> = repository.samples(1, 1, &[0]).concat();
    let float32_data = states.iter().flat_map(|x| x.to_le_bytes()).collect();
    let tensor = v1::Tensor { shape: vec![3, 16, 16], float32_data };
    let initial_state = Some(v1::InitialState { states: Some(tensor), time: 0.5, add_noise: false });
    let from_state = made(&mut client, v1::GenerateRequest { initial_state, ..asked }).await;
    let receipt = Receipt::try_from(from_state[1].0.receipt.clone().unwrap()).unwrap();
    assert_eq!(receipt.initial_state_digest, Some(Digest::of_numbers(&states)));
}

#[tokio::test]
async fn previews_are_what_the_image_would_be_in_as_many_steps() {
    let repository = Repository::new();
    let server = repository.serve().await;
    let mut client = Client::connect(&server.address).await.unwrap();
    let asked = v1::GenerateRequest {
        labels: vec![1],
        seed: Some(4),
        previews: Some(v1::Previews { evaluations: vec![1] }),
        output_encoding: v1::OutputEncoding::Float32.into(),
        ..request(1, 4)
    };
    let mut shown = Vec::new();
    // A machine with other work has no room for a preview in every request.
    for _ in 0..50 {
        let mut generation = client.generate(asked.clone()).await.unwrap();
        while let Some(arrival) = generation.arrival().await.unwrap() {
            if let Arrival::Preview(preview) = arrival {
                shown.push(flowmap::api::client::preview_floats(&preview).unwrap());
            }
        }
        if !shown.is_empty() {
            break;
        }
    }
    assert_eq!(shown, repository.samples(4, 1, &[1]));
}
