//! What a request gave and cost, and how that is told.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use serde_json::{Value, json};

use super::order::{Order, Times};
use crate::api::proto::micros;
use crate::domain::{Receipt, StepsReason};

/// The images of one request.
#[derive(Debug, Clone)]
pub(super) struct Row {
    /// The time grid.
    pub(super) times: Times,
    /// The request's id; empty where there was no request.
    pub(super) request_id: String,
    /// The sampler that was used.
    pub(super) sampler: String,
    /// The guidance scale that was used.
    pub(super) guidance: f32,
    /// The samples by their index, row-major in the model's shape and value range.
    pub(super) images: Vec<Vec<f32>>,
    /// Network evaluations of all images (a guided one counts once).
    pub(super) evaluations: u64,
    /// What it takes to make each image again; nothing without a server.
    pub(super) receipts: Vec<Receipt>,
    /// How far each image has come; nothing without a server.
    pub(super) steps: Vec<Steps>,
    /// What was measured.
    pub(super) timing: Timing,
}

/// The steps of an image.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Steps {
    pub(super) used: u32,
    pub(super) asked: u32,
    /// Why it has these.
    pub(super) reason: StepsReason,
}

/// How long a request took.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Timing {
    /// From asking to the first image, as seen from here.
    pub(super) first: Duration,
    /// From asking to the last image, as seen from here.
    pub(super) total: Duration,
    /// From acceptance to the first evaluation, as the server measured it; nothing without one.
    pub(super) queued: Duration,
    /// From the first evaluation to the last, as the server or this process measured it.
    pub(super) computed: Duration,
}

impl Row {
    /// The row's label in the picture.
    pub(super) fn caption(&self) -> String {
        let evaluations = self.evaluations_per_image();
        let noun = if evaluations == 1 { "evaluation" } else { "evaluations" };
        format!("{}, {evaluations} {noun}, {}", self.times.caption(), milliseconds(self.timing.total))
    }

    fn evaluations_per_image(&self) -> u64 {
        self.evaluations / self.images.len().max(1) as u64
    }

    /// The images that have fewer steps than were asked for, a line for each kind.
    fn shortened(&self) -> String {
        let mut kinds: BTreeMap<Steps, usize> = BTreeMap::new();
        for steps in self.steps.iter().filter(|steps| steps.used < steps.asked) {
            *kinds.entry(*steps).or_default() += 1;
        }
        let line = |(Steps { used, asked, reason }, images): (&Steps, &usize)| {
            let noun = if *images == 1 { "image has" } else { "images have" };
            format!("{}: {images} {noun} {used} of {asked} steps ({reason})\n", self.times.caption())
        };
        kinds.iter().map(line).collect()
    }

    fn json(&self) -> Value {
        let steps = self
            .steps
            .iter()
            .map(|Steps { used, asked, reason }| json!({ "used": used, "asked": asked, "reason": reason.to_string() }));
        json!({
            "image_steps": steps.collect::<Vec<_>>(),
            "request_id": self.request_id,
            "steps": self.times.grid().steps(),
            "time_grid": self.times.grid().times(),
            "sampler": self.sampler,
            "guidance": self.guidance,
            "images": self.images.len(),
            "evaluations": self.evaluations,
            "evaluations_per_image": self.evaluations_per_image(),
            "first_image_us": micros(self.timing.first),
            "total_us": micros(self.timing.total),
            "queue_us": micros(self.timing.queued),
            "compute_us": micros(self.timing.computed),
        })
    }
}

/// One line about what all rows share: the picture's title.
pub(super) fn title(order: &Order, rows: &[Row]) -> String {
    let class = match order.labels.first() {
        Some(&Some(label)) if order.turn == 1 => format!(", {}", order.class(Some(label))),
        _ => String::new(),
    };
    let how = rows.first().map(|row| format!(", {}, guidance {}", row.sampler, row.guidance)).unwrap_or_default();
    format!("{}{class}{how}, seed {}", order.model.id, order.seed)
}

/// The rows as a table for people.
pub(super) fn table(order: &Order, rows: &[Row]) -> String {
    let head = ["", "evaluations", "first image", "total", "queue", "compute"].map(String::from);
    let lines = rows.iter().map(|row| {
        let Timing { first, total, queued, computed } = row.timing;
        let [first, total, queued, computed] = [first, total, queued, computed].map(milliseconds);
        [row.times.caption(), row.evaluations_per_image().to_string(), first, total, queued, computed]
    });
    let lines: Vec<_> = std::iter::once(head).chain(lines).collect();
    let width = |column: usize| lines.iter().map(|line| line[column].chars().count()).max().unwrap_or(0);
    let widths: [usize; 6] = std::array::from_fn(width);
    let mut text = format!("{}, {} images a row\n", title(order, rows), order.labels.len());
    for line in &lines {
        let cells: Vec<String> = line.iter().zip(widths).map(|(cell, width)| format!("{cell:>width$}")).collect();
        text += cells.join("  ").trim_end();
        text.push('\n');
    }
    text + &rows.iter().map(Row::shortened).collect::<String>()
}

