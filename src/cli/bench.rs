//! `flowmap bench`: puts a running server under load and tells what became of the requests.

mod closed;
mod open;
mod plan;
mod report;
mod request;

use std::path::PathBuf;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use tokio::runtime::{Builder, Runtime};

use super::print;
use crate::api::proto::v1;
use crate::checkpoint::atomic::write_file;
use crate::error::{Error, Result};
use crate::load::{Mix, Process};
use crate::picture::plot;
use plan::{Plan, Point};
use report::Measured;
use request::Target;

/// Where `flowmap serve` listens unless told otherwise.
const DEFAULT_SERVER: &str = "http://127.0.0.1:50051";

/// Put a running server under load and measure what becomes of the requests.
///
/// In an open loop (`--rate`, `--load`, `--trace`) requests are due at their times whether or not the server keeps up,
/// and latencies count from when a request was due, so that a slow server cannot hide behind a slow sender. In a closed
/// loop (`--concurrency`) each of N clients sends its next request when it has its answer. Prints a table as Markdown.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  flowmap bench --load 0.5,1,2 --deadline-ms 100 --min-steps 1 --mix 1:0.4,2:0.3,4:0.2,8:0.1
  flowmap bench --rate 100 --arrivals bursty --seconds 30 --json run.json --plot run.svg
  flowmap bench --concurrency 1,4,16 --mix 4 --server http://10.0.0.5:50051
  flowmap bench --trace requests.csv --deadline-ms 200")]
pub struct Args {
    /// The server's address.
    #[arg(long, value_name = "URL", default_value = DEFAULT_SERVER)]
    server: String,
    /// Open loop: requests a second; a list is measured one after the other.
    #[arg(long, value_name = "LIST", value_delimiter = ',', conflicts_with_all = ["load", "concurrency", "trace"])]
    rate: Vec<f64>,
    /// Open loop: rates as multiples of the server's capacity at full steps, which is measured first.
    #[arg(long, value_name = "LIST", value_delimiter = ',', conflicts_with_all = ["concurrency", "trace"])]
    load: Vec<f64>,
    /// The capacity that --load refers to, in steps a second, instead of measuring it.
    #[arg(long, value_name = "STEPS", requires = "load")]
    capacity: Option<f64>,
    /// Closed loop: clients that each wait for their answer.
    #[arg(long, value_name = "LIST", value_delimiter = ',', conflicts_with = "trace")]
    concurrency: Vec<u32>,
    /// Open loop: recorded requests, lines of offset_s,steps[,deadline_ms].
    #[arg(long, value_name = "FILE")]
    trace: Option<PathBuf>,
    /// How requests come in an open loop: poisson, constant, bursty or bursty:FACTOR:PERIOD_S.
    #[arg(long, value_name = "PROCESS", default_value = "poisson")]
    arrivals: Process,
    /// How many steps requests ask for, and how often.
    #[arg(long, value_name = "STEPS[:SHARE],…", default_value = "1:0.4,2:0.3,4:0.2,8:0.1")]
    mix: Mix,
    /// Milliseconds after which an answer is late; none if absent.
    #[arg(long, value_name = "MS", value_parser = clap::value_parser!(u32).range(1..))]
    deadline_ms: Option<u32>,
    /// The fewest steps that requests allow; all of them if absent.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    min_steps: Option<u32>,
    /// Images of a request.
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    count: u32,
    /// The model; the server's default one if absent.
    #[arg(long, value_name = "NAME[@VERSION]", default_value = "", hide_default_value = true)]
    model: String,
    /// The class of all images, by number; each request another one if absent.
    #[arg(long, value_name = "NUMBER")]
    class: Option<u32>,
    /// Guidance scale; the model's own if absent.
    #[arg(long, value_name = "SCALE")]
    guidance: Option<f32>,
    /// Ask for previews after every step.
    #[arg(long)]
    previews: bool,
    /// Ask for PNG files, as an application would, instead of bytes.
    #[arg(long)]
    png: bool,
    /// How urgent the requests are: low, normal or high.
    #[arg(long, value_name = "PRIORITY", default_value = "normal", value_parser = plan::priority)]
    priority: v1::Priority,
    /// Seconds of each measurement.
    #[arg(long, value_name = "S", default_value_t = 10.0)]
    seconds: f64,
    /// Seconds of the same load before each measurement.
    #[arg(long, value_name = "S", default_value_t = 2.0)]
    warmup_seconds: f64,
    /// Connections, which requests take in turn.
    #[arg(long, value_name = "N", default_value_t = 4, value_parser = clap::value_parser!(u32).range(1..=1024))]
    connections: u32,
    /// Most open requests; what is due beyond them is counted as not sent.
    #[arg(long, value_name = "N", default_value_t = 2048, value_parser = clap::value_parser!(u32).range(1..=65_536))]
    in_flight: u32,
    /// Seed of times, steps and images.
    #[arg(long, value_name = "N", default_value_t = 1)]
    seed: u64,
    /// Write everything that was measured to this file.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Write charts of it to this SVG file.
    #[arg(long, value_name = "FILE")]
    plot: Option<PathBuf>,
}

/// Runs the command.
///
/// # Errors
/// Arguments that make no load, a server that cannot be reached or refuses the very request, a file that cannot be
/// written.
pub fn main(args: &Args) -> Result<()> {
    let plan = Plan::new(args)?;
    let runtime = Builder::new_multi_thread().enable_all().build();
    let runtime = runtime.map_err(|e| Error::Unavailable(format!("cannot start the runtime: {e}")))?;
    let target = runtime.block_on(Target::connect(&plan))?;
    let measured = measure(&plan, &target, &runtime)?;
    print(&report::markdown(&plan, &measured))?;
    if let Some(why) = target.failure() {
        eprintln!("the first request that failed: {why}");
    }
    if let Some(path) = &args.json {
        write_file(path, report::json(&plan, &measured).as_bytes())?;
    }
    if let Some(path) = &args.plot {
        write_file(path, plot::svg(&report::charts(&measured), 2)?.as_bytes())?;
    }
    Ok(())
}

/// Measures every point of `plan`, one after the other.
fn measure(plan: &Plan, target: &Target, runtime: &Runtime) -> Result<Vec<Measured>> {
    let bar = progress(plan);
    let mut capacity = plan.capacity;
    if plan.needs_capacity() && capacity.is_none() {
        bar.set_message("capacity");
        capacity = Some(closed::capacity(plan, target, runtime)?);
    }
    let mut all = Vec::new();
    for point in &plan.points {
        bar.set_message(point.to_string());
        let measured = match *point {
            Point::Concurrency(clients) => closed::run(plan, target, runtime, clients),
            Point::Trace => open::run(plan, target, runtime, None)?,
            Point::Rate(rate) => open::run(plan, target, runtime, Some(rate))?,
            Point::Load(load) => open::run(plan, target, runtime, Some(load * plan.requests_at(capacity)))?,
        };
        bar.inc(1);
        all.push(Measured { point: *point, capacity, ..measured });
    }
    bar.finish_and_clear();
    Ok(all)
}

/// On standard error; nothing where that is no terminal.
fn progress(plan: &Plan) -> ProgressBar {
    let bar = ProgressBar::with_draw_target(Some(plan.points.len() as u64), ProgressDrawTarget::stderr());
    let style = ProgressStyle::with_template("{bar:30} {pos} of {len} measurements, {msg}, {elapsed} gone, {eta} left");
    bar.enable_steady_tick(std::time::Duration::from_millis(200));
    bar.with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()))
}
