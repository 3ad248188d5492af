//! How fast the scheduler decides, and how fast it is simulated: in a server a decision must be short beside the forward
//! that it is about.
//!
//! ```text
//! cargo bench --bench simulate
//! ```

use std::sync::Arc;
use std::time::{Duration, Instant};

use flowmap::checkpoint::Repository;
use flowmap::domain::{Job, ModelKey, ModelRef, Priority, Sampler, Source, TimeGrid};
use flowmap::engine::{Outcome, Purpose};
use flowmap::load::Process;
use flowmap::scheduler::cost::{Cost, Line};
use flowmap::scheduler::{BrownOutLimits, Core, DeviceId, Headroom, Limits};
use flowmap::simulate::{Balancer, Kind, Length, Plan, Scenario, Slo, Source as Requests};

const COST: Line = Line { base: 4e-3, per_row: 0.25e-3 };
/// Jobs that wait while a decision is timed.
const QUEUED: [usize; 4] = [10, 100, 1000, 4000];
/// Decisions that are timed.
const TURNS: u32 = 200;
/// Clusters that are simulated: servers and devices of each.
const CLUSTERS: [(usize, usize); 4] = [(1, 1), (1, 8), (25, 4), (250, 4)];
/// Requests of each simulation.
const REQUESTS: usize = 200_000;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("| jobs queued | admit, µs | next forward, µs | complete, µs |");
    println!("| ---: | ---: | ---: | ---: |");
    for queued in QUEUED {
        let [admit, next, complete] = decisions(queued)?.map(|time| 1e6 * time.as_secs_f64() / f64::from(TURNS));
        println!("| {queued} | {admit:.1} | {next:.1} | {complete:.1} |");
    }
    println!("\n| policy | servers × devices | load | requests/s simulated, one thread |");
    println!("| --- | ---: | ---: | ---: |");
    for policy in [Kind::Flowmap, Kind::ContinuousFifo] {
        for ((servers, devices), load) in CLUSTERS.into_iter().flat_map(|cluster| [(cluster, 0.8), (cluster, 2.0)]) {
            let rate = simulated(policy, (servers, devices), load)?;
            println!("| {policy} | {servers} × {devices} | {load} | {rate:.0} |");
        }
    }
    Ok(())
}

fn limits() -> Limits {
    let brown_out = BrownOutLimits { utilisation: 0.98, window: Duration::from_millis(400), min_steps: 1 };
    Limits {
        max_rows: 32,
        max_step: Duration::from_secs(1),
        efficiency: 0.95,
        max_queued_images: 8192,
        headroom: Headroom { fraction: 0.08, most: Duration::from_millis(100) },
        brown_out: Some(brown_out),
        preview_share: 0.25,
        kept_bytes: 0,
    }
}

/// Total time of [`TURNS`] admissions, choices and completions beside `queued` jobs with a minute to spare.
fn decisions(queued: usize) -> flowmap::error::Result<[Duration; 3]> {
    let repository = Repository::embedded();
    let name = ModelRef { name: Some("fashion-mnist".into()), version: None };
    let id = repository.resolve(&name, None)?;
    let model = repository.load(&id)?.manifest.info(id);
    let (mut core, now) = (Core::new(&[model], &limits()), Instant::now());
    let device: DeviceId = core.add_device(vec![Cost::known(COST)]);
    for _ in 0..queued {
        core.admit(job(now + Duration::from_secs(60)), now)?;
    }
    let mut times = [Duration::ZERO; 3];
    for turn in 0..TURNS {
        let now = now + Duration::from_millis(12) * turn;
        let begun = Instant::now();
        let (id, _) = core.admit(job(now + Duration::from_secs(60)), now)?;
        times[0] += begun.elapsed();
        core.cancel(id);
        let begun = Instant::now();
        let Some(forward) = core.next_forward(device, now) else { break };
        times[1] += begun.elapsed();
        let rows = forward.batch.rows.iter().map(|step| match step.purpose {
            Purpose::Advance => Outcome::Running,
            Purpose::Finish { .. } => Outcome::Finished { state: Vec::new(), before: None },
            Purpose::Preview => Outcome::Preview(Vec::new()),
        });
        let outcomes = rows.collect();
        let begun = Instant::now();
        let events = core.complete(device, Ok(outcomes), forward.expected, now + forward.expected);
        times[2] += begun.elapsed();
        // As many as have ended come anew.
        for _ in events.iter().filter(|event| matches!(event.event, flowmap::domain::JobEvent::Finished(_))) {
            core.admit(job(now + Duration::from_secs(60)), now)?;
        }
    }
    Ok(times)
}

fn simulated(policy: Kind, (servers, devices): (usize, usize), load: f64) -> flowmap::error::Result<f64> {
    let scenario = Scenario {
        cost: COST,
        noise: 0.0,
        limits: limits(),
        servers,
        devices,
        balancer: Balancer::TwoChoices,
        slo: Slo::all(100),
        min_steps: 1,
        seed: 1,
    };
    let mix = "1:0.4,2:0.3,4:0.2,8:0.1".parse().map_err(|why| flowmap::error::Error::Config(vec![why]))?;
    let (process, length) = (Process::Poisson, Length::Requests(REQUESTS));
    let source = Requests::Process { process, mix, loads: vec![load], length };
    let plan = Plan { scenario, policies: vec![policy], source };
    let begun = Instant::now();
    plan.run(&|_| {})?;
    Ok(REQUESTS as f64 / begun.elapsed().as_secs_f64())
}

fn job(deadline: Instant) -> Job {
    let name: Arc<str> = "".into();
    Job {
        request_id: Arc::clone(&name),
        tenant: name,
        priority: Priority::Normal,
        model: ModelKey(0),
        sampler: Sampler::FlowMap,
        grid: TimeGrid::uniform(4),
        min_steps: 1,
        sources: vec![Source::noise(0, 0, None)],
        guidance: 1.0,
        initial: None,
        deadline: Some(deadline),
        previews: None,
    }
}
