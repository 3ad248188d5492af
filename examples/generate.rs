//! Asks a server for one image of each class and saves them: the crate's client in its shortest form.
//!
//! ```text
//! flowmap serve &
//! cargo run --example generate -- http://127.0.0.1:50051
//! ```

use flowmap::api::Client;
use flowmap::api::proto::v1::GenerateRequest;
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
        steps: Some(4),
        labels,
        seed: Some(7),
        ..Default::default()
    };
    let mut generation = client.generate(request).await?;
    let accepted = generation.accepted();
    println!("request {}, {} evaluations an image", accepted.request_id, accepted.evaluations);

    // Images arrive as they finish, each as a PNG file.
    while let Some(image) = generation.next().await? {
        let path = format!("image-{:02}.png", image.index);
        std::fs::write(&path, &image.data).map_err(|e| Error::io(&path, "write it", e))?;
        println!("{path}: {} us of computation", image.compute_us);
    }
    Ok(())
}
