//! Studies: several methods on one network and one data set at stated budgets, trained, measured and put side by side.
//!
//! A study is one TOML file: what all recipes share, and for each method what it learns, in how many steps, from which
//! other method.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;

use serde::Deserialize;
use toml::{Table, Value};

use crate::checkpoint::Checkpoint;
use crate::checkpoint::atomic::write_file;
use crate::error::{Error, Result};
use crate::eval::{Options, Reached, evaluate};
use crate::train::{self, Outcome, Run};

/// A study, as its file says.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Study {
    /// One sentence for people.
    pub description: String,
    /// Samples of every row of the evaluations.
    pub samples: usize,
    /// The method whose flow paired distances refer to, and which all others are compared with.
    pub teacher: String,
    /// What all recipes share.
    recipe: Table,
    /// The methods, each after the one that it learns from.
    #[serde(rename = "method")]
    pub methods: Vec<Method>,
}

/// A method of a study.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Method {
    /// Its name, also of its folder.
    pub name: String,
    /// A checkpoint that is there already; then nothing is trained.
    #[serde(default)]
    checkpoint: Option<PathBuf>,
    /// Steps of its own.
    #[serde(default)]
    pub steps: u64,
    /// The method that it distils, if any.
    pub teacher: Option<String>,
    /// The method with whose weights it begins, if not with those of its teacher.
    pub start: Option<String>,
    /// A recipe's objective, without the teacher.
    #[serde(default)]
    objective: Table,
    /// What its recipe has else than the others.
    #[serde(default)]
    recipe: Table,
}

/// Where a study's results are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Progress {
    /// Every method has its report, in the methods' order.
    Finished(Vec<PathBuf>),
    /// It was asked to stop; the same command goes on.
    Stopped,
}

impl Study {
    /// Reads and checks a study.
    ///
    /// # Errors
    /// [`Error::File`] saying what is wrong with it.
    pub fn read(path: &Path) -> Result<Self> {
        let text = std::fs::read_to_string(path).map_err(|e| Error::io(path, "read the study", e))?;
        let study: Self = toml::from_str(&text).map_err(|e| Error::file(path, e))?;
        let problems = study.problems();
        if problems.is_empty() { Ok(study) } else { Err(Error::file(path, problems.join("; "))) }
    }

    fn problems(&self) -> Vec<String> {
        let mut problems = Vec::new();
        let mut before = BTreeSet::new();
        for Method { name, teacher, start, .. } in &self.methods {
            let letters = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
            if name.is_empty() || !name.chars().all(letters) {
                problems.push(format!("method '{name}': a name is letters, digits, '-' and '_'"));
            }
            for other in teacher.iter().chain(start).filter(|other| !before.contains(*other)) {
                problems.push(format!("method '{name}': no method '{other}' comes before it"));
            }
            if !before.insert(name.clone()) {
                problems.push(format!("method '{name}': there are two of this name"));
            }
        }
        if !before.contains(&self.teacher) {
            problems.push(format!("teacher: there is no method '{}'", self.teacher));
        }
        problems
    }

    /// The recipe of a method in the study's folder `out`.
    fn recipe(&self, method: &Method, out: &Path) -> Table {
        let mut recipe = self.recipe.clone();
        recipe.extend(method.recipe.clone());
        let mut objective = method.objective.clone();
        let folder = |method: &str| Value::String(self.checkpoint(out, method).display().to_string());
        if let Some(teacher) = &method.teacher {
            objective.insert("teacher".into(), folder(teacher));
        }
        if let Some(start) = &method.start {
            recipe.insert("start".into(), folder(start));
        }
        recipe.insert("description".into(), Value::String(format!("{}: {}", self.description, method.name)));
        // TOML counts in signed numbers.
        recipe.insert("steps".into(), Value::Integer(i64::try_from(method.steps).unwrap_or(i64::MAX)));
        recipe.insert("objective".into(), Value::Table(objective));
        recipe
    }

    /// The folder of a method's checkpoint.
    fn checkpoint(&self, out: &Path, method: &str) -> PathBuf {
        let given = self.methods.iter().find(|other| other.name == method).and_then(|other| other.checkpoint.clone());
        given.unwrap_or_else(|| out.join(method).join("checkpoint"))
    }

    /// Trains and measures every method in the folder `out`, one after the other; what is finished there is left alone,
    /// what was begun goes on.
    ///
    /// # Errors
    /// Whatever training or evaluation reports.
    pub fn run(&self, out: &Path, threads: usize, stop: &AtomicBool) -> Result<Progress> {
        let (mut reports, mut reached) = (Vec::new(), None);
        for (index, method) in self.methods.iter().enumerate() {
            eprintln!("{} of {}: {}", index + 1, self.methods.len(), method.name);
            if !self.train(method, out, threads, stop)? {
                return Ok(Progress::Stopped);
            }
            reports.push(self.measure(method, out, threads, &mut reached)?);
        }
        Ok(Progress::Finished(reports))
    }

    /// Whether the method's training is finished.
    fn train(&self, method: &Method, out: &Path, threads: usize, stop: &AtomicBool) -> Result<bool> {
        if method.checkpoint.is_some() {
            return Ok(true);
        }
        let folder = out.join(&method.name);
        let path = folder.join("recipe.toml");
        let text = toml::to_string(&self.recipe(method, out)).map_err(|e| Error::file(&path, e))?;
        std::fs::create_dir_all(&folder).map_err(|e| Error::io(&folder, "create the folder", e))?;
        write_file(&path, text.as_bytes())?;
        let resume = folder.join("state.safetensors").exists();
        let outcome = train::run(&Run { recipe: &path, out: &folder, resume, threads }, stop)?;
        Ok(matches!(outcome, Outcome::Finished(_)))
    }

