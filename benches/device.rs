//! What is to be known of a GPU before it serves: whether it agrees with the CPU, whether it repeats itself, whether an
//! image's bits depend on its batch, and how fast it is, by size of forward, precision, and with graphs or without.
//!
//! ```text
//! cargo bench --features cuda --bench device -- cuda:0
//! cargo bench --features cudnn --bench device -- cuda:0 runs/unet/checkpoint
//! ```
//!
//! The first table is of what is served on a GPU; without arguments it is made on the CPU, by the same tensors.

use std::error::Error;
use std::path::Path;
use std::time::{Duration, Instant};

use candle_core::Device;
use flowmap::checkpoint::{Checkpoint, Repository};
use flowmap::domain::ModelRef;
use flowmap::flow::noise;
use flowmap::model::device::Precision;
use flowmap::model::{self, Executable, OnDevice, Options, Query};

/// Sizes of forwards.
const ROWS: [usize; 8] = [1, 2, 4, 8, 16, 32, 64, 256];
/// Forwards before any is timed: a graph is captured in the second.
const WARM_UP: usize = 3;
/// Rows of a forward that are asked for alone.
const ASKED: usize = 16;
/// Length of a measurement.
const TURN: Duration = Duration::from_secs(1);

type Outcome<T> = Result<T, Box<dyn Error>>;

fn main() -> Outcome<()> {
    let arguments: Vec<String> = std::env::args().skip(1).filter(|argument| argument != "--bench").collect();
    let (name, place) = match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        [] => ("cpu", None),
        [device] => (device, None),
        [device, place] => (device, Some(place)),
        _ => return Err("usage: device [cpu|cuda:N [CHECKPOINT]]".into()),
    };
    let device = match name.strip_prefix("cuda:") {
        Some(ordinal) => Device::new_cuda(ordinal.parse()?)?,
        None => Device::Cpu,
    };
    let checkpoint = match place {
        Some(place) => Checkpoint::read(Path::new(place))?,
        None => {
            let embedded = Repository::embedded();
            embedded.load(&embedded.resolve(&"fashion-mnist".parse::<ModelRef>()?, None)?)?
        }
    };
    println!("| precision | graphs | rows | images/s | ms | largest difference | repeats | alone as in the batch |");
    println!("| --- | --- | ---: | ---: | ---: | ---: | --- | --- |");
    for precision in [Precision::F32, Precision::Bf16] {
        for graphs in [false, true].into_iter().take(if device.is_cuda() { 2 } else { 1 }) {
            let options = Options { precision, graphs, fixed_rows: 0 };
            table(&checkpoint, &device, options)?;
        }
    }
    println!("\nOne size of forward, `engine.fixed_rows`:\n");
    println!("| rows of the forward | same bits in every batch and place |");
    println!("| ---: | --- |");
    for fixed_rows in ROWS {
        let net = model::load_on(&checkpoint, &device, Options { fixed_rows, ..Options::default() })?;
        println!("| {fixed_rows} | {} |", yes(is_independent(&net, &checkpoint, &device, fixed_rows)?));
    }
    Ok(())
}

fn yes(truth: bool) -> &'static str {
    if truth { "yes" } else { "no" }
}

/// Lines of one way to evaluate.
fn table(checkpoint: &Checkpoint, device: &Device, options: Options) -> Outcome<()> {
    let reference = model::load(checkpoint, &Device::Cpu)?;
    let Executable::Compiled(plan) = &reference else { return Err("no plan".into()) };
    let net = model::load_on(checkpoint, device, options)?;
    for rows in ROWS {
        let states = states(checkpoint, rows);
        let queries = queries(checkpoint, &states);
        let mut expected = vec![0.0; states.len()];
        plan.answer(&queries, &mut expected)?;
        let first = answer(&net, &queries, device)?;
        let mut same = true;
        for _ in 0..WARM_UP {
            same &= answer(&net, &queries, device)? == first;
        }
        let alone = answer(&net, &queries[rows - 1..], device)?;
        let alone = alone == first[first.len() - alone.len()..];
        let (began, mut forwards) = (Instant::now(), 0u32);
        while began.elapsed() < TURN {
            answer(&net, &queries, device)?;
            forwards += 1;
        }
        let seconds = began.elapsed().as_secs_f64() / f64::from(forwards);
        let difference = first.iter().zip(&expected).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        let Options { precision, graphs, .. } = options;
        println!(
            "| {precision:?} | {} | {rows} | {:.0} | {:.3} | {difference:.1e} | {} | {} |",
            yes(graphs),
            rows as f64 / seconds,
            1e3 * seconds,
            yes(same),
            yes(alone)
        );
    }
    Ok(())
}

/// Whether rows have the same bits with others beside them in their place and alone in the first; some of them are asked.
fn is_independent(net: &OnDevice, checkpoint: &Checkpoint, device: &Device, rows: usize) -> Outcome<bool> {
    let elements: usize = checkpoint.manifest.data.shape.iter().product();
    let states = states(checkpoint, rows);
    let queries = queries(checkpoint, &states);
    let together = answer(net, &queries, device)?;
    for (row, expected) in together.chunks(elements).enumerate().step_by((rows / ASKED).max(1)) {
        if answer(net, &queries[row..=row], device)? != expected {
            return Ok(false);
        }
    }
    Ok(true)
}

fn answer(net: &OnDevice, queries: &[Query<'_>], device: &Device) -> Outcome<Vec<f32>> {
    let mut out = vec![0.0; queries.iter().map(|query| query.x.len()).sum()];
    net.answer(queries, device, &mut out)?;
    Ok(out)
}

/// Noise of `rows` images, one after the other.
fn states(checkpoint: &Checkpoint, rows: usize) -> Vec<f32> {
    let elements = checkpoint.manifest.data.shape.iter().product();
    (0..rows as u32).flat_map(|index| noise::initial(7, index, elements, checkpoint.manifest.noise_scale)).collect()
}

fn queries<'a>(checkpoint: &Checkpoint, states: &'a [f32]) -> Vec<Query<'a>> {
    let (elements, classes) = (checkpoint.manifest.data.shape.iter().product(), checkpoint.manifest.data.classes.len());
    let query = |(row, x)| {
        let s = (row % 8) as f32 / 8.0;
        Query { x, s, t: (s + 1.0) / 2.0, label: (row % (classes + 1)) as u32 }
    };
    states.chunks(elements).enumerate().map(query).collect()
}
