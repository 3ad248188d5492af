//! The crate's own client against a real network.

use flowmap::api::Client;
use flowmap::api::client::floats;
use flowmap::api::proto::v1;
use flowmap::error::Error;

use crate::real::Repository;
use crate::support::request;

#[tokio::test]
async fn it_sees_the_models_as_they_are() {
    let repository = Repository::new();
    let server = repository.serve().await;
    let mut client = Client::connect(&server.address).await.unwrap();
    let want = format!("{:?}", repository.info());
    assert_eq!(format!("{:?}", client.model("small@1").await.unwrap()), want);
    assert_eq!(format!("{:?}", client.models().await.unwrap()), format!("[{want}]"));
    assert!(matches!(client.model("other").await, Err(Error::NotFound(_))));
}

#[tokio::test]
async fn images_in_pieces_are_whole_and_the_ones_of_the_library() {
    let repository = Repository::new();
    let server = repository.serve().await;
    let mut client = Client::connect(&server.address).await.unwrap();
    let asked = v1::GenerateRequest {
        labels: vec![2, 0, 1],
        seed: Some(11),
        output_encoding: v1::OutputEncoding::Float32.into(),
        ..request(3, 4)
    };
    let mut generation = client.generate(asked).await.unwrap();
    assert_eq!((generation.accepted().seed, generation.accepted().evaluations), (11, 4));
    let want = repository.samples(11, 4, &[2, 0, 1]);
    let mut seen = 0;
    while let Some(image) = generation.next().await.unwrap() {
        assert_eq!(floats(&image).unwrap(), want[image.index as usize]);
        seen += 1;
    }
    assert_eq!((seen, generation.summary().unwrap().evaluations), (3, 12));
    assert!(generation.next().await.unwrap().is_none());
}

#[tokio::test]
async fn refusals_arrive_field_by_field() {
    let repository = Repository::new();
    let server = repository.serve().await;
    let mut client = Client::connect(&server.address).await.unwrap();
    let wrong = v1::GenerateRequest { labels: vec![7], guidance: Some(9.0), ..request(0, 4) };
    match client.generate(wrong).await {
        Err(Error::Invalid(violations)) => {
            let fields: Vec<_> = violations.iter().map(|v| v.field.as_str()).collect();
            assert_eq!(fields, ["count", "labels[0]", "guidance"]);
        }
        other => panic!("{other:?}"),
    }
}
