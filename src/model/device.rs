//! A network on a GPU: how a batch gets there, is evaluated, and comes back.
//!
//! A batch goes up in one copy, `[states | s | t | classes]`, and its velocities come back in one. In between nothing is
//! copied from the host: candle uploads the shape of every strided operand for every kernel, but keeps what it has
//! uploaded while its cache for graph capture is on, which therefore is on for every forward.

#[cfg(feature = "cuda")]
mod graph;

use std::sync::atomic::{AtomicU64, Ordering};

use candle_core::{DType, Device, Result, Tensor, bail};

use super::AnyNetwork;
use super::direct::Direct;
use super::ops::{Arguments, Eager, Network};
use super::plan::Query;
use crate::flow::{Dual, FlowMap};

/// Most rows of one graph; larger batches are several.
const MOST_CAPTURED: usize = 64;

/// In which numbers a network computes on a GPU.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Precision {
    /// 32 bits: agrees with the CPU up to rounding.
    #[default]
    F32,
    /// Weights and activations of 16 bits, states and times of 32.
    Bf16,
}

impl Precision {
    /// Of weights.
    pub(super) fn dtype(self) -> DType {
        match self {
            Self::F32 => DType::F32,
            Self::Bf16 => DType::BF16,
        }
    }
}

/// How networks are evaluated on a GPU.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Options {
    /// In which numbers.
    pub precision: Precision,
    /// Whether a forward is captured as a CUDA graph and replayed.
    pub graphs: bool,
    /// Rows of every forward, with idle ones where a batch has fewer; 0 for as many as a batch has.
    pub fixed_rows: usize,
}

impl Options {
    /// Rows that are evaluated for `rows` queries, which are at most [`most`](Self::most).
    fn padded(self, rows: usize) -> usize {
        match self {
            Self { fixed_rows: 1.., .. } => self.fixed_rows,
            Self { graphs: true, .. } => rows.next_power_of_two(),
            _ => rows,
        }
    }

    /// Most queries of one forward.
    fn most(self) -> usize {
        match self {
            Self { fixed_rows: 1.., .. } => self.fixed_rows,
            Self { graphs: true, .. } => MOST_CAPTURED,
            _ => usize::MAX,
        }
    }
}

/// A network whose weights are on a device.
pub struct OnDevice {
    net: AnyNetwork,
    ops: Direct,
    /// Of a state.
    shape: Vec<usize>,
    /// Classes, the null class among them.
    labels: usize,
    options: Options,
    /// Tells its graphs from those of other networks.
    #[cfg_attr(not(feature = "cuda"), expect(dead_code, reason = "only graphs ask for it"))]
    id: u64,
}

impl OnDevice {
    /// `net`, whose weights are on a device in the precision of `options`, for states of `shape` and classes below
    /// `labels`.
    pub(super) fn new(net: AnyNetwork, shape: Vec<usize>, labels: usize, options: Options) -> Self {
        static NETWORKS: AtomicU64 = AtomicU64::new(0);
        let id = NETWORKS.fetch_add(1, Ordering::Relaxed);
        Self { net, ops: Direct::default(), shape, labels, options, id }
    }

