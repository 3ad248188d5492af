//! The evaluation itself: makes the samples of every row and has them measured.

use std::path::Path;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};
use serde_json::{Map, Value, json};

use super::generate::{Beginnings, Generator, Walk};
use super::protocol::{Protocol, Setup, choose};
use super::report::{
    Evaluator, Network, NetworkRecord, Reference, Relation, Report, Row, SCHEMA_VERSION, TeacherRecord,
};
use super::residuals::{Residuals, Subjected};
use super::subject::Subject;
use super::timing::Timing;
use crate::checkpoint::atomic::write_file;
use crate::data::{DataSource, Split};
use crate::domain::{Sampler, TimeGrid, TimePairs};
use crate::error::{Error, Result};
use crate::flow::noise;
use crate::model::Workers;

/// Steps of the flow map.
const FLOW_MAP_STEPS: [u32; 5] = [1, 2, 4, 8, 16];
/// Euler steps of the teacher.
const EULER_STEPS: [u32; 7] = [1, 2, 4, 8, 16, 32, 64];
/// Heun steps of the teacher.
const HEUN_STEPS: [u32; 6] = [1, 2, 4, 8, 16, 32];
/// Those of the teacher's rows that the picture shows.
const PICTURED_HEUN_STEPS: [u32; 3] = [1, 4, 32];

/// What to evaluate.
#[derive(Debug, Clone, Copy)]
pub struct Options<'a> {
    /// Folder or embedded name of the model.
    pub model: &'a str,
    /// The same of its teacher; without one the model's own velocity `v_{t,t}` takes its place.
    pub teacher: Option<&'a str>,
    /// Samples of every row; by default 64 000 points or 1000 images.
    pub samples: Option<usize>,
    /// Folder of the data set's files, if not where training had them.
    pub data: Option<&'a Path>,
    /// Seed of the noise and of exact samples.
    pub seed: u64,
    /// Threads.
    pub threads: usize,
    /// The teacher's end points, where an evaluation with the same teacher, samples and seed has found them.
    pub reached: Option<&'a Reached>,
    /// Whether the teacher is walked beside the model, by Euler's and Heun's methods.
    pub baselines: bool,
    /// Whether evaluations are timed, which no two runs do alike.
    pub timed: bool,
}

/// Where the teacher's flow leads.
#[derive(Debug, Clone)]
pub struct Reached {
    /// How it was followed.
    reference: Reference,
    /// The end points.
    samples: Vec<f32>,
}

/// A report and its pictures.
#[derive(Debug, Clone)]
pub struct Evaluated {
    /// What paired distances refer to.
    pub reached: Reached,
    /// The report.
    pub report: Report,
    /// Samples as a PNG file.
    pub picture: Vec<u8>,
    /// Samples beside their nearest training images as a PNG file.
    pub pairs: Option<Vec<u8>>,
}

impl Evaluated {
    /// Writes `report.json`, `report.md` and its pictures into the folder `out`.
    ///
    /// # Errors
    /// [`Error::File`] where the operating system refuses.
    pub fn write(&self, out: &Path) -> Result<()> {
        let path = out.join("report.json");
        let json = serde_json::to_string_pretty(&self.report).map_err(|e| Error::file(&path, e))? + "\n";
        write_file(&path, json.as_bytes())?;
        let mut page = self.report.markdown();
        let mut picture = |name: &str, title: &str, bytes: &[u8]| {
            page.push_str(&format!("\n![{title}]({name})\n"));
            write_file(&out.join(name), bytes)
        };
        picture("quality.svg", "Quality against evaluations and time", self.report.chart()?.as_bytes())?;
        picture("samples.png", "Samples", &self.picture)?;
        if let Some(pairs) = &self.pairs {
            picture("nearest.png", "The samples nearest to training images, above those", pairs)?;
        }
        write_file(&out.join("report.md"), page.as_bytes())
    }
}

