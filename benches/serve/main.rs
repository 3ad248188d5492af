//! What serving costs beside the network: the same engine bare and behind the server, a request's way at an idle device,
//! requests that cost the device nothing, streams that are open, and the start of the program.
//!
//! ```text
//! cargo bench --bench serve                    # everything
//! cargo bench --bench serve -- share added     # some of: share added requests streams start
//! ```
//!
//! The server is a process of its own, so that the processor time of its threads can be told from that of the load
//! generator, which shares the cores with it. What the generator takes is no cost of serving: so throughput is compared
//! by processor time per image, and the rates that were seen are printed beside it.

mod child;
mod load;
mod machine;
mod timed;

use std::time::{Duration, Instant};

use child::{Child, Kind};
use flowmap::api::proto::v1::OutputEncoding;
use load::Load;
use machine::{Process, quantile};

/// As the shipped program has it.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Rows of every forward where throughput is compared.
const ROWS: usize = 16;
/// Images that are asked for at a time there: enough that no forward waits for more.
const IN_FLIGHT: usize = 4 * ROWS;
/// How long each measurement of a rate takes, and how long it is left to settle before.
const TURN: Duration = Duration::from_secs(4);
const WARM_UP: Duration = Duration::from_millis(500);
/// By turns, so that a disturbance of the machine meets all contestants.
const TURNS: usize = 3;
/// Streams that are open at a time.
const STREAMS: usize = 10_000;
/// Starts of the program.
const STARTS: usize = 9;

type Failure = Box<dyn std::error::Error + Send + Sync>;

fn main() -> Result<(), Failure> {
    let arguments: Vec<String> = std::env::args().skip(1).filter(|argument| argument != "--bench").collect();
    if let [child::MARK, kind, settings @ ..] = &*arguments.iter().map(String::as_str).collect::<Vec<_>>() {
        return child::run(kind.parse()?, settings);
    }
    let wanted = |name: &str| arguments.is_empty() || arguments.iter().any(|argument| argument == name);
    // The generator has one thread: more would only take the cores from the server more often.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    for section in ["share", "added", "requests", "streams", "start"].into_iter().filter(|name| wanted(name)) {
        runtime.block_on(async {
            match section {
                "share" => share().await,
                "added" => added().await,
                "requests" => requests().await,
                "streams" => streams().await,
                _ => start(),
            }
        })?;
    }
    Ok(())
}

/// a. The engine behind the server against the engine alone, at the same rows a forward.
async fn share() -> Result<(), Failure> {
    println!(
        "\nThe embedded model in forwards of {ROWS} rows, {IN_FLIGHT} images asked for; medians of {TURNS} turns\n"
    );
    println!("| images/request | images/s seen | CPU µs/image | of the bare engine % | device busy % |");
    println!("| --- | ---: | ---: | ---: | ---: |");
    let loads = [
        (OutputEncoding::Float32, 1),
        (OutputEncoding::Uint8, 1),
        (OutputEncoding::Png, 1),
        (OutputEncoding::Float32, ROWS as u32),
        (OutputEncoding::Uint8, ROWS as u32),
    ];
    let (mut bare, mut served) = (Vec::new(), vec![Vec::new(); loads.len()]);
    for _ in 0..TURNS {
        bare.push(alone()?);
        for ((encoding, count), turns) in loads.into_iter().zip(&mut served) {
            turns.push(behind(Load { encoding, count, ..Load::default() }).await?);
        }
    }
    println!("| bare engine | {:.1} | {:.1} | | {:.1} |", median(&bare, 0), median(&bare, 1), median(&bare, 2));
    for ((encoding, count), turns) in loads.iter().zip(&served) {
        let (name, [rate, cpu, busy]) = (encoding.as_str_name(), [0, 1, 2].map(|column| median(turns, column)));
        println!("| {count} as {name} | {rate:.1} | {cpu:.1} | {:.1} | {busy:.1} |", 100.0 * median(&bare, 1) / cpu);
    }
    Ok(())
}

/// Images a second, processor time per image in µs, the part of the time that the device is busy in percent.
type Turn = [f64; 3];

fn median<const N: usize>(turns: &[[f64; N]], column: usize) -> f64 {
    let mut values: Vec<f64> = turns.iter().map(|turn| turn[column]).collect();
    quantile(&mut values, 0.5)
}

fn alone() -> Result<Turn, Failure> {
    let mut child = Child::start(Kind::Bare, &[("scheduler.max_rows", ROWS.to_string())])?;
    std::thread::sleep(WARM_UP);
    let (before, begun) = (Process::of(child.id())?, Instant::now());
    child.report()?;
    std::thread::sleep(TURN);
    turn(&mut child, &before, begun)
}

async fn behind(load: Load) -> Result<Turn, Failure> {
    let rows = ("scheduler.max_rows", ROWS.to_string());
    let settings = [rows, ("scheduler.max_step_ms", "1000".into()), ("scheduler.brown_out_percent", "0".into())];
    let mut child = Child::start(Kind::Shipped, &settings)?;
    let clients = load.start(child.address(), 4, IN_FLIGHT / load.count as usize).await?;
    tokio::time::sleep(WARM_UP).await;
    let (before, begun) = (Process::of(child.id())?, Instant::now());
    child.report()?;
    tokio::time::sleep(TURN).await;
    let turn = turn(&mut child, &before, begun);
    clients.stop().await?;
    turn
}

