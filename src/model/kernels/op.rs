//! Kernels on slices as candle operations with a backward pass.

use candle_core::{CpuStorage, CustomOp1, CustomOp2, CustomOp3, Layout, Result, Shape, Storage, Tensor, bail};

/// An argument of a kernel: its elements, row-major, and its dimensions.
#[derive(Debug, Clone, Copy)]
pub(in crate::model) struct View<'a> {
    pub(in crate::model) data: &'a [f32],
    pub(in crate::model) dims: &'a [usize],
}

/// An operation of `N` tensors and its reverse-mode derivative, on slices.
pub(in crate::model) trait Kernel<const N: usize>: Send + Sync + 'static {
    /// As candle's errors name it.
    const NAME: &'static str;

    /// The result and its shape. Fails where the shapes do not go together.
    fn forward(&self, args: [View<'_>; N]) -> Result<(Vec<f32>, Shape)>;

    /// The gradient of each argument, given the arguments, the `result` and the gradient `grad` of the result. What is
    /// not `wanted` may be left out.
    fn backward(&self, args: [View<'_>; N], result: &[f32], grad: &[f32], wanted: [bool; N]) -> [Option<Vec<f32>>; N];
}

/// Applies a kernel of one argument.
pub(super) fn apply1(kernel: impl Kernel<1>, x: &Tensor) -> Result<Tensor> {
    x.contiguous()?.apply_op1(Op(kernel))
}

/// Applies a kernel of two arguments.
pub(super) fn apply2(kernel: impl Kernel<2>, a: &Tensor, b: &Tensor) -> Result<Tensor> {
    a.contiguous()?.apply_op2(&b.contiguous()?, Op(kernel))
}

/// Applies a kernel of three arguments.
pub(super) fn apply3(kernel: impl Kernel<3>, a: &Tensor, b: &Tensor, c: &Tensor) -> Result<Tensor> {
    a.contiguous()?.apply_op3(&b.contiguous()?, &c.contiguous()?, Op(kernel))
}

struct Op<K>(K);

impl<K: Kernel<1>> CustomOp1 for Op<K> {
    fn name(&self) -> &'static str {
        K::NAME
    }

    fn cpu_fwd(&self, s: &CpuStorage, l: &Layout) -> Result<(CpuStorage, Shape)> {
        forward(&self.0, [(s, l)])
    }

    fn bwd(&self, x: &Tensor, result: &Tensor, grad: &Tensor) -> Result<Option<Tensor>> {
        backward(&self.0, [x], result, grad).map(|[dx]| dx)
    }
}

impl<K: Kernel<2>> CustomOp2 for Op<K> {
    fn name(&self) -> &'static str {
        K::NAME
    }

    fn cpu_fwd(&self, s1: &CpuStorage, l1: &Layout, s2: &CpuStorage, l2: &Layout) -> Result<(CpuStorage, Shape)> {
        forward(&self.0, [(s1, l1), (s2, l2)])
    }

    fn bwd(&self, a: &Tensor, b: &Tensor, y: &Tensor, grad: &Tensor) -> Result<(Option<Tensor>, Option<Tensor>)> {
        backward(&self.0, [a, b], y, grad).map(Into::into)
    }
}

type Gradients3 = (Option<Tensor>, Option<Tensor>, Option<Tensor>);

impl<K: Kernel<3>> CustomOp3 for Op<K> {
    fn name(&self) -> &'static str {
        K::NAME
    }

    fn cpu_fwd(
        &self,
        s1: &CpuStorage,
        l1: &Layout,
        s2: &CpuStorage,
        l2: &Layout,
        s3: &CpuStorage,
        l3: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        forward(&self.0, [(s1, l1), (s2, l2), (s3, l3)])
    }

    fn bwd(&self, a: &Tensor, b: &Tensor, c: &Tensor, y: &Tensor, grad: &Tensor) -> Result<Gradients3> {
        backward(&self.0, [a, b, c], y, grad).map(Into::into)
    }
}

fn forward<const N: usize, K: Kernel<N>>(kernel: &K, args: [(&CpuStorage, &Layout); N]) -> Result<(CpuStorage, Shape)> {
    let mut views = [View { data: &[], dims: &[] }; N];
    for (view, (storage, layout)) in views.iter_mut().zip(args) {
        *view = View { data: slice(storage, layout)?, dims: layout.dims() };
    }
    let (data, shape) = kernel.forward(views)?;
    Ok((CpuStorage::F32(data), shape))
}

fn backward<const N: usize, K: Kernel<N>>(
    kernel: &K,
    args: [&Tensor; N],
    result: &Tensor,
    grad: &Tensor,
) -> Result<[Option<Tensor>; N]> {
    let grad = grad.contiguous()?;
    let wanted = args.map(Tensor::track_op);
    let gradients = with_slices(args, |data| {
        with_slices([result, &grad], |[result, grad]| {
            let mut views = [View { data: &[], dims: &[] }; N];
            for ((view, data), arg) in views.iter_mut().zip(data).zip(args) {
                *view = View { data, dims: arg.dims() };
            }
            Ok(kernel.backward(views, result, grad, wanted))
        })
    })?;
    let mut tensors = [const { None }; N];
    for ((tensor, gradient), arg) in tensors.iter_mut().zip(gradients).zip(args) {
        *tensor = gradient.map(|data| Tensor::from_vec(data, arg.shape(), arg.device())).transpose()?;
    }
    Ok(tensors)
}

fn with_slices<const N: usize, R>(tensors: [&Tensor; N], f: impl FnOnce([&[f32]; N]) -> Result<R>) -> Result<R> {
    let guards = tensors.map(Tensor::storage_and_layout);
    let mut slices = [&[][..]; N];
    for (data, (storage, layout)) in slices.iter_mut().zip(&guards) {
        *data = match &**storage {
            Storage::Cpu(storage) => slice(storage, layout)?,
            _ => bail!("fused kernels run on the CPU only"),
        };
    }
    f(slices)
}

/// The elements of a contiguous tensor.
pub(in crate::model) fn slice<'a>(storage: &'a CpuStorage, layout: &Layout) -> Result<&'a [f32]> {
    let Some((start, end)) = layout.contiguous_offsets() else {
        bail!("a fused kernel got a tensor with strides {:?}: make it contiguous", layout.stride());
    };
    Ok(&storage.as_slice::<f32>()?[start..end])
}
