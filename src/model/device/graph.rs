//! Forwards as CUDA graphs: every kernel of a forward is launched by one call.
//!
//! candle evaluates on the thread's own stream, which can be captured. While it is, allocations become nodes of the
//! graph, each freed within it, and no shape is uploaded because the first forward of that size left them all on the
//! device. The input and the output are tensors that outlive the graph, at addresses that it knows.
//!
//! Graphs belong to the stream of a thread and must not be shared, so each thread keeps its own.

use std::cell::RefCell;
use std::collections::HashMap;

use candle_core::backend::BackendDevice;
use candle_core::cuda_backend::WrapErr;
use candle_core::cuda_backend::cudarc::driver::CudaGraph;
use candle_core::cuda_backend::cudarc::driver::sys::{CUgraphInstantiate_flags, CUstreamCaptureMode};
use candle_core::{CpuStorage, CudaDevice, CudaStorage, DType, Device, InplaceOp1, Layout, Result, Tensor, bail};

use super::OnDevice;

thread_local! {
    /// By network and number of rows.
    static GRAPHS: RefCell<HashMap<(u64, usize), State>> = RefCell::default();
}

/// How far a size of forward has come.
enum State {
    /// Evaluated once: its kernels are loaded, its shapes and the weights' layouts are on the device.
    Warm,
    Captured(Captured),
    /// Its capture failed.
    Refused,
}

struct Captured {
    input: Tensor,
    output: Tensor,
    graph: CudaGraph,
}

/// The velocities of `rows` packed rows: eagerly the first time, by a graph from the second on, and eagerly ever after
/// where a capture fails.
pub(super) fn evaluate(net: &OnDevice, packed: &[f32], rows: usize, cuda: &CudaDevice) -> Result<Vec<f32>> {
    let device = Device::Cuda(cuda.clone());
    GRAPHS.with_borrow_mut(|graphs| match graphs.get(&(net.id, rows)) {
        Some(State::Captured(captured)) => captured.replay(packed),
        Some(State::Refused) => net.eagerly(packed, rows, &device),
        None => {
            let v = net.eagerly(packed, rows, &device)?;
            graphs.insert((net.id, rows), State::Warm);
            Ok(v)
        }
        Some(State::Warm) => match Captured::new(net, rows, cuda) {
            Ok(captured) => {
                let v = captured.replay(packed)?;
                graphs.insert((net.id, rows), State::Captured(captured));
                Ok(v)
            }
            Err(error) => {
                tracing::warn!(rows, %error, "a forward cannot be captured as a CUDA graph: it is evaluated without");
                graphs.insert((net.id, rows), State::Refused);
                // What freeing the remains of the capture left behind is reported by the next call, once; what is
                // wrong with the device is reported again.
                let _ = cuda.synchronize();
                net.eagerly(packed, rows, &device)
            }
        },
    })
}

impl Captured {
    fn new(net: &OnDevice, rows: usize, cuda: &CudaDevice) -> Result<Self> {
        let device = Device::Cuda(cuda.clone());
        let input = Tensor::zeros(rows * (net.elements() + 3), DType::F32, &device)?;
        let output = Tensor::zeros(rows * net.elements(), DType::F32, &device)?;
        let stream = cuda.cuda_stream();
        cuda.synchronize()?;
        stream.begin_capture(CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_RELAXED).w()?;
        // Every tensor of the forward is dropped, and so freed by the graph, before the capture ends.
        let recorded = net.forward(&input, rows).and_then(|v| output.slice_set(&v, 0, 0));
        let graph = stream.end_capture(CUgraphInstantiate_flags(0));
        recorded?;
        let Some(graph) = graph.w()? else { bail!("nothing was captured") };
        graph.upload().w()?;
        Ok(Self { input, output, graph })
    }

    fn replay(&self, packed: &[f32]) -> Result<Vec<f32>> {
        self.input.inplace_op1(&Overwrite(packed))?;
        self.graph.launch().w()?;
        self.output.to_vec1()
    }
}

/// Copies numbers of the host over a tensor as long as they are.
struct Overwrite<'a>(&'a [f32]);

impl InplaceOp1 for Overwrite<'_> {
    fn name(&self) -> &'static str {
        "overwrite"
    }

    fn cpu_fwd(&self, _: &mut CpuStorage, _: &Layout) -> Result<()> {
        bail!("graphs are a GPU's")
    }

    fn cuda_fwd(&self, storage: &mut CudaStorage, _: &Layout) -> Result<()> {
        let cuda = storage.device.clone();
        cuda.memcpy_htod(self.0, storage.as_cuda_slice_mut::<f32>()?)
    }
}
