//! What was measured: a table, numbers for programs, charts.

use serde::Serialize;
use serde_json::json;

use super::plan::{Plan, Point};
use crate::load::summary::Quantiles;
use crate::load::{Measures, Summary, markdown};
use crate::picture::{Axis, Chart, Series};

/// What became of a load.
#[derive(Debug, Clone)]
pub(super) struct Measured {
    pub(super) point: Point,
    /// Steps a second, where loads are multiples of them.
    pub(super) capacity: Option<f64>,
    pub(super) summary: Summary,
    /// How long after they were due requests were sent, in milliseconds.
    pub(super) sent_late_ms: Option<Quantiles>,
    /// Whether every answer was waited for.
    pub(super) is_whole: bool,
}

/// A row for each load and class, and what is to be known beside it.
pub(super) fn markdown(plan: &Plan, all: &[Measured]) -> String {
    let rows: Vec<(String, &Summary)> = all.iter().map(|m| (m.point.to_string(), &m.summary)).collect();
    let mut lines = vec![told(plan, all), String::new(), markdown::table(&rows, true)];
    for Measured { point, summary, sent_late_ms, is_whole, .. } in all {
        if let Some(first) = &summary.all.first_preview_ms {
            lines.push(format!("{point}: first preview after {:.1} ms (p50), {:.1} ms (p99).", first.p50, first.p99));
        }
        if let Some(late) = sent_late_ms {
            lines
                .push(format!("{point}: sent {:.2} ms (p50), {:.2} ms (p99) after they were due.", late.p50, late.p99));
        }
        if !is_whole {
            lines.push(format!("{point}: some answers never came; their requests count as failed."));
        }
    }
    lines.join("\n") + "\n"
}

/// What was asked, in a sentence or two.
fn told(plan: &Plan, all: &[Measured]) -> String {
    let deadline = plan.deadline_ms.map_or_else(|| "no deadline".into(), |ms| format!("a deadline of {ms} ms"));
    let floor = plan.min_steps.map_or_else(|| "all steps".into(), |steps| format!("at least {steps} steps"));
    let capacity = match all.iter().find_map(|measured| measured.capacity) {
        Some(steps) => {
            format!(" Load 1 is {steps:.0} steps or {:.1} requests a second.", plan.requests_at(Some(steps)))
        }
        None => String::new(),
    };
    let (process, mix, count, seconds) = (plan.process, &plan.mix, plan.count, plan.seconds);
    format!(
        "Requests of {count} image(s) in steps {mix}, with {deadline} and {floor}; open loops are {process}; {seconds} s \
         each after {} s of the same.{capacity} Latencies count from when a request was due to its last image.",
        plan.warmup_s
    )
}

/// Everything, as JSON.
pub(super) fn json(plan: &Plan, all: &[Measured]) -> String {
    #[derive(Serialize)]
    struct Row<'a> {
        load: String,
        capacity_steps_per_s: Option<f64>,
        sent_late_ms: Option<Quantiles>,
        is_whole: bool,
        #[serde(flatten)]
        summary: &'a Summary,
    }
    let row = |m: &'_ Measured| {
        let row = Row {
            load: m.point.to_string(),
            capacity_steps_per_s: m.capacity,
            sent_late_ms: m.sent_late_ms,
            is_whole: m.is_whole,
            summary: &m.summary,
        };
        json!(row)
    };
    let value = json!({
        "request": {
            "mix": plan.mix.to_string(),
            "count": plan.count,
            "deadline_ms": plan.deadline_ms,
            "min_steps": plan.min_steps,
            "previews": plan.previews,
            "guidance": plan.guidance,
            "priority": plan.priority.as_str_name(),
            "model": plan.model,
        },
        "arrivals": plan.process.to_string(),
        "seconds": plan.seconds,
        "warmup_seconds": plan.warmup_s,
        "seed": plan.seed,
        "results": all.iter().map(row).collect::<Vec<_>>(),
    });
    format!("{value:#}\n")
}

/// A quantity that is charted over the load; none where it is of nothing.
type Quantity = fn(&Measures) -> Option<f64>;

/// Latency, service and steps over the rate at which requests were due.
pub(super) fn charts(all: &[Measured]) -> Vec<Chart> {
    let latencies: [(&str, Quantity); 2] =
        [("p50", |m| m.latency_ms.map(|q| q.p50)), ("p99", |m| m.latency_ms.map(|q| q.p99))];
    let ends: [(&str, Quantity); 3] = [
        ("in time", |m| Some(m.in_time_percent)),
        ("refused", |m| Some(m.refused_percent)),
        ("late", |m| Some(m.late_percent)),
    ];
    let throughput: [(&str, Quantity); 2] =
        [("images/s", |m| Some(m.images_per_s)), ("steps/s", |m| Some(m.steps_per_s))];
    let steps: [(&str, Quantity); 1] = [("steps", |m| m.mean_steps)];
    vec![
        chart(all, "Latency of what was served", Axis::log("ms"), &latencies),
        chart(all, "What became of the requests", Axis::linear("% of those due"), &ends),
        chart(all, "Throughput", Axis::linear("a second"), &throughput),
        chart(all, "Steps of an image", Axis::linear("mean steps"), &steps),
    ]
}

fn chart(all: &[Measured], title: &str, y: Axis, quantities: &[(&str, Quantity)]) -> Chart {
    let point = |m: &Measured, quantity: Quantity| Some((m.summary.all.offered_per_s, quantity(&m.summary.all)?));
    let series = quantities.iter().map(|(name, quantity)| {
        let mut points: Vec<(f64, f64)> = all.iter().filter_map(|m| point(m, *quantity)).collect();
        points.sort_by(|a, b| a.0.total_cmp(&b.0));
        Series { name: (*name).into(), points }
    });
    Chart { title: title.into(), x: Axis::linear("requests due a second"), y, series: series.collect() }
}
