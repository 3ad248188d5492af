//! `flowmap simulate`: the scheduler in virtual time, under any load, beside the rules of other servers.

mod cost;

use std::path::{Path, PathBuf};
use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use self::cost::CostMs;
use super::print;
use crate::checkpoint::atomic::write_file;
use crate::error::{Error, Result};
use crate::load::{Mix, Process, Trace};
use crate::picture::plot;
use crate::scheduler::{BrownOutLimits, Headroom, Limits};
use crate::simulate::{Balancer, Kind, Length, Plan, Run, Scenario, Slo, Source, report};

/// Most servers, and most devices of one.
const MAX_SERVERS: i64 = 100_000;
const MAX_DEVICES: i64 = 1024;

/// Simulate the scheduler under load, next to other servers' rules.
///
/// Runs the scheduler's own code in virtual time, with forwards of the given cost and no network. Load 1 is what the
/// devices can do when every forward is full and every request gets all its steps. Prints a table as Markdown.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  flowmap simulate
  flowmap simulate --cost-ms 4,0.25 --mix 1:0.4,2:0.3,4:0.2,8:0.1 --slo-ms 100 --out simulation
  flowmap simulate --from http://127.0.0.1:9090 --model fashion-mnist@1 --loads 0.8,1,2
  flowmap simulate --servers 250 --devices 4 --loads 2 --requests 1000000 --policies flowmap
  flowmap simulate --trace requests.csv --slo-ms 100,8:400 --noise 0.2")]
pub struct Args {
    /// Loads, as multiples of what full forwards can do with all steps.
    #[arg(long, value_name = "LIST", value_delimiter = ',', default_value = "0.5,0.8,0.95,1.2,2,3")]
    loads: Vec<f64>,
    /// What a forward of n rows takes: A,B for A + B·n milliseconds.
    #[arg(long, value_name = "A,B", default_value = "4,0.25", conflicts_with = "from")]
    cost_ms: CostMs,
    /// Take the cost from the metrics of a running server.
    #[arg(long, value_name = "URL")]
    from: Option<String>,
    /// The model whose cost is taken, as `name@version`; needed where the server has several.
    #[arg(long, value_name = "NAME@VERSION", requires = "from")]
    model: Option<String>,
    /// Standard deviation of the logarithm of what forwards take over what they cost; 0 for exactly that.
    #[arg(long, value_name = "SIGMA", default_value_t = 0.0)]
    noise: f64,
    /// Most rows of one forward.
    #[arg(long, value_name = "N", default_value_t = 32, value_parser = clap::value_parser!(u32).range(1..=65_536))]
    max_rows: u32,
    /// Milliseconds within which requests want to be answered, for some numbers of steps another: 100,4:200,8:400.
    #[arg(long, value_name = "MS", default_value = "100")]
    slo_ms: Slo,
    /// How many steps requests ask for, and how often.
    #[arg(long, value_name = "STEPS:SHARE,…", default_value = "1:0.4,2:0.3,4:0.2,8:0.1", conflicts_with = "trace")]
    mix: Mix,
    /// The fewest steps that requests allow.
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    min_steps: u32,
    /// How requests come: poisson, constant, bursty or bursty:FACTOR:PERIOD_S.
    #[arg(long, value_name = "PROCESS", default_value = "poisson", conflicts_with = "trace")]
    arrivals: Process,
    /// Seconds of each load.
    #[arg(long, value_name = "S", default_value_t = 60.0, conflicts_with_all = ["requests", "trace"])]
    seconds: f64,
    /// Requests of each load, instead of a time.
    #[arg(long, value_name = "N", conflicts_with = "trace")]
    requests: Option<usize>,
    /// Recorded requests instead of made-up ones: lines of offset_s,steps[,deadline_ms].
    #[arg(long, value_name = "FILE", conflicts_with = "loads")]
    trace: Option<PathBuf>,
    /// Servers.
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=MAX_SERVERS))]
    servers: u32,
    /// Devices of each server.
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=MAX_DEVICES))]
    devices: u32,
    /// What spreads requests over servers: round-robin, random, two-choices or least-wait.
    #[arg(long, value_name = "RULE", default_value = "least-wait")]
    balancer: Balancer,
    /// What is compared: flowmap, continuous-fifo, continuous-reject, same-steps.
    #[arg(
        long,
        value_name = "LIST",
        value_delimiter = ',',
        default_value = "flowmap,continuous-fifo,continuous-reject,same-steps"
    )]
    policies: Vec<Kind>,
    /// flowmap: part of the time to a deadline that is not planned with, in per cent.
    #[arg(long, value_name = "PERCENT", default_value_t = 8, value_parser = clap::value_parser!(u8).range(0..=90))]
    headroom_percent: u8,
    /// flowmap: utilisation beyond which steps are given up for overload, in per cent; 0 for never.
    #[arg(long, value_name = "PERCENT", default_value_t = 98, value_parser = clap::value_parser!(u8).range(0..=100))]
    brown_out_percent: u8,
    /// flowmap: throughput that a forward must reach, as a part of that of a full one, in per cent.
    #[arg(long, value_name = "PERCENT", default_value_t = 95, value_parser = clap::value_parser!(u8).range(1..=100))]
    efficiency_percent: u8,
    /// Of everything random.
    #[arg(long, value_name = "N", default_value_t = 1)]
    seed: u64,
    /// Folder for report.md, report.json and the charts; nothing is written without it.
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
}

