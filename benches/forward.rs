//! Images a second through a network: this crate's compiled plan against the same network written with candle's own
//! layers, by turns in the same run; the ratio is what counts.
//!
//! ```text
//! cargo bench --bench forward
//! cargo bench --bench forward -- --interactive models/fashion-mnist/1
//! ```
//!
//! With `--interactive` it reads lines `rows threads seconds` and answers each with `{"images_per_second": …}`, so that
//! another program can let it take turns with what it is compared to (`benches/peers`).

use std::collections::BTreeMap;
use std::error::Error;
use std::io::BufRead;
use std::path::Path;
use std::time::{Duration, Instant};

use candle_core::{D, DType, Device, Result, Tensor};
use candle_nn::{LayerNorm, Linear, Module};
use flowmap::checkpoint::{Architecture, Checkpoint, Repository};
use flowmap::domain::ModelRef;
use flowmap::flow::sampler::initial;
use flowmap::model::{self, Executable, Query, Team};

/// Rows of a batch.
const ROWS: [usize; 4] = [1, 4, 16, 64];
/// Turns of each contestant.
const TURNS: usize = 7;
/// Length of a turn.
const TURN: Duration = Duration::from_millis(300);

fn main() -> std::result::Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).filter(|argument| argument != "--bench").collect();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        [] => table(),
        ["--interactive", place] => interactive(&Checkpoint::read(Path::new(place))?),
        _ => Err("usage: forward [--interactive CHECKPOINT]".into()),
    }
}

/// The embedded patch transformer against candle's layers.
fn table() -> std::result::Result<(), Box<dyn Error>> {
    let repository = Repository::embedded();
    let id = repository.resolve(&"fashion-mnist".parse::<ModelRef>()?, None)?;
    let checkpoint = repository.load(&id)?;
    let (own, plain) = (model::load(&checkpoint, &Device::Cpu)?, Plain::new(&checkpoint)?);
    let team = Team::new(std::thread::available_parallelism()?.get())?;
    println!("{id}, {} threads; images a second, the best of {TURNS} turns\n", team.threads());
    println!("| rows | candle's layers | flowmap | ratio | largest difference |");
    println!("| ---: | ---: | ---: | ---: | ---: |");
    for rows in ROWS {
        let batch = Batch::new(&checkpoint, rows)?;
        let answer = Tensor::from_vec(batch.answer(&own, &team)?, batch.x.shape(), &Device::Cpu)?;
        let difference = (plain.velocity(&batch)? - answer)?.abs()?.max_all()?.to_scalar::<f32>()?;
        let (mut theirs, mut ours) = (0.0f64, 0.0f64);
        for _ in 0..TURNS {
            theirs = theirs.max(rate(rows, TURN, || plain.velocity(&batch).map(drop))?);
            ours = ours.max(own_rate(&batch, &own, &team, TURN)?);
        }
        println!("| {rows} | {theirs:.0} | {ours:.0} | {:.2} | {difference:.1e} |", ours / theirs);
    }
    Ok(())
}

/// Takes turns as it is told to.
fn interactive(checkpoint: &Checkpoint) -> std::result::Result<(), Box<dyn Error>> {
    let net = model::load(checkpoint, &Device::Cpu)?;
    let mut teams = BTreeMap::new();
    for line in std::io::stdin().lock().lines() {
        let line = line?;
        let [rows, threads, seconds] = line.split_whitespace().collect::<Vec<_>>()[..] else {
            return Err(format!("not \"rows threads seconds\": {line:?}").into());
        };
        let (rows, threads) = (rows.parse()?, threads.parse::<usize>()?);
        let team = match teams.entry(threads) {
            std::collections::btree_map::Entry::Occupied(team) => team.into_mut(),
            std::collections::btree_map::Entry::Vacant(place) => place.insert(Team::new(threads)?),
        };
        let batch = Batch::new(checkpoint, rows)?;
        let rate = own_rate(&batch, &net, team, Duration::from_secs_f64(seconds.parse()?))?;
        println!("{{\"images_per_second\": {rate:.2}}}");
    }
    Ok(())
}

