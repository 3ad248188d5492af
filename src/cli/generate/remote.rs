//! Images from a server.

use std::time::{Duration, Instant};

use indicatif::ProgressBar;
use tokio::runtime::{Builder, Runtime};

use super::beginning::Given;
use super::order::{Order, Times};
use super::output::{picture, save};
use super::row::{Row, Steps, Timing};
use super::wishes::Wishes;
use super::{Backend, DEFAULT_SERVER};
use crate::api::Client;
use crate::api::client::{Arrival, Generation, floats, preview_floats, sampler};
use crate::api::proto::{NULL_LABEL, v1};
use crate::domain::{Gamma, ModelInfo, Receipt, Sampler};
use crate::error::{Error, Result};

/// A connected server.
#[derive(Debug)]
pub(super) struct Remote {
    client: Client,
    runtime: Runtime,
}

impl Remote {
    /// Connects, on the account of `tenant`.
    ///
    /// # Errors
    /// [`Error::Config`] for what is no address; [`Error::Unavailable`], with what to do, where nothing answers.
    pub(super) fn connect(server: &str, tenant: Option<&str>) -> Result<Self> {
        let runtime = Builder::new_current_thread().enable_all().build();
        let runtime = runtime.map_err(|e| Error::Unavailable(format!("cannot start the runtime: {e}")))?;
        let client = runtime.block_on(Client::connect(server)).map_err(|error| advise(error, server))?;
        let client = match tenant {
            Some(tenant) => client.on_account_of(tenant)?,
            None => client,
        };
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

    fn row(&mut self, order: &Order, times: &Times, given: Option<&Given>, bar: &ProgressBar) -> Result<Row> {
        let Self { client, runtime } = self;
        runtime.block_on(async {
            let asked = Instant::now();
            let asked_for = v1::GenerateRequest {
                initial_state: given.map(|given| initial_state(order, given)),
                ..request(order, times)?
            };
            let generation = client.generate(asked_for).await?;
            Collector::new(order, times, asked).collect(generation, bar).await
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
        Times::Steps { steps, .. } => (Some(*steps), None),
        Times::Whole { .. } | Times::Grid(_) => (None, Some(v1::TimeGrid { times: times.grid().times().to_vec() })),
    };
    let Wishes { min_steps, priority, previews, continued, .. } = &order.wishes;
    let common = v1::GenerateRequest {
        model: order.model.id.to_string(),
        steps,
        time_grid,
        output_encoding: v1::OutputEncoding::Float32.into(),
        deadline_ms: order.deadline_ms,
        request_id: order.request_id(times),
        min_steps: *min_steps,
        priority: priority.map_or(v1::Priority::Unspecified, v1::Priority::from).into(),
        previews: previews.clone().map(|evaluations| v1::Previews { evaluations }),
        ..Default::default()
    };
    if !continued.is_empty() {
        let continue_from = continued.iter().cloned().map(v1::Receipt::from).collect();
        return Ok(v1::GenerateRequest { continue_from, ..common });
    }
    Ok(v1::GenerateRequest {
        count: Some(count),
        sampler: order.sampler.map_or(v1::Sampler::Unspecified, v1::Sampler::from).into(),
        gamma: order.sampler.and_then(Sampler::gamma).map(Gamma::value),
        labels: order.labels.iter().map(label).collect(),
        guidance: order.guidance,
        seed: Some(order.seed),
        ..common
    })
}

/// States in the model's shape, alone or one after the other.
fn initial_state(order: &Order, given: &Given) -> v1::InitialState {
    let shape = order.model.shape.iter().map(|&side| u32::try_from(side).unwrap_or(u32::MAX));
    let count = given.states.len() / order.model.elements().max(1);
    let each = (count != 1).then(|| u32::try_from(count).unwrap_or(u32::MAX));
    let float32_data = given.states.iter().flat_map(|number| number.to_le_bytes()).collect();
    let states = v1::Tensor { shape: each.into_iter().chain(shape).collect(), float32_data };
    v1::InitialState { states: Some(states), time: given.time, add_noise: given.add_noise }
}

/// Puts images, which come in the order in which they finish, into their places.
struct Collector<'a> {
    order: &'a Order,
    times: &'a Times,
    asked: Instant,
    images: Vec<Option<Made>>,
    first: Option<Duration>,
    /// The server's first evaluation and its last, since it accepted.
    begin: Option<Duration>,
    end: Duration,
}

/// An image as a server has made it.
#[derive(Debug, Clone)]
struct Made {
    numbers: Vec<f32>,
    receipt: Receipt,
    steps: Steps,
}

impl<'a> Collector<'a> {
    fn new(order: &'a Order, times: &'a Times, asked: Instant) -> Self {
        let images = vec![None; order.labels.len()];
        Self { order, times, asked, images, first: None, begin: None, end: Duration::ZERO }
    }

    async fn collect(mut self, mut generation: Generation, bar: &ProgressBar) -> Result<Row> {
        while let Some(arrival) = generation.arrival().await? {
            match arrival {
                Arrival::Preview(preview) => {
                    let told = self.preview(&preview)?;
                    bar.suspend(|| eprintln!("{told}"));
                }
                Arrival::Image(image) => {
                    self.image(image)?;
                    bar.inc(1);
                }
            }
        }
        let total = self.asked.elapsed();
        let missing = || Error::Compute("the server's answer lacks images".into());
        let queued = self.begin.unwrap_or_default();
        let accepted = generation.accepted();
        let made: Vec<Made> = self.images.into_iter().collect::<Option<_>>().ok_or_else(missing)?;
        let (mut images, mut receipts, mut steps) = (Vec::new(), Vec::new(), Vec::new());
        for image in made {
            images.push(image.numbers);
            receipts.push(image.receipt);
            steps.push(image.steps);
        }
        Ok(Row {
            times: self.times.clone(),
            request_id: accepted.request_id.clone(),
            sampler: sampler(accepted.sampler(), accepted.gamma)?.to_string(),
            guidance: accepted.guidance,
            evaluations: generation.summary().map(|summary| summary.evaluations).ok_or_else(missing)?,
            images,
            receipts,
            steps,
            timing: Timing {
                first: self.first.unwrap_or(total),
                total,
                queued,
                computed: self.end.saturating_sub(queued),
            },
        })
    }

    /// Saves a preview, if it is to be, and says that it came.
    fn preview(&self, preview: &v1::Preview) -> Result<String> {
        let v1::Preview { index, evaluations, .. } = *preview;
        if let Some(folder) = &self.order.wishes.preview_dir {
            let name = format!("{}-{index:04}-after-{evaluations}.png", self.times.name());
            save(&folder.join(name), &picture(&self.order.model, &preview_floats(preview)?)?)?;
        }
        let noun = if evaluations == 1 { "evaluation" } else { "evaluations" };
        let ms = self.asked.elapsed().as_millis();
        Ok(format!("{}: preview of image {index} after {evaluations} {noun}, {ms} ms", self.times.caption()))
    }

    fn image(&mut self, image: v1::Image) -> Result<()> {
        self.first.get_or_insert_with(|| self.asked.elapsed());
        let begin = Duration::from_micros(image.queue_us);
        self.begin = Some(self.begin.map_or(begin, |earlier| earlier.min(begin)));
        self.end = self.end.max(begin.saturating_add(Duration::from_micros(image.compute_us)));
        let place = self.images.get_mut(image.index as usize);
        let place =
            place.ok_or_else(|| Error::Compute(format!("the server made an image {} too many", image.index)))?;
        let steps = Steps { used: image.steps, asked: image.steps_asked, reason: image.steps_reason().try_into()? };
        let numbers = floats(&image)?;
        *place = Some(Made { numbers, receipt: image.receipt.unwrap_or_default().try_into()?, steps });
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::order::tests::order;
    use super::super::order::time_grid;
    use super::*;
    use crate::cli::receipts::tests::receipt;
    use crate::domain::Priority;

    #[test]
    fn a_request_says_all_that_was_ordered() {
        let order = Order {
            guidance: Some(2.0),
            sampler: Some(Sampler::Euler),
            deadline_ms: Some(9),
            request_id: Some("mine".into()),
            ..order(&[Some(2), None], 2)
        };
        let asked = request(&order, &Times::steps(0.0, 4)).unwrap();
        assert_eq!((asked.model.as_str(), asked.count, asked.steps), ("tiny@1", Some(2), Some(4)));
        assert_eq!((asked.labels.as_slice(), asked.sampler()), (&[2, -1][..], v1::Sampler::Euler));
        assert_eq!((asked.guidance, asked.seed, asked.deadline_ms), (Some(2.0), Some(7), Some(9)));
        assert_eq!(asked.request_id, "mine-4");
        let asked = request(&order, &Times::Grid(time_grid("0,0.3,1").unwrap())).unwrap();
        assert_eq!((asked.steps, asked.time_grid.unwrap().times), (None, vec![0.0, 0.3, 1.0]));
    }

    #[test]
    fn states_go_alone_or_one_for_each_image() {
        let order = order(&[None; 2], 1);
        let given = |images: usize| Given { states: vec![0.5; 4 * images], time: 0.25, add_noise: images == 1 };
        let shape = |images| initial_state(&order, &given(images)).states.unwrap().shape;
        assert_eq!((shape(1), shape(2)), (vec![1, 2, 2], vec![2, 1, 2, 2]));
        let state = initial_state(&order, &given(1));
        assert_eq!((state.time, state.add_noise, state.states.unwrap().float32_data.len()), (0.25, true, 16));
        let asked = Order { sampler: Some(Sampler::CONSISTENCY), ..order };
        let asked = request(&asked, &Times::steps(0.25, 4)).unwrap();
        assert_eq!((asked.steps, asked.sampler(), asked.gamma), (Some(4), v1::Sampler::Gamma, Some(1.0)));
    }

    #[test]
    fn a_continuation_says_what_its_receipts_do_not() {
        let wishes = Wishes {
            min_steps: Some(2),
            priority: Some(Priority::High),
            previews: Some(vec![1]),
            continued: vec![receipt(0), receipt(4)],
            ..Wishes::default()
        };
        let asked = request(&Order { wishes, ..order(&[Some(1); 2], 2) }, &Times::steps(0.0, 8)).unwrap();
        assert_eq!((asked.count, asked.seed, asked.labels.len(), asked.steps), (None, None, 0, Some(8)));
        assert_eq!((asked.min_steps, asked.priority(), asked.continue_from[1].index), (Some(2), v1::Priority::High, 4));
        assert_eq!(asked.previews.unwrap().evaluations, [1]);
    }

    fn image(index: u32, queue_us: u64, compute_us: u64) -> v1::Image {
        v1::Image {
            index,
            queue_us,
            compute_us,
            steps_reason: v1::StepsReason::Asked.into(),
            receipt: Some(receipt(index).into()),
            output_encoding: v1::OutputEncoding::Float32.into(),
            // A shape without sides is a single number.
            data: prost::bytes::Bytes::from_static(&[0; 4]),
            ..Default::default()
        }
    }

    #[test]
    fn the_computation_spans_all_images() {
        let (order, times) = (order(&[None; 2], 1), Times::steps(0.0, 1));
        let mut collector = Collector::new(&order, &times, Instant::now());
        for (index, queue_us, compute_us) in [(1, 30, 100), (0, 10, 50)] {
            collector.image(image(index, queue_us, compute_us)).unwrap();
        }
        assert_eq!((collector.begin, collector.end), (Some(Duration::from_micros(10)), Duration::from_micros(130)));
        assert!(collector.images.iter().all(Option::is_some) && collector.image(image(2, 0, 0)).is_err());
    }

    #[test]
    fn previews_are_told_and_saved() {
        let folder = tempfile::tempdir().unwrap();
        let wishes = Wishes { preview_dir: Some(folder.path().into()), ..Wishes::default() };
        let (order, times) = (Order { wishes, ..order(&[None; 2], 1) }, Times::steps(0.0, 4));
        let preview = v1::Preview {
            index: 1,
            evaluations: 2,
            shape: vec![1, 2, 2],
            output_encoding: v1::OutputEncoding::Float32.into(),
            data: prost::bytes::Bytes::from_static(&[0; 16]),
            ..Default::default()
        };
        let told = Collector::new(&order, &times, Instant::now()).preview(&preview).unwrap();
        assert!(told.starts_with("4 steps: preview of image 1 after 2 evaluations, "), "{told}");
        assert!(image::open(folder.path().join("steps_4-0001-after-2.png")).is_ok());
    }

    #[test]
    fn a_missing_server_is_no_dead_end() {
        let error = Remote::connect("http://127.0.0.1:1", None).unwrap_err().to_string();
        assert!(error.contains("no connection to http://127.0.0.1:1: ") && error.contains("--local"), "{error}");
    }
}