    /// The method's report, made where there is none of its weights and its teacher's.
    fn measure(&self, method: &Method, out: &Path, threads: usize, reached: &mut Option<Reached>) -> Result<PathBuf> {
        let (model, folder) = (self.checkpoint(out, &method.name), out.join("reports").join(&method.name));
        let report = folder.join("report.json");
        let teacher = self.checkpoint(out, &self.teacher);
        let hash = |folder: &Path| Ok::<_, Error>(Checkpoint::read(folder)?.manifest.weights.blake3);
        let hashes = [hash(&model)?, hash(&teacher)?];
        if std::fs::read_to_string(&report).is_ok_and(|text| hashes.iter().all(|hash| text.contains(hash))) {
            return Ok(report);
        }
        let teacher = teacher.display().to_string();
        // The teacher's own rows are in its own report.
        let is_teacher = method.name == self.teacher;
        let options = Options {
            model: &model.display().to_string(),
            teacher: Some(teacher.as_str()).filter(|_| !is_teacher),
            reached: reached.as_ref(),
            baselines: is_teacher,
            timed: true,
            samples: Some(self.samples),
            data: None,
            seed: 1,
            threads,
        };
        std::fs::create_dir_all(&folder).map_err(|e| Error::io(&folder, "create the folder", e))?;
        let evaluated = evaluate(&options)?;
        evaluated.write(&folder)?;
        *reached = Some(evaluated.reached);
        Ok(report)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STUDY: &str = r#"
        description = "a test"
        samples = 500
        teacher = "velocity"

        [recipe]
        seed = 3
        batch = 32
        micro_batch = 16
        ema_decay = 0.9
        precision = "F32"
        data = { kind = "checkerboard" }
        model = { kind = "mlp", width = 8, depth = 1, frequencies = 2, max_frequency = 4.0 }
        optimiser = { kind = "radam", learning_rate = 1e-2 }
        schedule = { kind = "constant", warmup = 0 }
        every = { log = 2, save = 100, sample = 100 }

        [[method]]
        name = "velocity"
        steps = 3
        objective = { kind = "flow_matching" }

        [[method]]
        name = "lmd"
        steps = 2
        teacher = "velocity"
        objective = { kind = "lmd", diagonal = 0.25, from_noise = 0.5, stop_gradient = true }
        recipe = { seed = 4 }

        [[method]]
        name = "lsd"
        steps = 1
        start = "velocity"
        objective = { kind = "lsd", diagonal = 0.5, from_noise = 0.5 }
    "#;

    #[test]
    fn every_method_is_trained_and_measured_once() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("study.toml");
        std::fs::write(&file, STUDY).unwrap();
        let study = Study::read(&file).unwrap();
        let stopped = study.run(dir.path(), 1, &AtomicBool::new(true)).unwrap();
        assert_eq!(stopped, Progress::Stopped);
        let Progress::Finished(reports) = study.run(dir.path(), 2, &AtomicBool::new(false)).unwrap() else {
            panic!("it stopped by itself")
        };
        let written = |path: &PathBuf| std::fs::metadata(path).unwrap().modified().unwrap();
        let times: Vec<_> = reports.iter().map(written).collect();
        assert_eq!(study.run(dir.path(), 2, &AtomicBool::new(false)).unwrap(), Progress::Finished(reports.clone()));
        assert_eq!(reports.iter().map(written).collect::<Vec<_>>(), times);
        let record = |name| Checkpoint::read(&study.checkpoint(dir.path(), name)).unwrap().manifest.training;
        let (lmd, lsd) = (record("lmd"), record("lsd"));
        assert_eq!((lmd.objective.as_str(), lmd.steps), ("lmd", 2));
        assert!(lmd.recipe.contains("seed = 4") && lmd.teacher.is_some());
        assert!(lsd.recipe.contains("start = ") && lsd.teacher.is_none());
    }

    #[test]
    fn the_shipped_studies_are_sound() {
        let dir = tempfile::tempdir().unwrap();
        for entry in std::fs::read_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/recipes/studies")).unwrap() {
            let study = Study::read(&entry.unwrap().path()).unwrap();
            for method in study.methods.iter().filter(|method| method.checkpoint.is_none()) {
                let path = dir.path().join("recipe.toml");
                std::fs::write(&path, toml::to_string(&study.recipe(method, dir.path())).unwrap()).unwrap();
                crate::train::Recipe::read(&path).unwrap();
            }
        }
    }

    #[test]
    fn wrong_studies_are_told_what_is_wrong() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("study.toml");
        for (from, to, expected) in [
            ("teacher = \"velocity\"\n\n", "teacher = \"none\"\n\n", "there is no method 'none'"),
            ("name = \"lmd\"", "name = \"velocity\"", "there are two of this name"),
            ("name = \"lmd\"", "name = \"a/b\"", "a name is letters"),
            ("teacher = \"velocity\"\n        objective", "teacher = \"late\"\n        objective", "no method 'late'"),
            ("samples = 500", "sample = 500", "unknown field `sample`"),
        ] {
            assert!(STUDY.contains(from), "{from}");
            std::fs::write(&file, STUDY.replacen(from, to, 1)).unwrap();
            let problem = Study::read(&file).unwrap_err().to_string();
            assert!(problem.contains(expected), "{problem}");
        }
    }
}