/// Images a second of the compiled network over one turn.
fn own_rate(batch: &Batch, net: &Executable, team: &Team, turn: Duration) -> Result<f64> {
    let states = batch.states()?;
    let queries = batch.queries(&states)?;
    let mut out = vec![0.0; states.len()];
    rate(queries.len(), turn, || net.answer(&queries, batch.x.dims(), (&Device::Cpu, team), &mut out))
}

/// Images a second over one turn.
fn rate<E>(
    rows: usize,
    turn: Duration,
    mut forward: impl FnMut() -> std::result::Result<(), E>,
) -> std::result::Result<f64, E> {
    let (start, mut forwards) = (Instant::now(), 0u32);
    while start.elapsed() < turn {
        forward()?;
        forwards += 1;
    }
    Ok(f64::from(forwards) * rows as f64 / start.elapsed().as_secs_f64())
}

/// Rows at different places of different grids.
struct Batch {
    x: Tensor,
    s: Tensor,
    t: Tensor,
    labels: Tensor,
}

impl Batch {
    fn new(checkpoint: &Checkpoint, rows: usize) -> Result<Self> {
        let last = u32::try_from(rows).map_err(candle_core::Error::wrap)?;
        let place = |row: u32| row as f32 / last as f32;
        let column = |values: Vec<f32>| Tensor::from_vec(values, rows, &Device::Cpu);
        Ok(Self {
            x: initial(1, 0..last, &checkpoint.manifest.data.shape, 1.0, &Device::Cpu)?,
            s: column((0..last).map(|row| 0.5 * place(row)).collect())?,
            t: column((0..last).map(|row| 0.5 + 0.5 * place(row)).collect())?,
            labels: Tensor::from_vec((0..last).map(|row| row % 10).collect::<Vec<_>>(), rows, &Device::Cpu)?,
        })
    }

    /// All states, one after the other.
    fn states(&self) -> Result<Vec<f32>> {
        self.x.flatten_all()?.to_vec1()
    }

    /// What the network is asked, of `states`.
    fn queries<'a>(&self, states: &'a [f32]) -> Result<Vec<Query<'a>>> {
        let (s, t, labels) = (self.s.to_vec1::<f32>()?, self.t.to_vec1::<f32>()?, self.labels.to_vec1::<u32>()?);
        let rows = states.chunks_exact(states.len() / labels.len()).zip(s.into_iter().zip(t)).zip(labels);
        Ok(rows.map(|((x, (s, t)), label)| Query { x, s, t, label }).collect())
    }

    /// The compiled network's answer.
    fn answer(&self, net: &Executable, team: &Team) -> Result<Vec<f32>> {
        let states = self.states()?;
        let mut out = vec![0.0; states.len()];
        net.answer(&self.queries(&states)?, self.x.dims(), (&Device::Cpu, team), &mut out)?;
        Ok(out)
    }
}

/// The patch transformer as candle's users write it.
struct Plain {
    tensors: BTreeMap<String, Tensor>,
    frequencies: Tensor,
    positions: Tensor,
    norm: LayerNorm,
    side: usize,
    patch: usize,
    heads: usize,
    depth: usize,
}

impl Plain {
    fn new(checkpoint: &Checkpoint) -> Result<Self> {
        let &Architecture::Dit { patch, width, depth, heads, frequencies, max_frequency, .. } =
            &checkpoint.manifest.architecture
        else {
            candle_core::bail!("this benchmark is of the patch transformer")
        };
        // candle's Linear wants weights as (outputs, inputs).
        let turned = |(name, tensor): (&String, &Tensor)| {
            let linear = name.ends_with(".weight");
            Ok((name.clone(), if linear { tensor.t()?.contiguous()? } else { tensor.clone() }))
        };
        let side = checkpoint.manifest.data.shape[1] / patch;
        let omega = (0..frequencies).map(|k| max_frequency.powf(k as f64 / (frequencies - 1) as f64) as f32);
        let cpu = Device::Cpu;
        let (scale, shift) = (Tensor::ones(width, DType::F32, &cpu)?, Tensor::zeros(width, DType::F32, &cpu)?);
        Ok(Self {
            tensors: checkpoint.tensors.iter().map(turned).collect::<Result<_>>()?,
            frequencies: Tensor::from_vec(omega.collect::<Vec<_>>(), (1, frequencies), &cpu)?,
            positions: model::embedding::positions(side, side, width, DType::F32, &cpu)?.unsqueeze(0)?,
            norm: LayerNorm::new(scale, shift, 1e-6),
            side,
            patch,
            heads,
            depth,
        })
    }

