//! The result of an evaluation, as JSON and as Markdown.
//!
//! `report.json`, schema version 1 (fields are added, never renamed or given another meaning):
//!
//! ```text
//! schema_version  1
//! evaluator       name and version of the program; BLAKE3 of the classifier whose features are used, or null
//! model, teacher  origin, description, objective, parameters, blake3 of the weights, guidance
//!                 teacher.relation: recorded  – the one that the model's manifest names as its teacher
//!                                   other     – another network
//!                                   itself    – no teacher was given: the model's own velocity v_{t,t}
//! protocol        samples, seed, data, noise_version, and the numbers that the data's protocol has, by name
//! reference       the teacher's end point that paired distances refer to: sampler, steps, and its own convergence,
//!                 the paired distance of the first `checked` samples to those of twice the steps
//! columns         key, title, meaning of every value; role: measure – the one that this kind of data is judged by,
//!                 plotted – less is better, told – any other
//! rows            network: model | teacher | floor | theory; sampler, steps, evaluations (null for floor and theory),
//!                 milliseconds of the evaluations (null where there is no timing), values by column key; a value
//!                 that does not apply is absent
//! timing          how milliseconds were measured, or null
//! residuals       by square of times: semigroup, lagrangian, inverse (null where times may not fall); null for a
//!                 velocity field
//! memorisation    how near samples are to training images, or null
//! ```

use std::collections::BTreeMap;
use std::fmt::Write;

use serde::{Deserialize, Serialize};

use super::chart::{self, Curve, Measured, Point};
use super::generate::Walk;
use super::nearest::Memorisation;
use super::residuals::Residuals;
use super::subject::Subject;
use super::timing::Timing;
use crate::domain::Sampler;
use crate::error::Result;

/// The only schema version that is written.
pub const SCHEMA_VERSION: u32 = 1;

/// Values of a row by column key.
pub type Values = BTreeMap<&'static str, f64>;

/// An evaluation.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Report {
    /// [`SCHEMA_VERSION`].
    pub schema_version: u32,
    /// What measured.
    pub evaluator: Evaluator,
    /// The network under evaluation.
    pub model: NetworkRecord,
    /// What it is compared with.
    pub teacher: TeacherRecord,
    /// Everything that shapes the numbers, by name.
    pub protocol: serde_json::Map<String, serde_json::Value>,
    /// What paired distances refer to.
    pub reference: Reference,
    /// What the values are.
    pub columns: Vec<Column>,
    /// The table.
    pub rows: Vec<Row>,
    /// How milliseconds were measured.
    pub timing: Option<Timing>,
    /// How far the model is from being a flow map.
    pub residuals: Option<Residuals>,
    /// How near samples are to training images.
    pub memorisation: Option<Memorisation>,
}

/// What measured.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Evaluator {
    /// Name of the program.
    pub name: &'static str,
    /// Its version.
    pub version: &'static str,
    /// BLAKE3 of the classifier's weights, where its features are used.
    pub classifier_blake3: Option<String>,
}

/// A network, by what identifies it.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct NetworkRecord {
    /// Folder or name, as given.
    pub origin: String,
    /// One sentence for people.
    pub description: String,
    /// Objective that trained it.
    pub objective: String,
    /// Number of weights.
    pub parameters: u64,
    /// BLAKE3 of its weights' file.
    pub blake3: String,
    /// Guidance scale that it was evaluated at.
    pub guidance: f32,
}

impl From<&Subject> for NetworkRecord {
    fn from(subject: &Subject) -> Self {
        let manifest = &subject.manifest;
        Self {
            origin: subject.origin.clone(),
            description: manifest.description.clone(),
            objective: manifest.training.objective.clone(),
            parameters: manifest.weights.parameters,
            blake3: manifest.weights.blake3.clone(),
            guidance: subject.guidance(),
        }
    }
}

/// The teacher and what it is to the model.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct TeacherRecord {
    /// The network.
    #[serde(flatten)]
    pub network: NetworkRecord,
    /// What it is to the model.
    pub relation: Relation,
}

