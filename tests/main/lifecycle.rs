//! Starting, stopping and dying.

use flowmap::api::proto::v1::generate_response::Event;
use flowmap::engine::scripted::Verdict;
use flowmap::error::Error;
use flowmap::shutdown::Ending;
use tokio_stream::StreamExt;
use tonic::Code;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;

use crate::support::{Gate, Server, Setup, all, get, next, open, request, until, within};

const SERVICES: [&str; 2] = ["", "flowmap.v1.GenerationService"];

async fn health(server: &Server, service: &str) -> Result<ServingStatus, tonic::Status> {
    let asked = HealthCheckRequest { service: service.into() };
    let answer = HealthClient::new(server.channel().await).check(asked).await?;
    Ok(answer.into_inner().status())
}

#[tokio::test]
async fn a_started_server_is_ready_everywhere() {
    let server = Setup::new().start().await;
    until(async || server.get("/readyz").await.0 == 200).await;
    for service in SERVICES {
        assert_eq!(health(&server, service).await.unwrap(), ServingStatus::Serving, "{service}");
    }
    assert_eq!(health(&server, "other").await.unwrap_err().code(), Code::NotFound);
    assert_eq!(server.get("/healthz").await.0, 200);
    assert_eq!(server.get("/nothing").await.0, 404);
}

#[tokio::test]
async fn probes_are_answered_while_models_load() {
    let http = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
    let gate = Gate::default();
    gate.close();
    let setup = Setup::new().set("server.http_address", &http).slow_start(&gate);
    let starting = tokio::spawn(setup.start());
    until(async || tokio::net::TcpStream::connect(&http).await.is_ok()).await;
    assert_eq!(get(&http, "/readyz").await, (503, "models are loading\n".into()));
    assert_eq!(get(&http, "/healthz").await.0, 200);
    gate.open();
    let server = within(starting).await.unwrap();
    until(async || server.get("/readyz").await.0 == 200).await;
}

#[tokio::test]
async fn a_stop_lets_open_requests_finish() {
    let gate = Gate::default();
    let server = Setup::new().gate(&gate).start().await;
    let mut client = server.client().await;
    let mut watch = HealthClient::new(server.channel().await);
    let asked = HealthCheckRequest { service: SERVICES[1].into() };
    let mut watched = watch.watch(asked).await.unwrap().into_inner();
    assert_eq!(within(watched.next()).await.unwrap().unwrap().status(), ServingStatus::Serving);
    gate.close();
    let mut stream = open(&mut client, request(2, 200)).await.unwrap();
    assert!(matches!(next(&mut stream).await, Ok(Event::Accepted(_))));
    server.stopper.stop();
    assert_eq!(within(watched.next()).await.unwrap().unwrap().status(), ServingStatus::NotServing);
    assert_eq!(server.get("/readyz").await.0, 503);
    assert_eq!(server.get("/healthz").await.0, 200);
    gate.open();
    let mut images = 0;
    loop {
        match next(&mut stream).await.unwrap() {
            Event::Image(_) => images += 1,
            Event::Summary(_) => break,
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(images, 2);
    // The health watch is still open: it must not keep the server from ending.
    assert_eq!(server.ended().await.unwrap(), Ending::Finished);
}

#[tokio::test]
async fn requests_are_served_during_the_drain_delay() {
    let server = Setup::new().set("shutdown.drain_delay_ms", 60_000).start().await;
    let mut client = server.client().await;
    server.stopper.stop();
    until(async || server.get("/readyz").await.0 == 503).await;
    assert!(all(&mut client, request(1, 1)).await.is_ok());
    server.stopper.stop();
    assert_eq!(server.ended().await.unwrap(), Ending::Forced);
}

#[tokio::test]
async fn a_second_stop_cuts_requests_off_and_tells_them() {
    let gate = Gate::default();
    let server = Setup::new().gate(&gate).start().await;
    gate.close();
    let mut stream = open(&mut server.client().await, request(1, 200)).await.unwrap();
    assert!(matches!(next(&mut stream).await, Ok(Event::Accepted(_))));
    server.stopper.stop();
    server.stopper.stop();
    // The worker ends with the forward in progress at the abort, long before the request would.
    until(async || {
        gate.let_one_pass();
        server.served.is_finished()
    })
    .await;
    assert_eq!(next(&mut stream).await.unwrap_err().code(), Code::Unavailable);
    assert_eq!(server.ended().await.unwrap(), Ending::Forced);
}

#[tokio::test]
async fn the_grace_period_is_bounded() {
    let gate = Gate::default();
    let server = Setup::new().gate(&gate).set("shutdown.grace_ms", 20).start().await;
    gate.close();
    let mut stream = open(&mut server.client().await, request(1, 200)).await.unwrap();
    assert!(matches!(next(&mut stream).await, Ok(Event::Accepted(_))));
    server.stopper.stop();
    assert_eq!(server.ended().await.unwrap(), Ending::CutOff);
    gate.open();
}

#[tokio::test]
async fn a_lost_device_ends_the_server_with_an_error() {
    let server = Setup::new()
        .script(|batch| match batch.rows[0].label {
            Some(2) => Verdict::Fail(Error::Unavailable("the device is lost".into())),
            _ => Verdict::Proceed,
        })
        .start()
        .await;
    let asked = flowmap::api::proto::v1::GenerateRequest { labels: vec![2], ..request(1, 1) };
    let status = all(&mut server.client().await, asked).await.unwrap_err();
    assert_eq!(status.code(), Code::Unavailable, "{status}");
    assert!(matches!(server.ended().await, Err(Error::Unavailable(_))));
}