    fn linear(&self, name: &str, x: &Tensor) -> Result<Tensor> {
        let tensor = |part: &str| self.tensors[&format!("{name}.{part}")].clone();
        Linear::new(tensor("weight"), Some(tensor("bias"))).forward(x)
    }

    fn velocity(&self, batch: &Batch) -> Result<Tensor> {
        let (side, patch, rows) = (self.side, self.patch, batch.x.dim(0)?);
        let condition = self.condition(batch)?;
        let x = batch.x.reshape(&[rows, 1, side, patch, side, patch][..])?.permute(vec![0, 2, 4, 1, 3, 5])?;
        let x = self.linear("input", &x.reshape((rows, side * side, patch * patch))?)?;
        let mut h = x.broadcast_add(&self.positions)?;
        for block in 0..self.depth {
            h = self.block(&format!("blocks.{block}"), &h, &condition)?;
        }
        let ends = self.linear("final_modulation", &condition)?.chunk(2, 1)?;
        let h = self.linear("output", &modulate(&self.norm.forward(&h)?, &ends[1], &ends[0])?)?;
        let h = h.reshape(&[rows, side, side, 1, patch, patch][..])?.permute(vec![0, 3, 1, 4, 2, 5])?;
        h.reshape((rows, 1, side * patch, side * patch))
    }

    fn condition(&self, batch: &Batch) -> Result<Tensor> {
        let embed = |time: &Tensor| {
            let angle = time.unsqueeze(1)?.matmul(&self.frequencies)?;
            Tensor::cat(&[angle.cos()?, angle.sin()?], 1)
        };
        let times = Tensor::cat(&[embed(&batch.s)?, embed(&(&batch.t - &batch.s)?)?], 1)?;
        let times = self.linear("times.output", &self.linear("times.hidden", &times)?.silu()?)?;
        (times + self.tensors["classes"].index_select(&batch.labels, 0)?)?.silu()
    }

    fn block(&self, name: &str, x: &Tensor, condition: &Tensor) -> Result<Tensor> {
        let parts = self.linear(&format!("{name}.modulation"), condition)?.chunk(6, 1)?;
        let h = modulate(&self.norm.forward(x)?, &parts[1], &parts[0])?;
        let h = self.attention(&self.linear(&format!("{name}.qkv"), &h)?)?;
        let h = self.linear(&format!("{name}.projection"), &h)?;
        let x = (x + h.broadcast_mul(&parts[2].unsqueeze(1)?)?)?;
        let h = modulate(&self.norm.forward(&x)?, &parts[4], &parts[3])?;
        let h = self.linear(&format!("{name}.contract"), &self.linear(&format!("{name}.expand"), &h)?.silu()?)?;
        x + h.broadcast_mul(&parts[5].unsqueeze(1)?)?
    }

    fn attention(&self, qkv: &Tensor) -> Result<Tensor> {
        let (rows, tokens, packed) = qkv.dims3()?;
        let width = packed / 3 / self.heads;
        let qkv = qkv.reshape((rows, tokens, 3, self.heads, width))?.permute((2, 0, 3, 1, 4))?.contiguous()?;
        let scores = (qkv.get(0)?.matmul(&qkv.get(1)?.t()?)? * (width as f64).powf(-0.5))?;
        let mixed = candle_nn::ops::softmax_last_dim(&scores)?.matmul(&qkv.get(2)?)?;
        mixed.transpose(1, 2)?.flatten_from(D::Minus2)
    }
}

fn modulate(x: &Tensor, scale: &Tensor, shift: &Tensor) -> Result<Tensor> {
    x.broadcast_mul(&(scale.unsqueeze(1)? + 1.0)?)?.broadcast_add(&shift.unsqueeze(1)?)
}
