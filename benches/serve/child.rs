//! The server's process: this program again, with the engine that a measurement wants, or the shipped program.
//!
//! The parent closes the child's standard input to end it; a line there asks what the engine has done since the last.

use std::io::{BufRead, BufReader, Write};
use std::process::{ChildStdin, ChildStdout, Command, Stdio};
use std::str::FromStr;
use std::time::Duration;

use flowmap::app::{App, Parts};
use flowmap::config::{Config, Layers, Override};
use flowmap::domain::{Evaluation, ModelKey, NoiseKey, Rule};
use flowmap::engine::{Batch, Engine, Purpose, RowId, RowStep, Start};
use flowmap::shutdown::Stops;

use super::Failure;
use super::machine::quantile;
use super::timed::{Idle, Watch, Watched};

/// The first argument of a child.
pub(super) const MARK: &str = "child";

/// The model of all measurements.
const MODEL: &str = "fashion-mnist";

/// What a child does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// Serves the embedded model.
    Shipped,
    /// Runs its engine without a server.
    Bare,
    /// Serves an engine that costs nothing.
    Idle,
    /// Serves an engine whose forwards take a second.
    Slow,
}

const KINDS: [(&str, Kind); 4] =
    [("shipped", Kind::Shipped), ("bare", Kind::Bare), ("idle", Kind::Idle), ("slow", Kind::Slow)];

impl FromStr for Kind {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        KINDS.iter().find(|kind| kind.0 == name).map(|kind| kind.1).ok_or_else(|| format!("no child is a {name}"))
    }
}

/// A child, as its parent sees it. Ends with this.
pub(super) struct Child {
    process: std::process::Child,
    input: Option<ChildStdin>,
    output: BufReader<ChildStdout>,
    /// What it said first.
    ready: String,
}

/// What an engine did.
#[derive(Debug)]
pub(super) struct Report {
    pub(super) rows: u64,
    /// Seconds in forwards.
    pub(super) busy: f64,
    pub(super) p50_us: f64,
}

impl Child {
    /// Starts a child, which is ready when this returns.
    pub(super) fn start(kind: Kind, settings: &[(&str, String)]) -> Result<Self, Failure> {
        let name = KINDS.iter().find(|named| named.1 == kind).map_or("", |named| named.0);
        let mut command = Command::new(std::env::current_exe()?);
        command.args([MARK, name]).args(settings.iter().map(|(key, value)| format!("{key}={value}")));
        Self::spawn(command)
    }

    /// The shipped program.
    pub(super) fn program() -> Result<Self, Failure> {
        let mut command = Command::new(env!("CARGO_BIN_EXE_flowmap"));
        command.args(["serve", "--grpc-address", "127.0.0.1:0", "--http-address", "127.0.0.1:0"]);
        Self::spawn(command)
    }

    fn spawn(mut command: Command) -> Result<Self, Failure> {
        let piped = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut process = piped.spawn()?;
        let input = process.stdin.take();
        let mut output = BufReader::new(process.stdout.take().ok_or("no output")?);
        let mut ready = String::new();
        output.read_line(&mut ready)?;
        Ok(Self { process, input, output, ready })
    }

    pub(super) fn id(&self) -> u32 {
        self.process.id()
    }

    /// Where it serves.
    pub(super) fn address(&self) -> String {
        format!("http://{}", self.ready.trim())
    }

    /// What its engine has done since the last call.
    pub(super) fn report(&mut self) -> Result<Report, Failure> {
        self.input.as_mut().ok_or("no input")?.write_all(b"\n")?;
        let mut line = String::new();
        self.output.read_line(&mut line)?;
        let numbers: Vec<f64> = line.split_whitespace().map(str::parse).collect::<Result<_, _>>()?;
        let [rows, busy, p50_us] = *numbers.as_slice() else { return Err(format!("no report: {line}").into()) };
        Ok(Report { rows: rows as u64, busy, p50_us })
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// The child's side.
pub(super) fn run(kind: Kind, settings: &[&str]) -> Result<(), Failure> {
    let fixed = ["server.grpc_address=127.0.0.1:0", "server.http_address=127.0.0.1:0"];
    let model = format!("models.load={MODEL}");
    let set = |setting: &&str| {
        let (key, value) = setting.split_once('=')?;
        Some(Override { key: key.into(), value: value.into(), flag: "--set".into() })
    };
    let settings = fixed.iter().chain([&&*model]).chain(settings).filter_map(set).collect::<Vec<_>>();
    let config = Config::read(&Layers::load(None, [], settings)?)?;
    // As the program has it: what a request logs is part of what it costs.
    flowmap::telemetry::init(&config.log)?;
    let watch = Watch::default();
    match kind {
        Kind::Bare => bare(&config, watch),
        _ => serve(kind, &config, watch),
    }
}

/// The engines of the embedded model, or others in their places, watched.
fn parts(kind: Kind, config: &Config, watch: &Watch) -> Result<Parts, Failure> {
    let mut parts = Parts::load(config)?;
    let elements = parts.catalogue.models()[0].elements();
    let forward = if kind == Kind::Slow { Duration::from_secs(1) } else { Duration::ZERO };
    let engines = std::mem::take(&mut parts.engines).into_iter().map(|make| {
        let watch = watch.clone();
        let watched = move || {
            let engine: Box<dyn Engine> = match kind {
                Kind::Shipped | Kind::Bare => make()?,
                Kind::Idle | Kind::Slow => Box::new(Idle { elements, forward }),
            };
            Ok(Box::new(Watched { engine, watch }) as Box<dyn Engine>)
        };
        Box::new(watched) as flowmap::app::EngineMaker
    });
    parts.engines = engines.collect();
    Ok(parts)
}

fn serve(kind: Kind, config: &Config, watch: Watch) -> Result<(), Failure> {
    let parts = parts(kind, config, &watch)?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(async {
        let app = App::assemble(config, parts).await?;
        let address = app.grpc_address();
        let (stopper, stops) = Stops::manual();
        std::thread::spawn(move || {
            let _ = answer(&address.to_string(), &watch);
            stopper.stop();
        });
        app.serve(stops).await?;
        Ok(())
    })
}

/// Full forwards of rows that begin and end in them.
fn bare(config: &Config, watch: Watch) -> Result<(), Failure> {
    let engine = parts(Kind::Bare, config, &watch)?.engines.pop().ok_or("no engine")?;
    std::thread::spawn(move || {
        let _ = answer("", &watch);
        std::process::exit(0);
    });
    let mut engine = engine()?;
    let step = |seed: u64| RowStep {
        row: RowId(seed),
        start: Some(Start::Noise),
        noise: NoiseKey { seed, index: 0 },
        evaluation: Evaluation { s: 0.0, t: 1.0, rule: Rule::Jump },
        label: None,
        guidance: 1.0,
        purpose: Purpose::Finish { keep: true },
    };
    let rows = config.scheduler.max_rows as u64;
    for first in (0..).step_by(config.scheduler.max_rows) {
        engine.step(&Batch { model: ModelKey(0), rows: (first..first + rows).map(step).collect() })?;
    }
    Ok(())
}

/// Says `ready`, then what the engine did whenever a line comes; returns when none will.
fn answer(ready: &str, watch: &Watch) -> Result<(), Failure> {
    println!("{ready}");
    for line in std::io::stdin().lines() {
        line?;
        let mut seen = watch.take();
        let (rows, busy) = (seen.rows, seen.forwards.iter().sum::<f64>());
        println!("{rows} {busy} {}", 1e6 * quantile(&mut seen.forwards, 0.5));
    }
    Ok(())
}