/// What a teacher is to a model.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Relation {
    /// The one that the model's manifest names.
    Recorded,
    /// Another network.
    Other,
    /// The model's own velocity `v_{t,t}`.
    Itself,
}

/// The end point of the teacher's flow that paired distances refer to.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Reference {
    /// How it was computed.
    pub sampler: Sampler,
    /// In how many steps.
    pub steps: u32,
    /// Samples that were computed again in twice the steps.
    pub checked: usize,
    /// Paired distance between the two, in the unit of the paired column.
    pub convergence: f64,
}

/// What the values under one key are.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Column {
    /// Key in a row's values.
    pub key: &'static str,
    /// Heading.
    pub title: &'static str,
    /// What it is, in one sentence.
    pub meaning: &'static str,
    /// What it is for.
    pub role: Role,
    /// How the table shows it.
    #[serde(skip)]
    pub show: Show,
}

/// What a value is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// What this kind of data is judged by; less is better.
    Measure,
    /// It is drawn; less is better.
    Plotted,
    /// It is told.
    Told,
}

/// How a table shows a value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Show {
    /// So many digits after the point.
    Digits(usize),
    /// In per cent.
    Percent,
    /// Not at all: it is in the JSON.
    Hidden,
}

/// Whose samples a row measures.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Network {
    /// The model.
    Model,
    /// The teacher.
    Teacher,
    /// Nobody's: exact samples, or other data.
    Floor,
    /// No samples: the floor's expectation.
    Theory,
}

/// A row of the table.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Row {
    /// Whose samples.
    pub network: Network,
    /// How the grid was walked.
    pub sampler: Option<Sampler>,
    /// In how many uniform steps.
    pub steps: Option<u32>,
    /// Network evaluations of one sample.
    pub evaluations: Option<u32>,
    /// Time of these evaluations, where it was measured.
    pub milliseconds: Option<f64>,
    /// What was measured.
    pub values: Values,
}

impl Row {
    /// The row of a network's samples.
    pub fn walked(network: Network, walk: Walk, values: Values) -> Self {
        let Walk { sampler, steps } = walk;
        let evaluations = Some(walk.evaluations());
        Self { network, sampler: Some(sampler), steps: Some(steps), evaluations, milliseconds: None, values }
    }

    /// A row that no network made.
    pub fn bound(network: Network, values: Values) -> Self {
        Self { network, sampler: None, steps: None, evaluations: None, milliseconds: None, values }
    }

    fn label(&self) -> &'static str {
        label(self.network, self.sampler)
    }
}

/// What a row is called.
pub(super) fn label(network: Network, sampler: Option<Sampler>) -> &'static str {
    match (network, sampler) {
        (Network::Model, Some(Sampler::FlowMap)) => "flow map",
        (Network::Model, Some(Sampler::CONSISTENCY)) => "consistency",
        (Network::Model, _) => "model",
        (Network::Teacher, Some(Sampler::Euler)) => "teacher, Euler",
        (Network::Teacher, Some(Sampler::Heun)) => "teacher, Heun",
        (Network::Teacher, _) => "teacher",
        (Network::Floor, _) => "*floor*",
        (Network::Theory, _) => "*floor, theory*",
    }
}

impl Report {
    /// The table and what its numbers mean, as Markdown.
    pub fn markdown(&self) -> String {
        let shown: Vec<&Column> = self.columns.iter().filter(|column| column.show != Show::Hidden).collect();
        let mut text = format!("# {}\n\n", self.model.description);
        let time = self.timing.as_ref().map(|_| "ms");
        let head = ["", "steps", "evaluations"].into_iter().chain(time);
        line(&mut text, head.chain(shown.iter().map(|column| column.title)));
        let numbers = 2 + usize::from(time.is_some()) + shown.len();
        line(&mut text, ["---"].into_iter().chain(std::iter::repeat_n("---:", numbers)));
        for row in &self.rows {
            let number = |n: Option<u32>| n.map_or_else(String::new, |n| n.to_string());
            let values = shown.iter().map(|column| column.cell(row.values.get(column.key).copied()));
            let head = [row.label().to_owned(), number(row.steps), number(row.evaluations)];
            let time = time.map(|_| row.milliseconds.map_or_else(String::new, |ms| format!("{ms:.3}")));
            line(&mut text, head.into_iter().chain(time).chain(values));
        }
        text.push('\n');
        shown.iter().for_each(|column| item(&mut text, column.title, column.meaning));
        self.notes(&mut text);
        text.extend(self.residuals.as_ref().map(Residuals::markdown));
        text.extend(self.memorisation.as_ref().map(Memorisation::markdown));
        text
    }

