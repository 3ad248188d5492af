//! Arrays on a tape.

use std::sync::Arc;

use candle_core::{Result, Storage, Tensor, bail};

use crate::model::kernels::{View, buffer, slice};

/// Numbers, row-major. Copies share them.
#[derive(Debug, Clone)]
pub struct Array(Arc<Inner>);

/// An array and its derivative along the seeded direction; a missing one is zero.
#[derive(Debug, Clone)]
pub struct Taped {
    /// The value.
    pub(super) primal: Array,
    /// Its derivative, of the same shape.
    pub(super) tangent: Option<Array>,
}

#[derive(Debug)]
struct Inner {
    /// Its place among the gradients, where it has one.
    id: Option<usize>,
    data: Data,
    dims: Vec<usize>,
}

#[derive(Debug)]
enum Data {
    Own(Vec<f32>),
    Weight(Tensor),
}

impl Drop for Inner {
    fn drop(&mut self) {
        if let Data::Own(data) = &mut self.data {
            buffer::give(std::mem::take(data));
        }
    }
}

impl Array {
    pub(super) fn own(data: Vec<f32>, dims: &[usize], id: Option<usize>) -> Self {
        Self(Arc::new(Inner { id, data: Data::Own(data), dims: dims.to_vec() }))
    }

    pub(super) fn weight(tensor: &Tensor, id: Option<usize>) -> Self {
        Self(Arc::new(Inner { id, dims: tensor.dims().to_vec(), data: Data::Weight(tensor.clone()) }))
    }

    /// A copy of a tensor as a constant.
    pub(super) fn constant(tensor: &Tensor) -> Result<Self> {
        if tensor.track_op() {
            bail!("a recorded network back-propagates to its weights and its states, not to times or tangents");
        }
        Self::copy(tensor, None)
    }

    /// A copy of a tensor, with a gradient where it has a number.
    pub(super) fn copy(tensor: &Tensor, id: Option<usize>) -> Result<Self> {
        let tensor = tensor.contiguous()?;
        let guard = tensor.storage_and_layout();
        let Storage::Cpu(storage) = &*guard.0 else { bail!("networks are recorded on the CPU only") };
        Ok(Self::own(buffer::copy(slice(storage, guard.1)?), tensor.dims(), id))
    }

    pub(super) fn id(&self) -> Option<usize> {
        self.0.id
    }

    pub(super) fn dims(&self) -> &[usize] {
        &self.0.dims
    }

    pub(super) fn len(&self) -> usize {
        self.0.dims.iter().product()
    }

    pub(super) fn to_tensor(&self) -> Result<Tensor> {
        with_views([self], |[view]| Tensor::from_slice(view.data, view.dims, &candle_core::Device::Cpu))?
    }
}

/// Hands the elements and dimensions of arrays to `f`.
pub(super) fn with_views<const N: usize, R>(arrays: [&Array; N], f: impl FnOnce([View<'_>; N]) -> R) -> Result<R> {
    let guards = arrays.map(|array| match &array.0.data {
        Data::Own(_) => None,
        Data::Weight(tensor) => Some(tensor.storage_and_layout()),
    });
    let mut views = [View { data: &[], dims: &[] }; N];
    for ((view, guard), array) in views.iter_mut().zip(&guards).zip(arrays) {
        let data = match (&array.0.data, guard) {
            (Data::Own(data), _) => data.as_slice(),
            (Data::Weight(_), Some((storage, layout))) => match &**storage {
                Storage::Cpu(storage) => slice(storage, layout)?,
                _ => bail!("networks are recorded on the CPU only"),
            },
            (Data::Weight(_), None) => &[],
        };
        *view = View { data, dims: array.dims() };
    }
    Ok(f(views))
}
