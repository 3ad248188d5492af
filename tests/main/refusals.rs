//! Calls that are refused or cut short, and what their clients learn.

use std::time::Duration;

use flowmap::api::proto::v1;
use flowmap::api::proto::v1::generate_response::Event;
use flowmap::api::proto::v1::generation_service_client::GenerationServiceClient;
use flowmap::domain::ModelInfo;
use tonic::{Code, Request, Status};
use tonic_types::StatusExt;

use crate::support::{Gate, Setup, all, failure, model, next, open, request, until, within};

fn fields(status: &Status) -> Vec<String> {
    let violations = status.get_details_bad_request().map(|bad| bad.field_violations).unwrap_or_default();
    violations.into_iter().map(|violation| violation.field).collect()
}

#[tokio::test]
async fn a_bad_request_names_every_wrong_field() {
    let server = Setup::new().set("limits.max_count", 4).start().await;
    let asked = v1::GenerateRequest {
        labels: vec![3],
        guidance: Some(9.0),
        output_encoding: 77,
        request_id: "r-1".into(),
        ..request(5, 0)
    };
    let status = all(&mut server.client().await, asked).await.unwrap_err();
    assert_eq!(status.code(), Code::InvalidArgument);
    assert_eq!(fields(&status), ["count", "steps", "output_encoding", "labels[0]", "guidance"]);
    assert_eq!(status.get_details_request_info().unwrap().request_id, "r-1");
}

#[tokio::test]
async fn an_unknown_model_is_not_found() {
    let server = Setup::new().start().await;
    let mut client = server.client().await;
    let asked = v1::GenerateRequest { model: "huge@2".into(), ..request(1, 1) };
    let status = all(&mut client, asked).await.unwrap_err();
    assert_eq!((status.code(), status.message()), (Code::NotFound, "model 'huge@2' is not loaded; loaded are: tiny@1"));
    let status = client.get_model(v1::GetModelRequest { model: "huge".into() }).await.unwrap_err();
    assert_eq!(status.code(), Code::NotFound);
    let status = client.get_model(v1::GetModelRequest { model: "tiny@first".into() }).await.unwrap_err();
    assert_eq!((status.code(), fields(&status)), (Code::InvalidArgument, vec!["model".into()]));
}

#[tokio::test]
async fn a_message_beyond_the_limit_is_not_read() {
    let server = Setup::new().set("limits.max_request_bytes", 1024).start().await;
    let mut client = server.client().await;
    let asked = v1::GenerateRequest { labels: vec![1; 1 << 20], ..request(1, 1) };
    assert_eq!(all(&mut client, asked).await.unwrap_err().code(), Code::OutOfRange);
    let counted = "flowmap_requests_total{method=\"Generate\",code=\"OUT_OF_RANGE\"} 1";
    until(async || server.get("/metrics").await.1.contains(counted)).await;
    assert!(all(&mut client, request(1, 1)).await.is_ok());
}

#[tokio::test]
async fn a_dropped_stream_frees_its_rows() {
    let gate = Gate::default();
    let server = Setup::new().gate(&gate).start().await;
    gate.close();
    let mut stream = open(&mut server.client().await, request(2, 200)).await.unwrap();
    assert!(matches!(next(&mut stream).await, Ok(Event::Accepted(_))));
    // A stream that is dropped before its rows have begun leaves nothing to be freed.
    until(async || !server.record.batches().is_empty()).await;
    drop(stream);
    until(async || {
        gate.let_one_pass();
        server.record.released().len() == 2
    })
    .await;
    gate.open();
}

#[tokio::test]
async fn a_deadline_holds_even_where_the_device_hangs() {
    let gate = Gate::default();
    let server = Setup::new().gate(&gate).start().await;
    let mut client = server.client().await;
    gate.close();
    let own = v1::GenerateRequest { deadline_ms: Some(30), ..request(1, 4) };
    assert_eq!(all(&mut client, own).await.unwrap_err().code(), Code::DeadlineExceeded);
    let mut header = Request::new(request(1, 4));
    header.set_timeout(Duration::from_millis(30));
    let mut stream = within(client.generate(header)).await.unwrap().into_inner();
    assert!(matches!(next(&mut stream).await, Ok(Event::Accepted(_))));
    assert_eq!(next(&mut stream).await.unwrap_err().code(), Code::DeadlineExceeded);
    gate.open();
}

