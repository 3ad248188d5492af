//! Several reports side by side: one table of methods and steps, one chart of quality against cost.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde_json::{Map, Value};

use super::chart::{self, Curve, Measured, Point};
use super::report::{Network, Role, SCHEMA_VERSION, label, line};
use crate::checkpoint::atomic::write_file;
use crate::domain::Sampler;
use crate::error::{Error, Result};

/// Largest report in bytes.
const MAX_BYTES: u64 = 16 << 20;

/// A report as it is read back: what a comparison needs of it.
#[derive(Debug, Clone, Deserialize)]
struct Read {
    schema_version: u32,
    evaluator: Evaluator,
    teacher: Teacher,
    protocol: Map<String, Value>,
    columns: Vec<Column>,
    rows: Vec<Row>,
}

#[derive(Debug, Clone, Deserialize)]
struct Evaluator {
    version: String,
    classifier_blake3: Option<String>,
}

#[derive(Debug, Clone, Deserialize)]
struct Teacher {
    blake3: String,
}

#[derive(Debug, Clone, Deserialize)]
struct Column {
    key: String,
    title: String,
    /// Absent in reports of older programs.
    role: Option<Role>,
}

#[derive(Debug, Clone, PartialEq, Deserialize)]
struct Row {
    network: Network,
    sampler: Option<Sampler>,
    steps: Option<u32>,
    evaluations: Option<u32>,
    milliseconds: Option<f64>,
    values: BTreeMap<String, f64>,
}

/// Reports that have a measure in common.
#[derive(Debug, Clone)]
pub struct Comparison {
    reports: Vec<(String, Read)>,
    /// Keys and titles of the measures that all have.
    measures: Vec<(String, String)>,
}

impl Comparison {
    /// Reads `report.json` files, or the folders that hold them.
    ///
    /// # Errors
    /// [`Error::File`] where one is not a report of this version; [`Error::Config`] where they have no measure in
    /// common.
    pub fn read(paths: &[PathBuf]) -> Result<Self> {
        let reports: Vec<Read> = paths.iter().map(|path| read(path)).collect::<Result<_>>()?;
        Self::of(names(paths).into_iter().zip(reports).collect())
    }

    fn of(reports: Vec<(String, Read)>) -> Result<Self> {
        let drawn = |read: &Read| -> Vec<(String, String)> {
            let drawn = read.columns.iter().filter(|column| column.role.is_some_and(|role| role != Role::Told));
            drawn.map(|column| (column.key.clone(), column.title.clone())).collect()
        };
        let mut measures = reports.first().map(|(_, read)| drawn(read)).unwrap_or_default();
        measures.retain(|(key, _)| reports.iter().all(|(_, read)| drawn(read).iter().any(|(other, _)| other == key)));
        if measures.is_empty() {
            let problem = "the reports have no measure in common: are they of the same kind of data, and of a program \
                           that says which values are measures? Evaluate again with this one";
            return Err(Error::Config(vec![problem.into()]));
        }
        Ok(Self { reports, measures })
    }

    /// Writes `comparison.md` and `comparison.svg` into the folder `out`.
    ///
    /// # Errors
    /// [`Error::File`] where the operating system refuses.
    pub fn write(&self, out: &Path) -> Result<()> {
        write_file(&out.join("comparison.svg"), self.chart()?.as_bytes())?;
        let page = self.markdown() + "\n![Quality against evaluations and time](comparison.svg)\n";
        write_file(&out.join("comparison.md"), page.as_bytes())
    }

    /// The table, as Markdown.
    pub fn markdown(&self) -> String {
        let mut text = String::from("# Comparison\n\n");
        let titles = self.measures.iter().map(|(_, title)| title.as_str());
        line(&mut text, ["", "steps", "evaluations", "ms"].into_iter().chain(titles));
        line(&mut text, ["---"].into_iter().chain(std::iter::repeat_n("---:", 3 + self.measures.len())));
        for (method, row) in self.rows() {
            let number = |n: Option<u32>| n.map_or_else(String::new, |n| n.to_string());
            let time = row.milliseconds.map_or_else(String::new, |ms| format!("{ms:.3}"));
            let value = |(key, _): &(String, String)| row.values.get(key).map_or_else(String::new, |v| told(*v));
            let head = [method, number(row.steps), number(row.evaluations), time];
            line(&mut text, head.into_iter().chain(self.measures.iter().map(value)));
        }
        for difference in self.differences() {
            text.push_str(&format!(
                "\n**Not alike**: {difference}. Values are comparable only where this does not matter.\n"
            ));
        }
        text
    }

