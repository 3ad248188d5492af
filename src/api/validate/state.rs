//! States that a request starts from instead of noise.

use std::sync::Arc;

use super::Reader;
use crate::api::proto::v1;
use crate::domain::{Initial, ModelInfo};

/// Bytes of one element.
const FLOAT32_BYTES: usize = size_of::<f32>();

/// Largest magnitude of an element. Data and noise are of the order of 1, or of 255; what is far beyond means nothing to a
/// network and ends in infinities.
const MAX_MAGNITUDE: f32 = 1e6;

impl Reader<'_> {
    /// The states of the request, or `None` for noise.
    pub(super) fn initial(&mut self, count: u32, model: &ModelInfo) -> Option<Initial> {
        let state = self.request.initial_state.as_ref()?;
        let Some(tensor) = &state.states else {
            self.reject("initial_state.states", "is missing");
            return None;
        };
        self.layout(tensor, count, model)?;
        let states = self.values(tensor)?;
        Some(Initial { states, noised_to: state.add_noise.then_some(state.time) })
    }

    /// Checks shape, length and size without looking at the data.
    fn layout(&mut self, tensor: &v1::Tensor, count: u32, model: &ModelInfo) -> Option<()> {
        let is_model_shape = |shape: &[u32]| shape.iter().map(|&d| d as usize).eq(model.shape.iter().copied());
        let states = match tensor.shape.as_slice() {
            shape if is_model_shape(shape) => 1,
            [n, rest @ ..] if *n == count && is_model_shape(rest) => count as usize,
            _ => {
                let description = format!("must be {:?}, or the same after [{count}, …]", model.shape);
                self.reject("initial_state.states.shape", description);
                return None;
            }
        };
        // The shapes of loaded models are sane and the count is within its bound, so that nothing can overflow here.
        let bytes = states * model.elements() * FLOAT32_BYTES;
        if tensor.float32_data.len() != bytes {
            let description = format!("has {} bytes, this shape has {bytes}", tensor.float32_data.len());
            self.reject("initial_state.states.float32_data", description);
            return None;
        }
        Some(())
    }

    fn values(&mut self, tensor: &v1::Tensor) -> Option<Arc<[f32]>> {
        let (elements, _) = tensor.float32_data.as_chunks::<FLOAT32_BYTES>();
        let values: Arc<[f32]> = elements.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect();
        if let Some(position) = values.iter().position(|x| !(-MAX_MAGNITUDE..=MAX_MAGNITUDE).contains(x)) {
            let (value, most) = (values[position], MAX_MAGNITUDE);
            let description = format!("element {position} is {value}, must be a number from -{most} to {most}");
            self.reject("initial_state.states.float32_data", description);
            return None;
        }
        Some(values)
    }
}