    /// The same with the time of every row.
    #[must_use]
    pub fn timed(mut self, timing: Timing) -> Self {
        for row in &mut self.rows {
            let each = if row.network == Network::Model { timing.model_ms } else { timing.teacher_ms };
            row.milliseconds = row.evaluations.map(|evaluations| f64::from(evaluations) * each);
        }
        Self { timing: Some(timing), ..self }
    }

    /// The chart of quality against cost, as SVG.
    ///
    /// # Errors
    /// None of its own.
    pub fn chart(&self) -> Result<String> {
        let plotted = self.columns.iter().filter(|column| column.role != Role::Told);
        chart::draw(&plotted.map(|column| self.measured(column)).collect::<Vec<_>>())
    }

    /// A column, method by method.
    fn measured(&self, column: &Column) -> Measured {
        let mut curves: Vec<Curve> = Vec::new();
        let mut floor = None;
        for row in &self.rows {
            let Some(&value) = row.values.get(column.key) else { continue };
            if row.network == Network::Floor {
                floor = Some(value);
            }
            let Some(evaluations) = row.evaluations else { continue };
            let point = Point { evaluations, milliseconds: row.milliseconds, value };
            match curves.last_mut().filter(|curve| curve.name == row.label()) {
                Some(curve) => curve.points.push(point),
                None => curves.push(Curve { name: row.label().into(), points: vec![point] }),
            }
        }
        Measured { title: column.title.into(), curves, floor }
    }

    fn notes(&self, text: &mut String) {
        let Reference { sampler, steps, checked, convergence } = self.reference;
        let reference = format!(
            "the end point of the teacher's flow by {sampler} in {steps} steps; over the first {checked} samples it is \
             {convergence:.2e} from the one in {} steps",
            2 * steps
        );
        item(text, "Reference of paired distances", &reference);
        let relation = match self.teacher.relation {
            Relation::Recorded => "the one that the model was distilled from",
            Relation::Other => "not the one that the model names as its teacher",
            Relation::Itself => "the model's own velocity",
        };
        let hashes = format!("`{}`, {relation}", self.teacher.network.blake3);
        if let Some(timing) = &self.timing {
            item(text, "ms", &timing.meaning());
        }
        item(text, "Model, BLAKE3 of its weights", &format!("`{}`", self.model.blake3));
        item(text, "Teacher, BLAKE3 of its weights", &hashes);
        for (name, value) in &self.protocol {
            item(text, &name.replace('_', " "), &value.to_string().replace('"', ""));
        }
        let Evaluator { name, version, classifier_blake3 } = &self.evaluator;
        let classifier = classifier_blake3.as_ref().map(|hash| format!(", classifier `{hash}`")).unwrap_or_default();
        item(text, "Evaluator", &format!("{name} {version}{classifier}"));
    }
}

impl Column {
    fn cell(&self, value: Option<f64>) -> String {
        match (value, self.show) {
            (None, _) | (_, Show::Hidden) => String::new(),
            (Some(value), Show::Digits(digits)) => format!("{value:.digits$}"),
            (Some(value), Show::Percent) => format!("{:.2} %", 100.0 * value),
        }
    }
}

pub(super) fn line(text: &mut String, cells: impl Iterator<Item = impl AsRef<str>>) {
    text.push('|');
    cells.for_each(|cell| {
        let cell = cell.as_ref();
        text.push(' ');
        text.push_str(cell);
        text.push_str(if cell.is_empty() { "|" } else { " |" });
    });
    text.push('\n');
}

