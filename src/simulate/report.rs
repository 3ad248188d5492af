//! What a simulation has shown: a table, numbers for programs, and charts.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::json;

use super::policy::Kind;
use super::sweep::{Plan, Run, Source};
use crate::load::Measures;
use crate::load::summary::Class;
use crate::picture::{Axis, Chart, Series};

/// The scenario in words, then a table: a row for each load and policy, the share served in time by class at its end.
pub fn markdown(plan: &Plan, runs: &[Run]) -> String {
    let classes: BTreeSet<u32> = runs.iter().flat_map(|s| &s.summary.classes).map(|c| c.steps_asked).collect();
    let heads = [
        "load",
        "requests/s",
        "policy",
        "in time %",
        "late %",
        "refused %",
        "p50 ms",
        "p99 ms",
        "steps",
        "all steps %",
    ];
    let heads = heads.map(String::from).into_iter().chain(classes.iter().map(|steps| format!("in time % of {steps}")));
    let heads: Vec<String> = heads.collect();
    let mut lines = vec![told(plan), String::new()];
    lines.push(format!("| {} |", heads.join(" | ")));
    lines.push(format!("|---:|---:|---|{}", "---:|".repeat(heads.len() - 3)));
    for run in runs {
        lines.push(format!("| {} |", cells(run, &classes).join(" | ")));
    }
    lines.join("\n") + "\n"
}

fn cells(run: &Run, classes: &BTreeSet<u32>) -> Vec<String> {
    let measures = &run.summary.all;
    let percent = |value: f64| format!("{value:.1}");
    let maybe = |value: Option<f64>, decimals: usize| value.map_or_else(|| "–".into(), |v| format!("{v:.decimals$}"));
    let latency = measures.latency_ms;
    let mut cells = vec![
        format!("{:.2}×", run.load),
        format!("{:.0}", measures.offered_per_s),
        run.policy.to_string(),
        percent(measures.in_time_percent),
        percent(measures.late_percent),
        percent(measures.refused_percent),
        maybe(latency.map(|q| q.p50), 1),
        maybe(latency.map(|q| q.p99), 1),
        maybe(measures.mean_steps, 2),
        maybe(measures.full_steps_percent, 1),
    ];
    let by_steps: BTreeMap<u32, &Class> = run.summary.classes.iter().map(|c| (c.steps_asked, c)).collect();
    let class = |steps: &u32| maybe(by_steps.get(steps).map(|class| class.measures.in_time_percent), 1);
    cells.extend(classes.iter().map(class));
    cells
}

/// What was simulated, in a paragraph.
fn told(plan: &Plan) -> String {
    let s = &plan.scenario;
    let (base, per_row) = (1e3 * s.cost.base, 1e3 * s.cost.per_row);
    let requests = match &plan.source {
        Source::Trace(trace) => format!("{} recorded requests", trace.arrivals().len()),
        Source::Process { process, mix, .. } => format!("requests come {process}, for steps {mix}"),
    };
    let cluster = match (s.servers, s.devices) {
        (1, 1) => "One device".into(),
        (1, devices) => format!("One server of {devices} devices"),
        (servers, devices) => format!("{servers} servers of {devices} devices behind {}", s.balancer),
    };
    let noise = if s.noise == 0.0 { String::new() } else { format!(" times a log-normal factor of σ = {}", s.noise) };
    let give = match &s.limits.brown_out {
        Some(limits) => format!("brown-out from {:.0} % on", 100.0 * limits.utilisation),
        None => "no brown-out".into(),
    };
    format!(
        "{cluster}; a forward of n ≤ {} rows takes {base} + {per_row}·n ms{noise}; {requests}, within {} ms, \
         with at least {} steps. Load 1 is what full forwards can do with all steps. flowmap keeps {:.0} % of the time \
         free, forwards reach {:.0} % of the throughput of full ones, {give}. Seed {}.",
        s.limits.max_rows,
        s.slo,
        s.min_steps,
        100.0 * s.limits.headroom.fraction,
        100.0 * s.limits.efficiency,
        s.seed,
    )
}

/// Everything that was measured, as JSON.
pub fn json(plan: &Plan, runs: &[Run]) -> String {
    let s = &plan.scenario;
    let (process, mix) = match &plan.source {
        Source::Trace(_) => (None, None),
        Source::Process { process, mix, .. } => (Some(process.to_string()), Some(mix.to_string())),
    };
    let value = json!({
        "scenario": {
            "base_ms": 1e3 * s.cost.base,
            "per_row_ms": 1e3 * s.cost.per_row,
            "noise": s.noise,
            "max_rows": s.limits.max_rows,
            "efficiency_percent": 100.0 * s.limits.efficiency,
            "headroom_percent": 100.0 * s.limits.headroom.fraction,
            "brown_out_percent": s.limits.brown_out.map_or(0.0, |limits| 100.0 * limits.utilisation),
            "servers": s.servers,
            "devices": s.devices,
            "balancer": s.balancer,
            "slo": s.slo,
            "min_steps": s.min_steps,
            "seed": s.seed,
            "arrivals": process,
            "mix": mix,
        },
        "results": runs,
    });
    format!("{value:#}\n")
}

/// A quantity that is charted over the load; none where it is of nothing.
type Quantity = fn(&Measures) -> Option<f64>;

/// Charts over the load, a line for each policy, and what their files are called.
pub fn charts(runs: &[Run]) -> Vec<(&'static str, Chart)> {
    let served: Quantity = |m| Some(m.in_time_percent);
    let p99: Quantity = |m| m.latency_ms.map(|q| q.p99);
    let steps: Quantity = |m| m.mean_steps;
    vec![
        ("served", chart(runs, "Served in time", Axis::linear("requests served in time, %"), served)),
        ("p99", chart(runs, "Latency of what was served", Axis::log("99th percentile, ms"), p99)),
        ("steps", chart(runs, "Steps of an image", Axis::linear("mean steps"), steps)),
    ]
}

fn chart(runs: &[Run], title: &str, y: Axis, quantity: Quantity) -> Chart {
    let policies: BTreeSet<Kind> = runs.iter().map(|run| run.policy).collect();
    let series = policies.into_iter().map(|policy| {
        let own = runs.iter().filter(|run| run.policy == policy);
        let mut points: Vec<(f64, f64)> = own.filter_map(|s| Some((s.load, quantity(&s.summary.all)?))).collect();
        points.sort_by(|a, b| a.0.total_cmp(&b.0));
        Series { name: policy.to_string(), points }
    });
    let x = Axis::linear("load, as a multiple of what the devices can do with all steps");
    Chart { title: title.into(), x, y, series: series.collect() }
}
