//! States that a request starts from instead of noise.

use std::sync::Arc;

use super::Reader;
use crate::api::proto::v1;
use crate::domain::ModelInfo;

/// Bytes of one element.
const FLOAT32_BYTES: usize = size_of::<f32>();

/// What the client may send.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Layout {
    /// One state for all images.
    Shared,
    /// One state per image.
    PerImage,
}

impl Reader<'_> {
    /// All states of the request, one after the other, or `None` for noise.
    pub(super) fn initial(&mut self, count: u32, model: &ModelInfo) -> Option<Arc<[f32]>> {
        let state = self.request.initial_state.as_ref()?;
        let Some(tensor) = &state.states else {
            self.reject("initial_state.states", "is missing");
            return None;
        };
        let layout = self.layout(tensor, count, model)?;
        let values = self.finite_values(tensor)?;
        Some(match layout {
            Layout::PerImage => values.into(),
            Layout::Shared => values.repeat(count as usize).into(),
        })
    }

    /// Checks shape, length and size without looking at the data.
    fn layout(&mut self, tensor: &v1::Tensor, count: u32, model: &ModelInfo) -> Option<Layout> {
        let is_model_shape = |shape: &[u32]| shape.iter().map(|&d| d as usize).eq(model.shape.iter().copied());
        let layout = match tensor.shape.as_slice() {
            shape if is_model_shape(shape) => Layout::Shared,
            [n, rest @ ..] if *n == count && is_model_shape(rest) => Layout::PerImage,
            _ => {
                let description = format!("must be {:?}, or the same after [{count}, …]", model.shape);
                self.reject("initial_state.states.shape", description);
                return None;
            }
        };
        // The shapes of loaded models are sane and the count is within its bound, so that nothing can overflow here.
        let image_bytes = model.elements() * FLOAT32_BYTES;
        let all_bytes = image_bytes * count as usize;
        let sent_bytes = if layout == Layout::Shared { image_bytes } else { all_bytes };
        if tensor.float32_data.len() != sent_bytes {
            let description = format!("has {} bytes, this shape has {sent_bytes}", tensor.float32_data.len());
            self.reject("initial_state.states.float32_data", description);
            return None;
        }
        if all_bytes > self.limits.max_request_bytes {
            let most = self.limits.max_request_bytes;
            let description = format!("makes {all_bytes} bytes over {count} images, the most is {most}");
            self.reject("initial_state.states", description);
            return None;
        }
        Some(layout)
    }

    fn finite_values(&mut self, tensor: &v1::Tensor) -> Option<Vec<f32>> {
        let (elements, _) = tensor.float32_data.as_chunks::<FLOAT32_BYTES>();
        let values: Vec<f32> = elements.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect();
        if let Some(position) = values.iter().position(|x| !x.is_finite()) {
            let description = format!("element {position} is {}, must be finite", values[position]);
            self.reject("initial_state.states.float32_data", description);
            return None;
        }
        Some(values)
    }
}
