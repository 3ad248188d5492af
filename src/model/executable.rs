//! A network ready to answer.

use candle_core::{DType, Device, Result, Tensor, bail};

use super::device::OnDevice;
use super::kernels::team::Team;
use super::plan::{Plan, Query};
use crate::flow::{Dual, FlowMap};

/// A network that serves: compiled for the CPU, or as tensors on another device.
pub enum Executable {
    /// Compiled.
    Compiled(Plan),
    /// On a GPU.
    OnDevice(Box<OnDevice>),
    /// Any flow map, evaluated as it is.
    Eager(Box<dyn FlowMap>),
}

impl Executable {
    /// Answers `queries` with `v_{s,t}(x)`, one after the other: on `team` where the network is compiled, else in one
    /// piece on `device`. States have the given `shape`.
    ///
    /// # Errors
    /// Queries that do not fit the network, or whatever the device reports.
    pub fn answer(
        &self,
        queries: &[Query<'_>],
        shape: &[usize],
        place: (&Device, &Team),
        out: &mut [f32],
    ) -> Result<()> {
        let (device, team) = place;
        match self {
            Self::Compiled(plan) => plan.answer_with(team, queries, out),
            Self::OnDevice(net) => net.answer(queries, device, out),
            Self::Eager(net) => eager(net.as_ref(), queries, shape, device, out),
        }
    }
}

fn eager(net: &dyn FlowMap, queries: &[Query<'_>], shape: &[usize], device: &Device, out: &mut [f32]) -> Result<()> {
    let rows = queries.len();
    let dims: Vec<usize> = std::iter::once(rows).chain(shape.iter().copied()).collect();
    let column = |time: fn(&Query<'_>) -> f32| {
        let times = queries.iter().map(time).collect();
        Tensor::from_vec(times, rows, device).map(|times: Tensor| Dual::constant(&times))
    };
    let x = queries.iter().flat_map(|query| query.x).copied().collect::<Vec<f32>>();
    let x = Dual::constant(&Tensor::from_vec(x, dims, device)?);
    let labels = Tensor::from_vec(queries.iter().map(|query| query.label).collect(), rows, device)?;
    let v = net.velocity(&x, &column(|query| query.s)?, &column(|query| query.t)?, &labels)?;
    let v = v.primal.flatten_all()?.to_vec1::<f32>()?;
    if v.len() != out.len() {
        bail!("the network returned {} numbers for {}", v.len(), out.len());
    }
    out.copy_from_slice(&v);
    Ok(())
}

/// Without tangents and gradients only, where the network is compiled.
impl FlowMap for Executable {
    fn velocity(&self, x: &Dual, s: &Dual, t: &Dual, labels: &Tensor) -> Result<Dual> {
        let plan = match self {
            Self::Compiled(plan) => plan,
            Self::OnDevice(net) => return net.velocity(x, s, t, labels),
            Self::Eager(net) => return net.velocity(x, s, t, labels),
        };
        if [x, s, t].into_iter().any(|dual| dual.tangent.is_some() || dual.primal.track_op()) {
            bail!("a compiled network has no derivatives: build it from its checkpoint's tensors instead");
        }
        let numbers = |dual: &Dual| dual.primal.to_dtype(DType::F32)?.flatten_all()?.to_vec1::<f32>();
        let (states, s, t, labels) = (numbers(x)?, numbers(s)?, numbers(t)?, labels.to_vec1::<u32>()?);
        if states.len() != labels.len() * plan.elements() || [s.len(), t.len()] != [labels.len(); 2] {
            bail!("{} numbers, {} and {} times for {} labels", states.len(), s.len(), t.len(), labels.len());
        }
        let rows = states.chunks_exact(plan.elements()).zip(s.iter().zip(&t)).zip(&labels);
        let queries: Vec<Query<'_>> = rows.map(|((x, (&s, &t)), &label)| Query { x, s, t, label }).collect();
        let mut out = vec![0.0; states.len()];
        plan.answer(&queries, &mut out)?;
        Ok(Dual::constant(&Tensor::from_vec(out, x.primal.shape(), x.primal.device())?))
    }
}