/// Runs the command.
///
/// # Errors
/// Arguments that make no simulation, a server whose metrics cannot be had, a file that cannot be read or written.
pub fn main(args: &Args) -> Result<()> {
    let plan = args.plan()?;
    let bar = progress(plan.requests()?);
    let runs = plan.run(&|more| bar.inc(more as u64))?;
    bar.finish_and_clear();
    let (requests, seconds) = (bar.length().unwrap_or(0) as f64, bar.elapsed().as_secs_f64());
    eprintln!("{requests} requests in {seconds:.1} s, {:.0} a second", requests / seconds.max(1e-3));
    let table = report::markdown(&plan, &runs);
    print(&table)?;
    args.out.as_deref().map_or(Ok(()), |out| write(out, &plan, &runs, &table))
}

impl Args {
    fn plan(&self) -> Result<Plan> {
        let mut problems = Vec::new();
        if !(0.0..=2.0).contains(&self.noise) {
            problems.push(format!("--noise: {} is not within 0 to 2", self.noise));
        }
        if !(self.seconds.is_finite() && self.seconds > 0.0) {
            problems.push(format!("--seconds: {} is not a number above 0", self.seconds));
        }
        if !problems.is_empty() {
            return Err(Error::Config(problems));
        }
        let mut policies = self.policies.clone();
        policies.sort_unstable();
        policies.dedup();
        Ok(Plan { scenario: self.scenario()?, policies, source: self.source()? })
    }

    fn scenario(&self) -> Result<Scenario> {
        let cost = match &self.from {
            Some(url) => cost::of_server(url, self.model.as_deref())?,
            None => self.cost_ms.line(),
        };
        Ok(Scenario {
            cost,
            noise: self.noise,
            limits: self.limits(),
            servers: self.servers as usize,
            devices: self.devices as usize,
            balancer: self.balancer,
            slo: self.slo_ms.clone(),
            min_steps: self.min_steps,
            seed: self.seed,
        })
    }

    fn source(&self) -> Result<Source> {
        if let Some(path) = &self.trace {
            return Ok(Source::Trace(Trace::read(path)?));
        }
        let length = self.requests.map_or(Length::Seconds(self.seconds), Length::Requests);
        Ok(Source::Process { process: self.arrivals, mix: self.mix.clone(), loads: self.loads.clone(), length })
    }

