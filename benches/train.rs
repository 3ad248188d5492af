//! Samples a second in training: flow matching and Lagrangian map distillation of the embedded patch transformer, whose
//! weights both begin with, as its own recipe trains it.
//!
//! ```text
//! cargo bench --bench train
//! cargo bench --bench train -- --interactive models/fashion-mnist/1
//! ```
//!
//! With `--interactive` it reads lines `objective threads seconds`, the objective `flow_matching` (`fm`) or `lmd`, and
//! answers each with `{"samples_per_second": …}`, so that another program can let it take turns with what it is
//! compared to (`benches/peers`).

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::error::Error;
use std::io::BufRead;
use std::path::Path;
use std::time::{Duration, Instant};

use flowmap::checkpoint::{Checkpoint, Repository};
use flowmap::data::Source;
use flowmap::domain::ModelRef;
use flowmap::model::Workers;
use flowmap::train::{Recipe, Trial};

/// As the binary has it: networks in training allocate and free megabytes per operation.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

type Outcome<T> = Result<T, Box<dyn Error>>;

/// Turns of each contestant.
const TURNS: usize = 5;
/// Length of a turn; the step under way is finished.
const TURN: Duration = Duration::from_secs(2);

fn main() -> Outcome<()> {
    let arguments: Vec<String> = std::env::args().skip(1).filter(|argument| argument != "--bench").collect();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        [] => table(),
        ["--interactive", place] => interactive(&Checkpoint::read(Path::new(place))?),
        _ => Err("usage: train [--interactive CHECKPOINT]".into()),
    }
}

fn table() -> Outcome<()> {
    let repository = Repository::embedded();
    let id = repository.resolve(&"fashion-mnist".parse::<ModelRef>()?, None)?;
    let mut bench = Bench::new(&repository.load(&id)?)?;
    println!("{id}; samples a second in training, the median of {TURNS} turns\n");
    println!("| threads | flow matching | LMD | time of a step, LMD / flow matching |");
    println!("| ---: | ---: | ---: | ---: |");
    for threads in [1, 2] {
        let mut rates = [Vec::new(), Vec::new()];
        for _ in 0..TURNS {
            rates[0].push(bench.rate("flow_matching", threads, TURN)?);
            rates[1].push(bench.rate("lmd", threads, TURN)?);
        }
        rates.iter_mut().for_each(|rates| rates.sort_unstable_by(f64::total_cmp));
        let [flow_matching, lmd] = rates.map(|rates| rates[TURNS / 2]);
        println!("| {threads} | {flow_matching:.0} | {lmd:.0} | {:.2} |", flow_matching / lmd);
    }
    Ok(())
}

/// Takes turns as it is told to.
fn interactive(checkpoint: &Checkpoint) -> Outcome<()> {
    let mut bench = Bench::new(checkpoint)?;
    for line in std::io::stdin().lock().lines() {
        let line = line?;
        let [objective, threads, seconds] = line.split_whitespace().collect::<Vec<_>>()[..] else {
            return Err(format!("not \"objective threads seconds\": {line:?}").into());
        };
        let rate = bench.rate(objective, threads.parse()?, Duration::from_secs_f64(seconds.parse()?))?;
        println!("{{\"samples_per_second\": {rate:.2}}}");
    }
    Ok(())
}

/// What stays between turns.
struct Bench {
    flow_matching: Trial,
    lmd: Trial,
    workers: BTreeMap<usize, Workers>,
}

impl Bench {
    /// Trials of the recipe that made `checkpoint`, with either objective.
    fn new(checkpoint: &Checkpoint) -> Outcome<Self> {
        let trial = |objective: &str| -> Outcome<Trial> {
            let mut recipe: toml::Table = toml::from_str(&checkpoint.manifest.training.recipe)?;
            recipe.insert("objective".into(), toml::from_str::<toml::Table>(objective)?.into());
            let recipe = recipe.try_into::<Recipe>()?;
            Ok(Trial::new(recipe, Box::new(Noise::like(checkpoint)), checkpoint)?)
        };
        let lmd = "kind = 'lmd'\nteacher = ''\ndiagonal = 0.125\nfrom_noise = 0.5\nstop_gradient = true";
        Ok(Self { flow_matching: trial("kind = 'flow_matching'")?, lmd: trial(lmd)?, workers: BTreeMap::new() })
    }

    /// Samples a second over one turn, after a step that does not count.
    fn rate(&mut self, objective: &str, threads: usize, turn: Duration) -> Outcome<f64> {
        let trial = match objective {
            "flow_matching" | "fm" => &mut self.flow_matching,
            "lmd" => &mut self.lmd,
            _ => return Err(format!("no objective {objective:?}: flow_matching or lmd").into()),
        };
        let workers = match self.workers.entry(threads) {
            Entry::Occupied(workers) => workers.into_mut(),
            Entry::Vacant(place) => place.insert(Workers::new(threads)?),
        };
        trial.step(workers)?;
        let (start, mut steps) = (Instant::now(), 0u32);
        while start.elapsed() < turn {
            trial.step(workers)?;
            steps += 1;
        }
        Ok(f64::from(steps) * trial.batch() as f64 / start.elapsed().as_secs_f64())
    }
}

/// Random values in the shape of a checkpoint's data.
struct Noise {
    shape: Vec<usize>,
    classes: Vec<String>,
    range: [f32; 2],
}

impl Noise {
    fn like(checkpoint: &Checkpoint) -> Self {
        let data = &checkpoint.manifest.data;
        Self { shape: data.shape.clone(), classes: data.classes.clone(), range: data.range }
    }
}

impl Source for Noise {
    fn shape(&self) -> &[usize] {
        &self.shape
    }

    fn classes(&self) -> &[String] {
        &self.classes
    }

    fn range(&self) -> [f32; 2] {
        self.range
    }

    fn draw(&self, random: &mut dyn FnMut() -> f64, out: &mut [f32]) -> u32 {
        let [low, high] = self.range.map(f64::from);
        out.fill_with(|| (low + (high - low) * random()) as f32);
        (random() * self.classes.len() as f64) as u32
    }
}
