//! Input that no honest client sends.

use flowmap::api::proto::v1;
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use prost::Message;
use prost::bytes::{Buf, BufMut};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::runtime::Runtime;
use tokio_stream::StreamExt;
use tonic::codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};
use tonic::transport::Channel;
use tonic::{Code, Request, Status};

use crate::support::{Client, Setup, all, failure, model, open, request, until, within};

/// Sends bytes as they are and ignores what comes back.
#[derive(Clone, Copy)]
struct Raw;

impl Codec for Raw {
    type Encode = Vec<u8>;
    type Decode = ();
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        Self
    }

    fn decoder(&mut self) -> Self {
        Self
    }
}

impl Encoder for Raw {
    type Item = Vec<u8>;
    type Error = Status;

    fn encode(&mut self, item: Vec<u8>, target: &mut EncodeBuf<'_>) -> Result<(), Status> {
        target.put_slice(&item);
        Ok(())
    }
}

impl Decoder for Raw {
    type Item = ();
    type Error = Status;

    fn decode(&mut self, source: &mut DecodeBuf<'_>) -> Result<Option<()>, Status> {
        source.advance(source.remaining());
        Ok(Some(()))
    }
}

/// Calls Generate with `bytes` for a message; how it ended.
async fn send(channel: Channel, bytes: Vec<u8>) -> Code {
    let mut client = tonic::client::Grpc::new(channel);
    client.ready().await.unwrap();
    let path = "/flowmap.v1.GenerationService/Generate".parse().unwrap();
    let mut stream = match client.server_streaming(Request::new(bytes), path, Raw).await {
        Ok(response) => response.into_inner(),
        Err(status) => return status.code(),
    };
    while let Some(message) = stream.next().await {
        if let Err(status) = message {
            return status.code();
        }
    }
    Code::Ok
}

/// Anything, and requests that are valid up to one byte.
fn messages() -> impl Strategy<Value = Vec<u8>> {
    let sound = v1::GenerateRequest {
        time_grid: Some(v1::TimeGrid { times: vec![0.0, 0.5, 1.0] }),
        labels: vec![1],
        guidance: Some(2.0),
        request_id: "x".into(),
        ..request(1, 2)
    };
    let sound = v1::GenerateRequest {
        steps: None,
        min_steps: Some(1),
        priority: v1::Priority::High.into(),
        previews: Some(v1::Previews { evaluations: vec![1] }),
        ..sound
    };
    let receipt = v1::Receipt {
        model: "tiny@1".into(),
        content_hash: "00".into(),
        guidance: 1.0,
        sampler: v1::Sampler::FlowMap.into(),
        times: vec![0.0, 0.25, 1.0],
        ..Default::default()
    };
    let going_on = v1::GenerateRequest { continue_from: vec![receipt; 2], ..Default::default() };
    let flipped = |request: v1::GenerateRequest| {
        let bytes = request.encode_to_vec();
        (0..bytes.len(), any::<u8>()).prop_map(move |(position, byte)| {
            let mut bytes = bytes.clone();
            bytes[position] = byte;
            bytes
        })
    };
    prop_oneof![prop::collection::vec(any::<u8>(), 0..200), flipped(sound), flipped(going_on)]
}

#[test]
fn no_message_kills_the_server() {
    let runtime = Runtime::new().unwrap();
    let server = runtime.block_on(Setup::new().start());
    let channel = runtime.block_on(server.channel());
    let mut runner = TestRunner::new(Config { cases: 300, failure_persistence: None, ..Config::default() });
    let answered = runner.run(&messages(), |bytes| {
        let code = runtime.block_on(within(send(channel.clone(), bytes)));
        // tonic answers what does not decode with INTERNAL; a deadline may come out too short.
        let legal = [
            Code::Ok,
            Code::InvalidArgument,
            Code::NotFound,
            Code::Internal,
            Code::DeadlineExceeded,
            Code::ResourceExhausted,
        ];
        prop_assert!(legal.contains(&code), "{code:?}");
        Ok(())
    });
    answered.unwrap();
    runtime.block_on(async {
        assert!(all(&mut server.client().await, request(1, 1)).await.is_ok());
        assert!(!server.served.is_finished());
    });
}

#[tokio::test]
async fn a_request_whose_body_never_comes_has_a_place_and_loses_it() {
    let server = Setup::new().set("server.max_requests", 1).set("limits.max_deadline_ms", 1000).start().await;
    let mut slow = tonic::client::Grpc::new(server.channel().await);
    slow.ready().await.unwrap();
    let path = "/flowmap.v1.GenerationService/Generate".parse().unwrap();
    let silence = tokio_stream::pending::<Vec<u8>>();
    let slow = tokio::spawn(async move { slow.streaming(Request::new(silence), path, Raw).await.map(|_| ()) });
    let mut client = server.client().await;
    until(async || all(&mut client, request(1, 1)).await.is_err_and(|e| e.code() == Code::ResourceExhausted)).await;
    assert_eq!(within(slow).await.unwrap().unwrap_err().code(), Code::DeadlineExceeded);
    assert!(all(&mut client, request(1, 1)).await.is_ok());
}

#[tokio::test]
async fn a_reader_that_has_stalled_is_cut_off_and_keeps_nothing() {
    let large = flowmap::domain::ModelInfo { shape: vec![3, 256, 256], ..model("stalled") };
    let setup = Setup::new().model(large).set("server.max_requests", 1).set("server.stall_ms", 500);
    let server = setup.start().await;
    let mut client = server.client().await;
    // With few images the job is over and only its answer waits; with many, their states do as well.
    for count in [2, 64] {
        let asked = v1::GenerateRequest { output_encoding: v1::OutputEncoding::Float32.into(), ..request(count, 1) };
        let mut reader = Client::new(server.narrow_channel().await);
        let mut unread = open(&mut reader, asked).await.unwrap();
        until(async || all(&mut client, request(1, 1)).await.is_ok()).await;
        let failure = failure(&mut unread).await;
        assert_eq!((failure.code(), failure.message()), (Code::ResourceExhausted, "the client does not read"));
    }
}

#[tokio::test]
async fn noise_on_the_ports_is_survived() {
    let server = Setup::new().start().await;
    for address in [&server.grpc, &server.http] {
        for noise in
            [&b"\x00\xff\xfe"[..], b"GET / HTTP/1.1\r\n\r\n", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\xff\xff\xff\xff\xff"]
        {
            let mut stream = tokio::net::TcpStream::connect(address).await.unwrap();
            stream.write_all(noise).await.unwrap();
            stream.shutdown().await.unwrap();
            let _ = within(stream.read_to_end(&mut Vec::new())).await;
        }
    }
    assert!(all(&mut server.client().await, request(1, 1)).await.is_ok());
    assert_eq!(server.get("/healthz").await.0, 200);
}
