//! Images from a server.

use std::time::{Duration, Instant};

use indicatif::ProgressBar;
use tokio::runtime::{Builder, Runtime};

use super::order::{Order, Times};
use super::row::{Row, Timing};
use super::{Backend, DEFAULT_SERVER};
use crate::api::Client;
use crate::api::client::{Generation, floats};
use crate::api::proto::{NULL_LABEL, v1};
use crate::domain::{ModelInfo, Sampler};
use crate::error::{Error, Result};

/// A connected server.
#[derive(Debug)]
pub(super) struct Remote {
    client: Client,
    runtime: Runtime,
}

impl Remote {
    /// Connects.
    ///
    /// # Errors
    /// [`Error::Config`] for what is no address; [`Error::Unavailable`], with what to do, where nothing answers.
    pub(super) fn connect(server: &str) -> Result<Self> {
        let runtime = Builder::new_current_thread().enable_all().build();
        let runtime = runtime.map_err(|e| Error::Unavailable(format!("cannot start the runtime: {e}")))?;
        let client = runtime.block_on(Client::connect(server)).map_err(|error| advise(error, server))?;
        Ok(Self { client, runtime })
    }
}

/// Says how to get a server, or to do without.
fn advise(error: Error, server: &str) -> Error {
    let Error::Unavailable(why) = error else { return error };
    let start = if server == DEFAULT_SERVER { "start one with `flowmap serve`" } else { "check the address" };
    Error::Unavailable(format!("{why}\n{start}, or add --local to generate without a server"))
}

impl Backend for Remote {
    fn model(&mut self, name: &str) -> Result<ModelInfo> {
        self.runtime.block_on(self.client.model(name))
    }

    fn row(&mut self, order: &Order, times: &Times, bar: &ProgressBar) -> Result<Row> {
        let Self { client, runtime } = self;
        runtime.block_on(async {
            let asked = Instant::now();
            let generation = client.generate(request(order, times)?).await?;
            Collector::new(order.labels.len(), asked).collect(generation, times, bar).await
        })
    }
}

/// The request for a row.
///
/// # Errors
/// [`Error::Config`] for more images than a request can name.
fn request(order: &Order, times: &Times) -> Result<v1::GenerateRequest> {
    let count = u32::try_from(order.labels.len()).map_err(|_| Error::Config(vec!["--count: is too large".into()]))?;
    let label = |label: &Option<u32>| label.and_then(|label| i32::try_from(label).ok()).unwrap_or(NULL_LABEL);
    let (steps, time_grid) = match times {
        Times::Steps(steps) => (Some(*steps), None),
        Times::Grid(grid) => (None, Some(v1::TimeGrid { times: grid.times().to_vec() })),
    };
    Ok(v1::GenerateRequest {
        model: order.model.id.to_string(),
        count: Some(count),
        steps,
        time_grid,
        sampler: order.sampler.map_or(v1::Sampler::Unspecified, v1::Sampler::from).into(),
        labels: order.labels.iter().map(label).collect(),
        guidance: order.guidance,
        seed: Some(order.seed),
        initial_state: None,
        output_encoding: v1::OutputEncoding::Float32.into(),
        deadline_ms: order.deadline_ms,
        request_id: order.request_id(times),
        ..Default::default()
    })
}

/// Puts images, which come in the order in which they finish, into their places.
struct Collector {
    asked: Instant,
    images: Vec<Option<Vec<f32>>>,
    first: Option<Duration>,
    /// The server's first evaluation and its last, since it accepted.
    begin: Option<Duration>,
    end: Duration,
}

impl Collector {
    fn new(count: usize, asked: Instant) -> Self {
        Self { asked, images: vec![None; count], first: None, begin: None, end: Duration::ZERO }
    }

    async fn collect(mut self, mut generation: Generation, times: &Times, bar: &ProgressBar) -> Result<Row> {
        while let Some(image) = generation.next().await? {
            self.image(&image)?;
            bar.inc(1);
        }
        let total = self.asked.elapsed();
        let missing = || Error::Compute("the server's answer lacks images".into());
        let queued = self.begin.unwrap_or_default();
        let accepted = generation.accepted();
        Ok(Row {
            times: times.clone(),
            request_id: accepted.request_id.clone(),
            sampler: Sampler::try_from(accepted.sampler())?,
            guidance: accepted.guidance,
            evaluations: generation.summary().map(|summary| summary.evaluations).ok_or_else(missing)?,
            images: self.images.into_iter().collect::<Option<_>>().ok_or_else(missing)?,
            timing: Timing {
                first: self.first.unwrap_or(total),
                total,
                queued,
                computed: self.end.saturating_sub(queued),
            },
        })
    }

    fn image(&mut self, image: &v1::Image) -> Result<()> {
        self.first.get_or_insert_with(|| self.asked.elapsed());
        let begin = Duration::from_micros(image.queue_us);
        self.begin = Some(self.begin.map_or(begin, |earlier| earlier.min(begin)));
        self.end = self.end.max(begin.saturating_add(Duration::from_micros(image.compute_us)));
        let place = self.images.get_mut(image.index as usize);
        let place =
            place.ok_or_else(|| Error::Compute(format!("the server made an image {} too many", image.index)))?;
        *place = Some(floats(image)?);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::order::tests::order;
    use super::super::order::time_grid;
    use super::*;

    #[test]
    fn a_request_says_all_that_was_ordered() {
        let order = Order {
            guidance: Some(2.0),
            sampler: Some(Sampler::Euler),
            deadline_ms: Some(9),
            request_id: Some("mine".into()),
            ..order(&[Some(2), None], 2)
        };
        let asked = request(&order, &Times::Steps(4)).unwrap();
        assert_eq!((asked.model.as_str(), asked.count, asked.steps), ("tiny@1", Some(2), Some(4)));
        assert_eq!((asked.labels.as_slice(), asked.sampler()), (&[2, -1][..], v1::Sampler::Euler));
        assert_eq!((asked.guidance, asked.seed, asked.deadline_ms), (Some(2.0), Some(7), Some(9)));
        assert_eq!(asked.request_id, "mine-4");
        let asked = request(&order, &Times::Grid(time_grid("0,0.3,1").unwrap())).unwrap();
        assert_eq!((asked.steps, asked.time_grid.unwrap().times), (None, vec![0.0, 0.3, 1.0]));
    }

    #[test]
    fn the_computation_spans_all_images() {
        let mut collector = Collector::new(2, Instant::now());
        let image = |index, queue_us, compute_us| v1::Image {
            index,
            queue_us,
            compute_us,
            output_encoding: v1::OutputEncoding::Float32.into(),
            ..Default::default()
        };
        // A shape without sides is a single number.
        let image = |index, queue_us, compute_us| v1::Image {
            data: prost::bytes::Bytes::from_static(&[0; 4]),
            ..image(index, queue_us, compute_us)
        };
        for (index, queue_us, compute_us) in [(1, 30, 100), (0, 10, 50)] {
            collector.image(&image(index, queue_us, compute_us)).unwrap();
        }
        assert_eq!((collector.begin, collector.end), (Some(Duration::from_micros(10)), Duration::from_micros(130)));
        assert!(collector.images.iter().all(Option::is_some) && collector.image(&image(2, 0, 0)).is_err());
    }

    #[test]
    fn a_missing_server_is_no_dead_end() {
        let error = Remote::connect("http://127.0.0.1:1").unwrap_err().to_string();
        assert!(error.contains("no connection to http://127.0.0.1:1: ") && error.contains("--local"), "{error}");
    }
}