/// Evaluates a model against its teacher.
///
/// # Errors
/// [`Error::NotFound`] and [`Error::File`] for a model, a teacher or a data set that cannot be read;
/// [`Error::Config`] where the two networks are not comparable; [`Error::Compute`] where samples are not finite.
pub fn evaluate(options: &Options<'_>) -> Result<Evaluated> {
    let model = Subject::load(options.model)?;
    let teacher = options.teacher.map(|place| Subject::load(place)?.teaching(&model)).transpose()?;
    let data = model.data(options.data)?;
    let workers = Workers::new(options.threads)?;
    let beginnings = model.beginnings(options.seed);
    let setup = Setup::new(&model.manifest, &data, &beginnings, options.samples, &workers);
    let (protocol, samples) = choose(&setup)?;
    let table = Table {
        model: &model,
        teacher: teacher.as_ref().unwrap_or(&model),
        baselines: options.baselines,
        reached: options.reached,
        protocol: protocol.as_ref(),
        samples,
    };
    let measured = table.measure(&beginnings, &workers)?;
    let copies = protocol.copies(&measured.last)?;
    let relation = relation(&model, teacher.as_ref());
    let report = Report {
        residuals: residuals(options, &data, &beginnings, &workers)?,
        memorisation: copies.as_ref().map(|copies| copies.memorisation.clone()),
        ..table.report(relation, settings(&data, &beginnings, &table), &measured)
    };
    let report = match options.timed {
        true => report.timed(Timing::measure(table.model, table.teacher, &beginnings, &workers)?),
        false => report,
    };
    let picture = protocol.picture(&measured.shown)?;
    Ok(Evaluated { reached: measured.reached, report, picture, pairs: copies.map(|copies| copies.picture) })
}

/// The residuals of a flow map; others have no jumps, or not enough of them, that could be inconsistent.
fn residuals(
    options: &Options<'_>,
    data: &DataSource,
    beginnings: &Beginnings,
    workers: &Workers,
) -> Result<Option<Residuals>> {
    let net = Subject::load_eager(options.model)?;
    let pairs = net.manifest.time_pairs;
    if !matches!(pairs, TimePairs::Triangle | TimePairs::Square) {
        return Ok(None);
    }
    let data = data.open(Split::Test)?;
    let subjected = Subjected { net: &net, pairs, data: data.as_ref(), beginnings };
    let bar = bar(subjected.all_points(), "points of residuals");
    let found = subjected.residuals(workers, &bar)?;
    bar.finish_and_clear();
    Ok(Some(found))
}

/// Everything that decides the rows.
struct Table<'a> {
    model: &'a Subject,
    teacher: &'a Subject,
    baselines: bool,
    reached: Option<&'a Reached>,
    protocol: &'a dyn Protocol,
    samples: usize,
}

/// What came out.
struct Measured {
    reached: Reached,
    rows: Vec<Row>,
    /// Captions and samples of the picture.
    shown: Vec<(String, Vec<f32>)>,
    /// Those of the flow map's finest walk; of a velocity field the teacher's end points.
    last: Vec<f32>,
}