fn item(text: &mut String, name: &str, meaning: &str) {
    // Writing to a string does not fail.
    let _ = writeln!(text, "- **{name}**: {meaning}");
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    fn network(name: &str) -> NetworkRecord {
        NetworkRecord {
            origin: name.into(),
            description: format!("the {name}"),
            objective: "lmd".into(),
            parameters: 12,
            blake3: "ab".repeat(32),
            guidance: 1.0,
        }
    }

    pub(in crate::eval) fn report() -> Report {
        let column = |key, title, role, show| Column { key, title, meaning: "what it is", role, show };
        let values = |kl| Values::from([("kl", kl), ("outside", 0.125), ("empty", 3.0)]);
        Report {
            schema_version: SCHEMA_VERSION,
            evaluator: Evaluator { name: "flowmap", version: "1.2.3", classifier_blake3: None },
            model: network("student"),
            teacher: TeacherRecord { network: network("teacher"), relation: Relation::Recorded },
            protocol: serde_json::Map::from_iter([("samples".into(), 64_000.into())]),
            reference: Reference { sampler: Sampler::Heun, steps: 64, checked: 100, convergence: 1.5e-4 },
            columns: vec![
                column("kl", "KL", Role::Measure, Show::Digits(3)),
                column("outside", "outside", Role::Told, Show::Percent),
                column("empty", "empty", Role::Told, Show::Hidden),
            ],
            rows: vec![
                Row::walked(Network::Model, Walk::new(Sampler::FlowMap, 2), values(0.5)),
                Row::walked(Network::Teacher, Walk::new(Sampler::Heun, 2), values(0.25)),
                Row::bound(Network::Theory, Values::from([("kl", 0.0625)])),
            ],
            timing: None,
            residuals: None,
            memorisation: None,
        }
    }

    #[test]
    fn the_table_has_a_line_for_each_row_and_leaves_out_what_does_not_apply() {
        let text = report().markdown();
        for expected in [
            "| | steps | evaluations | KL | outside |\n| --- | ---: | ---: | ---: | ---: |\n",
            "| flow map | 2 | 2 | 0.500 | 12.50 % |\n| teacher, Heun | 2 | 4 | 0.250 | 12.50 % |\n",
            "| *floor, theory* | | | 0.062 | |\n",
            "- **KL**: what it is\n",
            "1.50e-4 from the one in 128 steps",
            "- **samples**: 64000\n",
        ] {
            assert!(text.contains(expected), "{expected}\n{text}");
        }
    }

    /// The JSON is read by other programs: this is its shape.
    #[test]
    fn the_json_keeps_its_shape() {
        let json = serde_json::to_value(report()).unwrap();
        let keys: Vec<&String> = json.as_object().unwrap().keys().collect();
        let expected = "columns evaluator memorisation model protocol reference residuals rows schema_version teacher \
                        timing";
        assert_eq!(keys, expected.split_whitespace().collect::<Vec<_>>());
        assert_eq!(json["teacher"]["relation"], "recorded");
        assert_eq!(json["teacher"]["origin"], "teacher");
        let row = serde_json::json!({
            "network": "model", "sampler": "flow_map", "steps": 2, "evaluations": 2,
            "milliseconds": null, "values": {"kl": 0.5, "outside": 0.125, "empty": 3.0}
        });
        assert_eq!(json["rows"][0], row);
        assert_eq!(
            json["columns"][0],
            serde_json::json!({"key": "kl", "title": "KL", "meaning": "what it is", "role": "measure"})
        );
    }

    #[test]
    fn times_have_a_column_where_they_were_measured() {
        let timing = Timing { machine: "a machine".into(), batch: 8, model_ms: 0.5, teacher_ms: 0.25 };
        let timed = report().timed(timing);
        let text = timed.markdown();
        assert!(text.contains("| flow map | 2 | 2 | 1.000 | 0.500 |"), "{text}");
        assert!(
            text.contains("| teacher, Heun | 2 | 4 | 1.000 | 0.250 |") && text.contains("on one thread of a machine")
        );
        assert!(text.contains("| *floor, theory* | | | | 0.062 | |"), "{text}");
        let count = |report: &Report| report.chart().unwrap().matches("less is better").count();
        assert_eq!((count(&report()), count(&timed)), (1, 2));
    }
}
