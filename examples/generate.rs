//! Asks a server for one image of each class, as good as can be had in half a second, and saves them: the crate's client
//! in its shortest form.
//!
//! ```text
//! flowmap serve &
//! cargo run --example generate -- http://127.0.0.1:50051
//! ```

use flowmap::api::Client;
use flowmap::api::client::Arrival;
use flowmap::api::proto::v1::{GenerateRequest, Previews};
use flowmap::error::{Error, Result};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    let server = std::env::args().nth(1).unwrap_or_else(|| "http://127.0.0.1:50051".into());
    let mut client = Client::connect(&server).await?;

    let model = client.model("").await?;
    println!("{}: {}, {} parameters", model.id, model.description, model.parameters);

    // Everything that is left out takes the model's own default, and `accepted` tells which.
    let labels: Vec<i32> = (0..).zip(&model.classes).map(|(label, _)| label).collect();
    let request = GenerateRequest {
        count: Some(u32::try_from(labels.len().max(1)).unwrap_or(1)),
        steps: Some(8),
        // A busy server may stop after two of the eight steps, rather than miss the deadline.
        min_steps: Some(2),
        deadline_ms: Some(500),
        // What the images would be after one evaluation, as soon as there is room for it.
        previews: Some(Previews { evaluations: vec![1] }),
        labels,
        seed: Some(7),
        ..Default::default()
    };
    let mut generation = client.generate(request).await?;
    let accepted = generation.accepted();
    println!("request {}, {} to {} steps", accepted.request_id, accepted.min_steps, accepted.times.len() - 1);

    // Images arrive as they finish, each as a PNG file; previews come before.
    while let Some(arrival) = generation.arrival().await? {
        let (path, data, note) = match arrival {
            Arrival::Preview(it) => (format!("preview-{:02}.png", it.index), it.data, "a preview".into()),
            Arrival::Image(it) => {
                (format!("image-{:02}.png", it.index), it.data, format!("{} of {} steps", it.steps, it.steps_asked))
            }
        };
        std::fs::write(&path, &data).map_err(|e| Error::io(&path, "write it", e))?;
        println!("{path}: {note}");
    }
    Ok(())
}
