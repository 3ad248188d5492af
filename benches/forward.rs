//! Images a second through the embedded patch transformer: this crate's network and engine threads, against the same
//! network written with candle's own layers. Both in the same run, by turns; the ratio is what counts.
//!
//! ```text
//! cargo bench --bench forward
//! ```

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use candle_core::{D, DType, Device, Result, Tensor};
use candle_nn::{LayerNorm, Linear, Module};
use flowmap::checkpoint::{Architecture, Checkpoint, Repository};
use flowmap::domain::ModelRef;
use flowmap::flow::sampler::initial;
use flowmap::flow::{Dual, FlowMap};
use flowmap::model::{self, Workers};

/// Rows of a batch.
const ROWS: [usize; 4] = [1, 4, 16, 64];
/// Images that a thread takes through the network at once.
const MICRO_BATCH: usize = 4;
/// Turns of each contestant.
const TURNS: usize = 7;
/// Length of a turn.
const TURN: Duration = Duration::from_millis(300);

fn main() -> std::result::Result<(), Box<dyn std::error::Error>> {
    let repository = Repository::embedded();
    let id = repository.resolve(&"fashion-mnist".parse::<ModelRef>()?, None)?;
    let checkpoint = repository.load(&id)?;
    let (own, plain) = (model::load(&checkpoint, &Device::Cpu)?, Plain::new(&checkpoint)?);
    let threads = std::thread::available_parallelism()?.get();
    let workers = Workers::new(threads)?;
    println!("{id}, {threads} threads; images a second, the best of {TURNS} turns\n");
    println!("| rows | candle's layers | flowmap | ratio | largest difference |");
    println!("| ---: | ---: | ---: | ---: | ---: |");
    for rows in ROWS {
        let batch = Batch::new(&checkpoint, rows)?;
        let difference =
            (plain.velocity(&batch)? - batch.whole(own.as_ref())?)?.abs()?.max_all()?.to_scalar::<f32>()?;
        let (mut theirs, mut ours) = (0.0f64, 0.0f64);
        for _ in 0..TURNS {
            theirs = theirs.max(rate(rows, || plain.velocity(&batch).map(drop))?);
            ours = ours.max(rate(rows, || batch.spread(own.as_ref(), &workers))?);
        }
        println!("| {rows} | {theirs:.0} | {ours:.0} | {:.2} | {difference:.1e} |", ours / theirs);
    }
    Ok(())
}

/// Images a second over one turn.
fn rate<E>(rows: usize, forward: impl Fn() -> std::result::Result<(), E>) -> std::result::Result<f64, E> {
    let (start, mut forwards) = (Instant::now(), 0u32);
    while start.elapsed() < TURN {
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

    /// All rows in one call.
    fn whole(&self, net: &dyn FlowMap) -> Result<Tensor> {
        let [x, s, t] = [&self.x, &self.s, &self.t].map(Dual::constant);
        Ok(net.velocity(&x, &s, &t, &self.labels)?.primal)
    }

    /// Rows spread over threads in micro-batches, as the engine does it.
    fn spread(&self, net: &dyn FlowMap, workers: &Workers) -> flowmap::error::Result<()> {
        let rows = self.x.dim(0)?;
        let size = rows.div_ceil(workers.count()).clamp(1, MICRO_BATCH);
        workers.map((0..rows).step_by(size), |from| {
            let part = |tensor: &Tensor| tensor.narrow(0, from, size.min(rows - from));
            let part = Self { x: part(&self.x)?, s: part(&self.s)?, t: part(&self.t)?, labels: part(&self.labels)? };
            part.whole(net).map(drop).map_err(Into::into)
        })?;
        Ok(())
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