    /// The chart, as SVG.
    ///
    /// # Errors
    /// [`Error::Compute`] for more than a picture can hold.
    pub fn chart(&self) -> Result<String> {
        chart::draw(&self.measures.iter().map(|(key, title)| self.measured(key, title)).collect::<Vec<_>>())
    }

    fn measured(&self, key: &str, title: &str) -> Measured {
        let mut curves: Vec<Curve> = Vec::new();
        for (name, row) in self.rows() {
            let (Some(&value), Some(evaluations)) = (row.values.get(key), row.evaluations) else { continue };
            let point = Point { evaluations, milliseconds: row.milliseconds, value };
            match curves.last_mut().filter(|curve| curve.name == name) {
                Some(curve) => curve.points.push(point),
                None => curves.push(Curve { name, points: vec![point] }),
            }
        }
        let floors = self.reports.iter().flat_map(|(_, read)| &read.rows).filter(|row| row.network == Network::Floor);
        let floor = floors.filter_map(|row| row.values.get(key)).copied().reduce(f64::min);
        Measured { title: title.into(), curves, floor }
    }

    /// The rows of all reports with the names of their methods; a teacher of several models is there once, and so is a
    /// floor that others have as well.
    fn rows(&self) -> impl Iterator<Item = (String, &Row)> {
        let (mut teachers, mut floors) = (BTreeSet::new(), Vec::new());
        self.reports.iter().flat_map(move |(name, read)| {
            let first = teachers.insert(read.teacher.blake3.as_str());
            let bounds: Vec<&Row> = read.rows.iter().filter(|row| row.evaluations.is_none()).collect();
            let alike = floors.contains(&bounds);
            floors.push(bounds);
            let shown = move |row: &&Row| match row.network {
                Network::Model => true,
                Network::Teacher => first,
                Network::Floor | Network::Theory => !alike,
            };
            read.rows.iter().filter(shown).map(move |row| (format!("{name}: {}", label(row.network, row.sampler)), row))
        })
    }

    /// What the reports do not have alike though it shapes their values.
    fn differences(&self) -> Vec<String> {
        let setting = |key: &'static str| {
            move |read: &Read| read.protocol.get(key).map_or_else(|| "none".into(), ToString::to_string)
        };
        let classifier = |read: &Read| read.evaluator.classifier_blake3.clone().unwrap_or_else(|| "none".into());
        [
            self.difference("data", setting("data")),
            self.difference("samples", setting("samples")),
            self.difference("seed", setting("seed")),
            self.difference("classifier", classifier),
            self.difference("version of the program", |read| read.evaluator.version.clone()),
        ]
        .into_iter()
        .flatten()
        .collect()
    }

    fn difference(&self, what: &str, of: impl Fn(&Read) -> String) -> Option<String> {
        let all: Vec<String> = self.reports.iter().map(|(_, read)| of(read)).collect();
        let told = self.reports.iter().zip(&all).map(|((name, _), value)| format!("{name} {value}"));
        all.windows(2)
            .any(|pair| pair[0] != pair[1])
            .then(|| format!("{what} ({})", told.collect::<Vec<_>>().join(", ")))
    }
}

/// A value in four digits or so, whatever its size.
fn told(value: f64) -> String {
    if value.abs() < 1.0 { format!("{value:.4}") } else { format!("{value:.3}") }
}

