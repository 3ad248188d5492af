//! Summaries as a table in Markdown.

use super::{Measures, Summary};

/// What is in a column, and how it is told.
type Column = (&'static str, fn(&Measures) -> String);

const COLUMNS: [Column; 13] = [
    ("due/s", |m| format!("{:.1}", m.offered_per_s)),
    ("done/s", |m| format!("{:.1}", m.achieved_per_s)),
    ("in time %", |m| format!("{:.1}", m.in_time_percent)),
    ("late %", |m| format!("{:.1}", m.late_percent)),
    ("refused %", |m| format!("{:.1}", m.refused_percent)),
    ("failed %", |m| format!("{:.1}", m.failed_percent)),
    ("p50 ms", |m| told(m.latency_ms.map(|q| q.p50))),
    ("p90 ms", |m| told(m.latency_ms.map(|q| q.p90))),
    ("p99 ms", |m| told(m.latency_ms.map(|q| q.p99))),
    ("max ms", |m| told(m.latency_ms.map(|q| q.max))),
    ("latest ms", |m| format!("{:.1}", m.max_lateness_ms)),
    ("steps", |m| m.mean_steps.map_or_else(none, |steps| format!("{steps:.2}"))),
    ("all steps %", |m| told(m.full_steps_percent)),
];

/// One row for each summary, named by what stands beside it; a row for each class below it where `classes`. Columns that
/// are of no load are there all the same: tables of different runs have the same columns.
pub fn table(rows: &[(String, &Summary)], classes: bool) -> String {
    let heads: Vec<&str> = COLUMNS.iter().map(|(head, _)| *head).collect();
    let mut lines = vec![format!("| load | {} |", heads.join(" | ")), format!("|---|{}", "---:|".repeat(heads.len()))];
    for (name, summary) in rows {
        lines.push(row(name, &summary.all));
        let shown = if classes { summary.classes.as_slice() } else { &[] };
        let class = shown.iter().map(|class| row(&format!("· {} steps asked", class.steps_asked), &class.measures));
        lines.extend(class);
    }
    lines.join("\n") + "\n"
}

fn row(name: &str, measures: &Measures) -> String {
    let cells: Vec<String> = COLUMNS.iter().map(|(_, tell)| tell(measures)).collect();
    format!("| {name} | {} |", cells.join(" | "))
}

fn told(value: Option<f64>) -> String {
    value.map_or_else(none, |value| format!("{value:.1}"))
}

fn none() -> String {
    "–".into()
}

#[cfg(test)]
mod tests {
    use super::super::{Ending, Outcome};
    use super::*;

    #[test]
    fn rows_have_as_many_cells_as_there_are_heads() {
        let outcomes = [Outcome::answered(0.0, 4, 0.1, None), Outcome::unanswered(0.0, 1, Ending::Refused)];
        let summary = Summary::new(&outcomes, 1.0);
        let table = table(&[("20/s".into(), &summary), ("nothing".into(), &Summary::new(&[], 1.0))], true);
        let lines: Vec<&str> = table.lines().collect();
        assert_eq!(lines.len(), 6, "{table}");
        assert!(lines.iter().all(|line| line.matches('|').count() == COLUMNS.len() + 2), "{table}");
        assert!(lines[2].starts_with("| 20/s | 2.0 | 1.0 | 50.0 |") && lines[3].starts_with("| · 1 steps asked |"));
    }
}