impl Table<'_> {
    fn measure(&self, beginnings: &Beginnings, workers: &Workers) -> Result<Measured> {
        let bar = bar(self.evaluations(), "evaluations");
        let generator = Generator { beginnings, workers, bar: bar.clone() };
        let reached = match self.reached {
            Some(known) => known.clone(),
            None => self.follow(&generator)?,
        };
        let Reached { reference, samples: end } = &reached;
        let walk = Walk::new(reference.sampler, reference.steps);
        let (mut rows, mut shown, mut last) = (Vec::new(), Vec::new(), None);
        for (network, next) in self.walks() {
            let (subject, name) = match network {
                Network::Model => (self.model, ""),
                _ => (self.teacher, "teacher, "),
            };
            let is_reference = network == Network::Teacher && next == walk;
            let made = if is_reference { None } else { Some(generator.samples(subject, next, self.samples)?) };
            let samples = made.as_deref().unwrap_or(end);
            rows.push(Row::walked(network, next, self.protocol.measure(samples, end)?));
            if network == Network::Model || (next.sampler == Sampler::Heun && PICTURED_HEUN_STEPS.contains(&next.steps))
            {
                let caption = format!("{name}{}", caption(next));
                shown.push((caption, samples[..self.protocol.pictured() * beginnings.elements()].to_vec()));
            }
            if network == Network::Model {
                last = made;
            }
        }
        bar.finish_and_clear();
        rows.extend(self.protocol.floors()?);
        let last = last.unwrap_or_else(|| end.clone());
        Ok(Measured { reached, rows, shown, last })
    }

    /// The teacher's end points.
    fn follow(&self, generator: &Generator<'_>) -> Result<Reached> {
        let (steps, checked) = self.checked();
        let walk = Walk::new(Sampler::Heun, steps);
        let samples = generator.samples(self.teacher, walk, self.samples)?;
        let finer = generator.samples(self.teacher, Walk { steps: 2 * steps, ..walk }, checked)?;
        let convergence = self.protocol.paired(&samples[..finer.len()], &finer);
        Ok(Reached { reference: Reference { sampler: walk.sampler, steps, checked, convergence }, samples })
    }

    /// Steps of the reference, and how many samples are computed again.
    fn checked(&self) -> (u32, usize) {
        let (steps, checked) = self.protocol.reference();
        (steps, checked.min(self.samples))
    }

    /// The walks of the table, in its order.
    fn walks(&self) -> impl Iterator<Item = (Network, Walk)> {
        let pairs = self.model.manifest.time_pairs;
        let own = pairs.default_sampler();
        let legal = move |steps: u32| own.jumps() && pairs.check(own, &TimeGrid::uniform(steps)).is_ok();
        let baselines = self.baselines;
        let walks = |network, sampler, steps: &'static [u32]| {
            steps.iter().map(move |&steps| (network, Walk::new(sampler, steps)))
        };
        let teacher = walks(Network::Teacher, Sampler::Euler, &EULER_STEPS).chain(walks(
            Network::Teacher,
            Sampler::Heun,
            &HEUN_STEPS,
        ));
        walks(Network::Model, own, &FLOW_MAP_STEPS)
            .filter(move |(_, walk)| legal(walk.steps))
            .chain(teacher.filter(move |_| baselines))
    }

    /// Network evaluations of all samples.
    fn evaluations(&self) -> u64 {
        let (steps, checked) = self.checked();
        let reference = Walk::new(Sampler::Heun, steps);
        let others = self.walks().filter(|(network, walk)| *network == Network::Model || *walk != reference);
        let others = self.samples as u64 * others.map(|(_, walk)| u64::from(walk.evaluations())).sum::<u64>();
        let followed = u64::from(reference.evaluations()) * (self.samples + 2 * checked) as u64;
        others + if self.reached.is_some() { 0 } else { followed }
    }

    fn report(&self, relation: Relation, settings: Map<String, Value>, measured: &Measured) -> Report {
        Report {
            schema_version: SCHEMA_VERSION,
            evaluator: Evaluator {
                name: env!("CARGO_PKG_NAME"),
                version: env!("CARGO_PKG_VERSION"),
                classifier_blake3: self.protocol.classifier(),
            },
            model: NetworkRecord::from(self.model),
            teacher: TeacherRecord { network: NetworkRecord::from(self.teacher), relation },
            protocol: settings,
            reference: measured.reached.reference,
            columns: self.protocol.columns(),
            rows: measured.rows.clone(),
            timing: None,
            residuals: None,
            memorisation: None,
        }
    }
}

fn relation(model: &Subject, teacher: Option<&Subject>) -> Relation {
    match teacher {
        None => Relation::Itself,
        Some(teacher) => {
            let recorded = model.manifest.training.teacher.as_deref();
            let is_recorded = recorded == Some(teacher.manifest.weights.blake3.as_str());
            if is_recorded { Relation::Recorded } else { Relation::Other }
        }
    }
}

fn settings(data: &DataSource, beginnings: &Beginnings, table: &Table<'_>) -> Map<String, Value> {
    let mut settings = table.protocol.settings();
    settings.insert("data".into(), json!(data.name()));
    settings.insert("samples".into(), json!(table.samples));
    settings.insert("seed".into(), json!(beginnings.seed));
    settings.insert("noise_version".into(), json!(noise::VERSION));
    settings
}

fn caption(walk: Walk) -> String {
    format!("{} {}", walk.steps, if walk.steps == 1 { "step" } else { "steps" })
}

/// A bar of so many evaluations, or of whatever it counts.
pub(super) fn bar(length: u64, what: &str) -> ProgressBar {
    let bar = ProgressBar::new(length);
    let template = format!("{{bar:32}} {{percent}} %  {{per_sec}} {what}  elapsed {{elapsed}}  left {{eta}}");
    if let Ok(style) = ProgressStyle::with_template(&template) {
        bar.set_style(style);
    }
    bar.enable_steady_tick(Duration::from_millis(500));
    bar
}