    /// Answers `queries` with `v_{s,t}(x)`, one after the other, on `device`, where the weights are.
    ///
    /// # Errors
    /// Queries that do not fit the network, or whatever the device reports.
    pub fn answer(&self, queries: &[Query<'_>], device: &Device, out: &mut [f32]) -> Result<()> {
        let elements = self.elements();
        self.check(queries, out)?;
        let most = self.options.most().min(queries.len().max(self.options.fixed_rows)).max(1);
        for (queries, out) in queries.chunks(most).zip(out.chunks_mut(most * elements)) {
            let rows = self.options.padded(queries.len());
            let v = self.evaluate(&self.pack(queries, rows), rows, device)?;
            out.copy_from_slice(&v[..out.len()]);
        }
        Ok(())
    }

    /// Numbers in a state.
    fn elements(&self) -> usize {
        self.shape.iter().product()
    }

    /// Indices out of range are undefined behaviour on a device, not an error.
    fn check(&self, queries: &[Query<'_>], out: &[f32]) -> Result<()> {
        let elements = self.elements();
        if let Some(query) = queries.iter().find(|q| q.x.len() != elements || q.label as usize >= self.labels) {
            let (x, label, labels) = (query.x.len(), query.label, self.labels);
            bail!("a query of {x} numbers and label {label}, not {elements} and one of {labels}");
        }
        if out.len() != queries.len() * elements {
            bail!("room for {} numbers, not for {} answers", out.len(), queries.len());
        }
        Ok(())
    }

    /// `[states | s | t | classes]` of `rows` rows; those without a query are zero.
    #[expect(clippy::cast_precision_loss, reason = "classes are few")]
    fn pack(&self, queries: &[Query<'_>], rows: usize) -> Vec<f32> {
        let idle = rows - queries.len();
        let mut packed = Vec::with_capacity(rows * (self.elements() + 3));
        queries.iter().for_each(|query| packed.extend_from_slice(query.x));
        packed.resize(rows * self.elements(), 0.0);
        for column in [|q: &Query<'_>| q.s, |q: &Query<'_>| q.t, |q: &Query<'_>| q.label as f32] {
            packed.extend(queries.iter().map(column).chain(std::iter::repeat_n(0.0, idle)));
        }
        packed
    }

    /// The velocities of `rows` packed rows.
    fn evaluate(&self, packed: &[f32], rows: usize, device: &Device) -> Result<Vec<f32>> {
        #[cfg(feature = "cuda")]
        if let (true, Device::Cuda(cuda)) = (self.options.graphs, device) {
            return graph::evaluate(self, packed, rows, cuda);
        }
        self.eagerly(packed, rows, device)
    }

    fn eagerly(&self, packed: &[f32], rows: usize, device: &Device) -> Result<Vec<f32>> {
        let input = Tensor::from_slice(packed, packed.len(), device)?;
        self.forward(&input, rows)?.to_vec1()
    }

    /// The velocities of packed rows that are on the device.
    fn forward(&self, input: &Tensor, rows: usize) -> Result<Tensor> {
        // Not on for the upload above: it would keep every small batch there ever was.
        #[cfg(feature = "cuda")]
        let _uploaded_once = match input.device() {
            Device::Cuda(cuda) => Some(cuda.enable_cuda_graph_htod_cache()),
            _ => None,
        };
        let states = rows * self.elements();
        let dims: Vec<usize> = std::iter::once(rows).chain(self.shape.iter().copied()).collect();
        let column = |index: usize| input.narrow(0, states + index * rows, rows);
        let arguments = Arguments {
            x: input.narrow(0, 0, states)?.reshape(dims)?,
            s: column(0)?,
            t: column(1)?,
            labels: column(2)?.to_dtype(DType::U32)?,
        };
        Network::velocity(&self.net, &self.ops, &arguments)?.to_dtype(DType::F32)?.flatten_all()?.contiguous()
    }
}

/// With derivatives where the weights are `f32`.
impl FlowMap for OnDevice {
    fn velocity(&self, x: &Dual, s: &Dual, t: &Dual, labels: &Tensor) -> Result<Dual> {
        if [x, s, t].into_iter().any(|dual| dual.tangent.is_some() || dual.primal.track_op()) {
            let [x, s, t] = [x, s, t].map(Dual::clone);
            return Network::velocity(&self.net, &Eager, &Arguments { x, s, t, labels: labels.clone() });
        }
        let [x, s, t] = [x, s, t].map(|dual| dual.primal.clone());
        let v = Network::velocity(&self.net, &self.ops, &Arguments { x, s, t, labels: labels.clone() })?;
        Ok(Dual::constant(&v.to_dtype(DType::F32)?.contiguous()?))
    }
}

#[cfg(test)]
mod tests;
