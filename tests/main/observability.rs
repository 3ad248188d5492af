//! Metrics and reflection as their tools see them.

use std::collections::BTreeMap;

use flowmap::telemetry::metrics::TABLE;
use tokio_stream::StreamExt;
use tonic_reflection::pb::v1::ServerReflectionRequest;
use tonic_reflection::pb::v1::server_reflection_client::ServerReflectionClient;
use tonic_reflection::pb::v1::server_reflection_request::MessageRequest;
use tonic_reflection::pb::v1::server_reflection_response::MessageResponse;

use crate::support::{Setup, all, model, request, until, within};

/// Value of each series.
fn series(exposition: &str) -> BTreeMap<&str, f64> {
    let lines = exposition.lines().filter(|line| !line.starts_with('#'));
    lines.filter_map(|line| line.rsplit_once(' ')).map(|(name, value)| (name, value.parse().unwrap())).collect()
}

#[tokio::test]
async fn metrics_count_what_was_done_and_nothing_else() {
    let server = Setup::new().model(model("counted")).start().await;
    all(&mut server.client().await, request(3, 4)).await.unwrap();
    until(async || {
        let (_, text) = server.get("/metrics").await;
        series(&text).get("flowmap_images_total{model=\"counted@1\",steps=\"asked\"}") == Some(&3.0)
    })
    .await;
    // A request is counted when its last bytes have left.
    until(async || {
        let (_, text) = server.get("/metrics").await;
        series(&text).get("flowmap_requests_total{method=\"Generate\",code=\"OK\"}") >= Some(&1.0)
    })
    .await;
    let (code, text) = server.get("/metrics").await;
    let series = series(&text);
    assert_eq!(code, 200);
    assert_eq!(series["flowmap_evaluations_total{model=\"counted@1\"}"], 12.0);
    assert_eq!(series["flowmap_queue_duration_seconds_count{model=\"counted@1\"}"], 3.0);
    assert!(series["flowmap_batch_rows_sum{model=\"counted@1\"}"] >= 12.0);
    assert!(series["flowmap_response_bytes_total"] > 0.0);
    assert_eq!(series["flowmap_images_running{model=\"counted@1\"}"], 0.0);
}

#[tokio::test]
async fn no_room_raises_a_series_that_the_table_does_not_know() {
    let server = Setup::new().model(model("tabled")).start().await;
    all(&mut server.client().await, request(2, 2)).await.unwrap();
    let (_, text) = server.get("/metrics").await;
    for name in series(&text).keys() {
        let (name, labels) = name.split_once('{').unwrap_or((name, "}"));
        let base = ["_bucket", "_sum", "_count"].iter().find_map(|suffix| name.strip_suffix(suffix));
        let known = TABLE.iter().find(|metric| metric.name == name || Some(metric.name) == base);
        let metric = known.unwrap_or_else(|| panic!("{name} is not in the table"));
        let mut labels: Vec<&str> = labels.split(',').filter_map(|pair| pair.split_once('=')).map(|(l, _)| l).collect();
        labels.retain(|label| *label != "le");
        assert_eq!(labels, metric.labels.iter().map(|label| label.name).collect::<Vec<_>>(), "{name}");
    }
}

#[tokio::test]
async fn reflection_lists_the_services() {
    let server = Setup::new().start().await;
    let asked = ServerReflectionRequest {
        host: String::new(),
        message_request: Some(MessageRequest::ListServices(String::new())),
    };
    let mut client = ServerReflectionClient::new(server.channel().await);
    let mut answers = client.server_reflection_info(tokio_stream::once(asked)).await.unwrap().into_inner();
    let answer = within(answers.next()).await.unwrap().unwrap();
    let Some(MessageResponse::ListServicesResponse(list)) = answer.message_response else { panic!("no list") };
    let names: Vec<&str> = list.service.iter().map(|service| service.name.as_str()).collect();
    for service in ["flowmap.v1.GenerationService", "grpc.health.v1.Health"] {
        assert!(names.contains(&service), "{names:?}");
    }
}