#[tokio::test]
async fn too_many_requests_are_refused_with_a_time_to_retry() {
    let gate = Gate::default();
    let server = Setup::new().gate(&gate).set("server.max_requests", 1).start().await;
    let mut client = server.client().await;
    gate.close();
    let mut first = open(&mut client, request(1, 3)).await.unwrap();
    let status = all(&mut client, request(1, 1)).await.unwrap_err();
    assert_eq!(status.code(), Code::ResourceExhausted);
    assert!(status.get_details_retry_info().unwrap().retry_delay.is_some());
    assert!(status.metadata().contains_key("grpc-retry-pushback-ms"));
    gate.open();
    while !matches!(next(&mut first).await.unwrap(), Event::Summary(_)) {}
    until(async || all(&mut client, request(1, 1)).await.is_ok()).await;
}

#[tokio::test]
async fn a_client_that_never_reads_keeps_nothing_beyond_its_deadline() {
    let large = ModelInfo { shape: vec![3, 256, 256], ..model("unread") };
    let setup = Setup::new().model(large).set("server.max_requests", 1).set("limits.max_deadline_ms", 2000);
    let server = setup.start().await;
    let mut client = server.client().await;
    let mut reader = GenerationServiceClient::new(server.narrow_channel().await);
    // Two images and their ends fit into the queue: the job is over at once, the answer is not.
    let asked = v1::GenerateRequest { output_encoding: v1::OutputEncoding::Float32.into(), ..request(2, 1) };
    let mut unread = open(&mut reader, asked).await.unwrap();
    until(async || server.record.batches().iter().map(|batch| batch.rows.len()).sum::<usize>() == 2).await;
    assert_eq!(
        all(&mut client, request(1, 1)).await.unwrap_err().code(),
        Code::ResourceExhausted,
        "its place is taken"
    );
    until(async || all(&mut client, request(1, 1)).await.is_ok()).await;
    let failure = failure(&mut unread).await;
    assert_eq!(failure.code(), Code::DeadlineExceeded);
}

#[tokio::test]
async fn a_full_queue_refuses_whole_requests() {
    let gate = Gate::default();
    let setup = Setup::new().set("limits.max_count", 4).set("scheduler.max_queued_images", 4);
    let server = setup.gate(&gate).start().await;
    let mut client = server.client().await;
    gate.close();
    let mut first = open(&mut client, request(3, 200)).await.unwrap();
    assert!(matches!(next(&mut first).await, Ok(Event::Accepted(_))));
    let status = all(&mut client, request(2, 1)).await.unwrap_err();
    assert_eq!(status.code(), Code::ResourceExhausted);
    assert!(status.get_details_retry_info().unwrap().retry_delay.is_some());
    gate.open();
}

#[tokio::test]
async fn a_failed_forward_is_internal_and_says_nothing() {
    let server = Setup::new()
        .script(move |batch| {
            let is_ours = batch.rows.iter().any(|row| row.label == Some(1));
            if is_ours {
                return flowmap::engine::scripted::Verdict::Fail(flowmap::error::Error::Compute("CUDA secret".into()));
            }
            flowmap::engine::scripted::Verdict::Proceed
        })
        .start()
        .await;
    let mut client = server.client().await;
    let asked = v1::GenerateRequest { labels: vec![1], request_id: "mine".into(), ..request(1, 1) };
    let status = all(&mut client, asked).await.unwrap_err();
    assert_eq!(status.code(), Code::Internal);
    assert!(!status.message().contains("secret"), "{}", status.message());
    assert_eq!(status.get_details_request_info().unwrap().request_id, "mine");
    assert!(all(&mut client, request(1, 1)).await.is_ok(), "other requests go on");
}