fn read(path: &Path) -> Result<Read> {
    let path = if path.is_dir() { path.join("report.json") } else { path.to_owned() };
    let size = std::fs::metadata(&path).map_err(|e| Error::io(&path, "read it", e))?.len();
    if size > MAX_BYTES {
        return Err(Error::file(&path, format!("is larger than the {MAX_BYTES} bytes that are read")));
    }
    let bytes = std::fs::read(&path).map_err(|e| Error::io(&path, "read it", e))?;
    let read: Read =
        serde_json::from_slice(&bytes).map_err(|e| Error::file(&path, format!("is no report of flowmap eval: {e}")))?;
    if read.schema_version != SCHEMA_VERSION {
        let problem = format!("schema version {} is not the one read here, {SCHEMA_VERSION}", read.schema_version);
        return Err(Error::file(&path, problem));
    }
    Ok(read)
}

/// A name for each: its folder's, or the whole path where that is not enough.
fn names(paths: &[PathBuf]) -> Vec<String> {
    let folder = |path: &PathBuf| {
        let folder = if path.is_dir() { Some(path.as_path()) } else { path.parent() };
        folder.and_then(Path::file_name).map(|name| name.to_string_lossy().into_owned())
    };
    let short: Vec<Option<String>> = paths.iter().map(folder).collect();
    let unique = |name: &Option<String>| name.is_some() && short.iter().filter(|other| *other == name).count() == 1;
    let name = |(path, name): (&PathBuf, &Option<String>)| match name {
        Some(text) if unique(name) => text.clone(),
        _ => path.display().to_string(),
    };
    paths.iter().zip(&short).map(name).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::eval::report::Report;
    use crate::eval::report::tests::report;
    use crate::eval::timing::Timing;

    fn written(root: &Path, name: &str, report: &Report) -> PathBuf {
        let path = root.join(name).join("report.json");
        write_file(&path, &serde_json::to_vec(report).unwrap()).unwrap();
        path
    }

    #[test]
    fn methods_stand_side_by_side_and_a_common_teacher_once() {
        let root = tempfile::tempdir().unwrap();
        let timing = Timing { machine: "a machine".into(), batch: 8, model_ms: 0.5, teacher_ms: 0.25 };
        let first = written(root.path(), "lmd", &report().timed(timing));
        let mut other = report();
        other.rows[0].values.insert("kl", 0.125);
        written(root.path(), "psd", &other);
        let compared = Comparison::read(&[first, root.path().join("psd")]).unwrap();
        let text = compared.markdown();
        for expected in [
            "| | steps | evaluations | ms | KL |\n",
            "| lmd: flow map | 2 | 2 | 1.000 | 0.5000 |\n",
            "| psd: flow map | 2 | 2 | | 0.1250 |\n",
        ] {
            assert!(text.contains(expected), "{expected}\n{text}");
        }
        assert_eq!((text.matches("teacher, Heun").count(), text.contains("Not alike")), (1, false));
        compared.write(&root.path().join("out")).unwrap();
        assert!(root.path().join("out/comparison.svg").exists());
        assert!(std::fs::read_to_string(root.path().join("out/comparison.md")).unwrap().contains("(comparison.svg)"));
    }

    #[test]
    fn what_is_not_alike_is_told_and_what_has_nothing_in_common_refused() {
        let root = tempfile::tempdir().unwrap();
        let mut fewer = report();
        fewer.protocol.insert("samples".into(), 10.into());
        let mut foreign = report();
        foreign.columns[0].key = "frechet";
        let paths = [("a", &report()), ("b", &fewer), ("c", &foreign)].map(|(name, r)| written(root.path(), name, r));
        let text = Comparison::read(&paths[..2]).unwrap().markdown();
        assert!(text.contains("**Not alike**: samples (a 64000, b 10)"), "{text}");
        assert!(matches!(Comparison::read(&paths), Err(Error::Config(_))));
        std::fs::write(&paths[0], "{}").unwrap();
        assert!(Comparison::read(&paths[..2]).unwrap_err().to_string().contains("is no report"));
    }

    #[test]
    fn names_are_as_short_as_they_can_be() {
        let paths = ["x/a/report.json", "y/b/report.json", "z/b/report.json"].map(PathBuf::from);
        assert_eq!(names(&paths), ["a", "y/b/report.json", "z/b/report.json"]);
    }
}