fn turn(child: &mut Child, before: &Process, begun: Instant) -> Result<Turn, Failure> {
    let report = child.report()?;
    let (spent, elapsed) = (Process::of(child.id())?.since(before), begun.elapsed().as_secs_f64());
    let images = report.rows as f64;
    Ok([images / elapsed, 1e6 * spent.total() / images, 100.0 * report.busy / elapsed])
}

/// b. What a request takes beside its only forward, at a device that is free.
async fn added() -> Result<(), Failure> {
    println!("\nOne image in one step, one client, a warm connection: what a request takes beyond its forward\n");
    println!("| engine | encoding | request p50 µs | forward p50 µs | added p50 µs | request p99 µs |");
    println!("| --- | --- | ---: | ---: | ---: | ---: |");
    for (name, kind) in [("costs nothing", Kind::Idle), ("embedded model", Kind::Shipped)] {
        for encoding in [OutputEncoding::Float32, OutputEncoding::Uint8, OutputEncoding::Png] {
            let mut child = Child::start(kind, &[])?;
            let load = Load { encoding, ..Load::default() };
            load.one_by_one(child.address(), WARM_UP).await?;
            child.report()?;
            let mut latencies = load.one_by_one(child.address(), TURN).await?;
            let forward = child.report()?.p50_us;
            let (p50, p99) = (quantile(&mut latencies, 0.5), quantile(&mut latencies, 0.99));
            let (added, encoding) = (p50 - forward, encoding.as_str_name());
            println!("| {name} | {encoding} | {p50:.0} | {forward:.0} | {added:.0} | {p99:.0} |");
        }
    }
    Ok(())
}

/// c. Requests of an engine that costs nothing.
async fn requests() -> Result<(), Failure> {
    println!(
        "\nRequests for one image of an engine that costs nothing, over 4 connections; medians of {TURNS} turns\n"
    );
    println!("| clients | requests/s seen | server CPU µs/request | requests/s per core | context switches/request |");
    println!("| ---: | ---: | ---: | ---: | ---: |");
    for clients in [1, 16, 64, 256] {
        let mut turns = Vec::new();
        for _ in 0..TURNS {
            let mut child = Child::start(Kind::Idle, &[])?;
            let running = Load::default().start(child.address(), 4.min(clients), clients).await?;
            tokio::time::sleep(WARM_UP).await;
            let (before, begun) = (Process::of(child.id())?, Instant::now());
            child.report()?;
            tokio::time::sleep(TURN).await;
            let (report, elapsed) = (child.report()?, begun.elapsed().as_secs_f64());
            let spent = Process::of(child.id())?.since(&before);
            running.stop().await?;
            let count = report.rows as f64;
            turns.push([
                count / elapsed,
                1e6 * spent.total() / count,
                count / spent.total(),
                spent.switches() / count,
                0.0,
            ]);
        }
        let column = |column| format!("{:.1}", median(&turns, column));
        println!("| {clients} | {} | {} | {} | {} |", column(0), column(1), column(2), column(3));
    }
    Ok(())
}

/// d. Streams that are open and wait.
async fn streams() -> Result<(), Failure> {
    println!("\n{STREAMS} streams, open over 100 connections and waiting for their images; resident memory in MiB\n");
    println!("| round | before | open | KiB/stream | after |");
    println!("| ---: | ---: | ---: | ---: | ---: |");
    let settings = [
        ("server.max_requests", (STREAMS + 1).to_string()),
        ("scheduler.max_queued_images", (STREAMS + 1).to_string()),
        ("scheduler.brown_out_percent", "0".into()),
        ("limits.max_deadline_ms", "86400000".into()),
    ];
    let child = Child::start(Kind::Slow, &settings)?;
    for round in 1..=3 {
        let before = Process::of(child.id())?.resident_mib;
        let open = Load { steps: 200, ..Load::default() }.open(child.address(), 100, STREAMS).await?;
        let during = Process::of(child.id())?.resident_mib;
        drop(open);
        // The server hears of it, and gives memory back, within moments.
        tokio::time::sleep(Duration::from_secs(3)).await;
        let after = Process::of(child.id())?.resident_mib;
        let each = 1024.0 * (during - before) / STREAMS as f64;
        println!("| {round} | {before:.1} | {during:.1} | {each:.2} | {after:.1} |");
    }
    Ok(())
}

/// e. The shipped program, from its start to the moment at which it says that it is ready.
fn start() -> Result<(), Failure> {
    println!("\n`flowmap serve` as it ships, {STARTS} starts\n");
    println!("| start to ready, ms: best | median | worst | resident MiB, idle: all | of it anonymous |");
    println!("| ---: | ---: | ---: | ---: | ---: |");
    let (mut times, mut all, mut anonymous) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..STARTS {
        let begun = Instant::now();
        let child = Child::program()?;
        times.push(1e3 * begun.elapsed().as_secs_f64());
        std::thread::sleep(WARM_UP);
        let process = Process::of(child.id())?;
        all.push(process.resident_mib);
        anonymous.push(process.anonymous_mib);
    }
    let (all, anonymous) = (quantile(&mut all, 0.5), quantile(&mut anonymous, 0.5));
    let [best, median, worst] = [0.0, 0.5, 1.0].map(|q| quantile(&mut times, q));
    println!("| {best:.0} | {median:.0} | {worst:.0} | {all:.1} | {anonymous:.1} |");
    Ok(())
}