    /// What the flags say; else what a server has by default, in which a forward is as long as its rows make it.
    fn limits(&self) -> Limits {
        let fraction = |percent: u8| f64::from(percent) / 100.0;
        let brown_out = BrownOutLimits {
            utilisation: fraction(self.brown_out_percent),
            window: Duration::from_millis(400),
            min_steps: 1,
        };
        Limits {
            max_rows: self.max_rows as usize,
            max_step: Duration::from_secs(3600),
            efficiency: fraction(self.efficiency_percent),
            max_queued_images: 4096,
            headroom: Headroom { fraction: fraction(self.headroom_percent), most: Duration::from_millis(100) },
            brown_out: (self.brown_out_percent > 0).then_some(brown_out),
            preview_share: 0.0,
            kept_bytes: 0,
        }
    }
}

/// On standard error, with the time that is left; nothing where that is no terminal.
fn progress(requests: usize) -> ProgressBar {
    let bar = ProgressBar::with_draw_target(Some(requests as u64), ProgressDrawTarget::stderr());
    let style = ProgressStyle::with_template("{bar:30} {human_pos} of {human_len} requests, {per_sec}, {eta} left");
    bar.with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()))
}

fn write(out: &Path, plan: &Plan, runs: &[Run], table: &str) -> Result<()> {
    std::fs::create_dir_all(out).map_err(|e| Error::io(out, "make the folder", e))?;
    let charts = report::charts(runs);
    let files = charts.iter().map(|(name, _)| format!("{name}.svg"));
    let images: Vec<String> = files.map(|file| format!("![{file}]({file})")).collect();
    write_file(&out.join("report.md"), format!("{table}\n{}\n", images.join("\n")).as_bytes())?;
    write_file(&out.join("report.json"), report::json(plan, runs).as_bytes())?;
    for (name, chart) in charts {
        write_file(&out.join(name).with_extension("svg"), plot::svg(&[chart], 1)?.as_bytes())?;
    }
    eprintln!("report.md, report.json and the charts are in {}", out.display());
    Ok(())
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Debug, Parser)]
    struct Command {
        #[command(flatten)]
        args: Args,
    }

    fn parsed(line: &str) -> Result<Plan, String> {
        let args = Command::try_parse_from(line.split(' ')).map_err(|e| e.to_string())?.args;
        args.plan().map_err(|e| e.to_string())
    }

    #[test]
    fn the_defaults_are_the_reference_scenario() {
        let plan = parsed("simulate").unwrap();
        assert_eq!(plan.policies, Kind::ALL);
        assert_eq!(plan.scenario.forward(32), Duration::from_millis(12));
        assert!(matches!(&plan.source, Source::Process { loads, .. } if loads.len() == 6));
        let defaults = crate::config::DEFAULTS;
        for line in [
            "headroom_percent = 8",
            "headroom_max_ms = 100",
            "brown_out_percent = 98",
            "brown_out_window_ms = 400",
            "efficiency_percent = 95",
        ] {
            assert!(defaults.contains(line), "the server's default is another: {line}");
        }
    }

    #[test]
    fn what_makes_no_simulation_is_explained() {
        for (line, why) in [
            ("simulate --noise 3", "--noise"),
            ("simulate --seconds 0", "--seconds"),
            ("simulate --cost-ms 1", "1"),
            ("simulate --policies best", "one of: flowmap"),
            ("simulate --trace x --loads 1", "--loads"),
            ("simulate --servers 0", "--servers"),
        ] {
            let told = parsed(line).unwrap_err();
            assert!(told.contains(why), "{line}: {told}");
        }
        let none = parsed("simulate --loads 0").unwrap().run(&|_| {}).unwrap_err();
        assert!(none.to_string().contains("--loads"));
    }

    #[test]
    fn a_report_is_written_with_its_charts() {
        let folder = tempfile::tempdir().unwrap();
        let plan = parsed("simulate --loads 1,2 --requests 200").unwrap();
        let runs = plan.run(&|_| {}).unwrap();
        write(folder.path(), &plan, &runs, &report::markdown(&plan, &runs)).unwrap();
        for file in ["report.md", "report.json", "served.svg", "p99.svg", "steps.svg"] {
            assert!(folder.path().join(file).metadata().unwrap().len() > 500, "{file}");
        }
    }
}