/// The rows for programs.
pub(super) fn json(order: &Order, rows: &[Row], files: &[PathBuf]) -> Value {
    json!({
        "model": order.model.id.to_string(),
        "content_hash": order.model.content_hash,
        "seed": order.seed,
        "labels": order.labels,
        "shape": order.model.shape,
        "requests": rows.iter().map(Row::json).collect::<Vec<_>>(),
        "files": files,
    })
}

/// A duration in the unit of latencies, with two or more significant digits.
fn milliseconds(duration: Duration) -> String {
    let ms = duration.as_secs_f64() * 1e3;
    match ms {
        ms if ms < 0.995 => format!("{ms:.2} ms"),
        ms if ms < 9.95 => format!("{ms:.1} ms"),
        ms => format!("{ms:.0} ms"),
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::super::order::tests::order;
    use super::*;

    /// A row of `count` images of 1 × 2 × 2, image i filled with i.
    pub(in super::super) fn row(times: Times, count: u16) -> Row {
        let timing = Timing {
            first: Duration::from_millis(20),
            total: Duration::from_micros(38_400),
            queued: Duration::from_micros(420),
            computed: Duration::from_micros(9_510),
        };
        Row {
            times,
            request_id: "r".into(),
            sampler: "heun".into(),
            guidance: 1.5,
            images: (0..count).map(|i| vec![f32::from(i); 4]).collect(),
            evaluations: 8 * u64::from(count),
            receipts: vec![],
            steps: vec![],
            timing,
        }
    }

    #[test]
    fn captions_say_what_a_row_cost() {
        assert_eq!(row(Times::steps(0.0, 4), 3).caption(), "4 steps, 8 evaluations, 38 ms");
        let one = Row { evaluations: 1, ..row(Times::steps(0.0, 1), 1) };
        assert_eq!(one.caption(), "1 step, 1 evaluation, 38 ms");
    }

    #[test]
    fn the_title_names_a_class_that_all_images_have() {
        let rows = [row(Times::steps(0.0, 4), 2)];
        assert_eq!(title(&order(&[Some(1); 2], 1), &rows), "tiny@1, Bag, heun, guidance 1.5, seed 7");
        assert_eq!(title(&order(&[Some(1), Some(0)], 2), &rows), "tiny@1, heun, guidance 1.5, seed 7");
        assert_eq!(title(&order(&[None], 1), &rows), "tiny@1, heun, guidance 1.5, seed 7");
    }

    #[test]
    fn the_table_is_aligned() {
        let table = table(&order(&[Some(1); 2], 1), &[row(Times::steps(0.0, 4), 2), row(Times::steps(0.0, 16), 2)]);
        let lines: Vec<&str> = table.lines().skip(1).collect();
        assert_eq!(lines[1], " 4 steps            8        20 ms  38 ms  0.42 ms   9.5 ms");
        assert!(lines.iter().all(|line| line.len() == lines[0].len()), "{table}");
    }

    #[test]
    fn images_with_fewer_steps_than_asked_are_told() {
        let steps = |used, reason| Steps { used, asked: 8, reason };
        let cut = [steps(2, StepsReason::Deadline), steps(8, StepsReason::Asked), steps(2, StepsReason::Deadline)];
        let row =
            Row { steps: [&cut[..], &[steps(4, StepsReason::Overload)]].concat(), ..row(Times::steps(0.0, 8), 4) };
        let told = table(&order(&[Some(1); 4], 1), &[row]);
        let want = "8 steps: 2 images have 2 of 8 steps (deadline)\n8 steps: 1 image has 4 of 8 steps (overload)\n";
        assert!(told.ends_with(want), "{told}");
    }

    #[test]
    fn the_summary_names_units() {
        let value = json(&order(&[Some(1), None], 2), &[row(Times::steps(0.0, 2), 2)], &["a.png".into()]);
        assert_eq!((&value["labels"][1], &value["files"][0]), (&Value::Null, &json!("a.png")));
        let request = &value["requests"][0];
        assert_eq!((&request["steps"], &request["total_us"]), (&json!(2), &json!(38_400)));
        assert_eq!((&request["evaluations"], &request["evaluations_per_image"]), (&json!(16), &json!(8)));
    }
}
