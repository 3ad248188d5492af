//! Finished states → bytes on the wire.

use prost::bytes::Bytes;

use super::proto::v1;
use crate::domain::{Digest, ModelInfo};
use crate::error::{Error, Result};
use crate::picture;

/// States of at most this many elements are encoded where they arrive: a PNG of 64 × 64 × 3 takes about as long as
/// handing it to another thread and back. Larger ones would hold up the other streams of the thread.
const INLINE_ELEMENTS: usize = 64 * 64 * 3;

/// How an image is encoded: the wire's enum without its "unspecified".
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Encoding {
    /// Float32, little-endian.
    Float32,
    /// Bytes, the value range mapped to 0 … 255.
    Uint8,
    /// A PNG file.
    Png,
}

impl Encoding {
    /// What suits a model.
    pub(super) fn default_for(model: &ModelInfo) -> Self {
        if model.is_image() { Self::Png } else { Self::Float32 }
    }

    /// On the wire.
    pub(super) fn to_wire(self) -> v1::OutputEncoding {
        match self {
            Self::Float32 => v1::OutputEncoding::Float32,
            Self::Uint8 => v1::OutputEncoding::Uint8,
            Self::Png => v1::OutputEncoding::Png,
        }
    }

    /// Encodes a state of `model`, away from the caller's thread if it is large.
    ///
    /// # Errors
    /// [`Error::Compute`](crate::error::Error::Compute) when the state does not have the model's shape.
    pub(super) async fn encode(self, state: Vec<f32>, model: &ModelInfo) -> Result<Bytes> {
        let (shape, range) = (model.shape.clone(), model.value_range);
        apart(state.len(), move || self.bytes(state, &shape, range)).await
    }

    /// The same with the digests of a finished sample.
    ///
    /// # Errors
    /// As [`encode`](Self::encode).
    pub(super) async fn finish(self, state: Vec<f32>, model: &ModelInfo) -> Result<Encoded> {
        let (shape, range) = (model.shape.clone(), model.value_range);
        let finish = move || {
            let sample_digest = Digest::of_numbers(&state);
            let data = self.bytes(state, &shape, range)?;
            // Float32 is what the sample's digest is of.
            let digest = if self == Self::Float32 { sample_digest } else { Digest::of(&data) };
            Ok(Encoded { data, digest, sample_digest })
        };
        apart(model.elements(), finish).await
    }

    fn bytes(self, state: Vec<f32>, shape: &[usize], range: [f32; 2]) -> Result<Bytes> {
        Ok(match self {
            Self::Float32 => little_endian(state),
            Self::Uint8 => picture::to_u8(&state, range).into(),
            Self::Png => {
                let shape =
                    <[usize; 3]>::try_from(shape).map_err(|_| Error::Compute(format!("{shape:?} is no image")))?;
                picture::png::encode(&picture::to_u8(&state, range), shape)?.into()
            }
        })
    }
}

/// The numbers as float32, little-endian: on most machines they are that already, where the engine wrote them.
fn little_endian(numbers: Vec<f32>) -> Bytes {
    if cfg!(target_endian = "little") {
        Bytes::from_owner(InMemory(numbers))
    } else {
        numbers.iter().flat_map(|number| number.to_le_bytes()).collect()
    }
}

/// Numbers whose bytes are taken as they lie in memory.
struct InMemory(Vec<f32>);

impl AsRef<[u8]> for InMemory {
    fn as_ref(&self) -> &[u8] {
        bytemuck::cast_slice(&self.0)
    }
}

/// A finished sample, encoded.
#[derive(Debug)]
pub(super) struct Encoded {
    pub(super) data: Bytes,
    /// Of `data`.
    pub(super) digest: Digest,
    /// Of the sample's numbers.
    pub(super) sample_digest: Digest,
}

/// Does `work` on this many elements, away from the caller's thread if they are many.
async fn apart<T: Send + 'static>(elements: usize, work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    if elements <= INLINE_ELEMENTS {
        return work();
    }
    let done = tokio::task::spawn_blocking(work).await;
    done.unwrap_or_else(|e| Err(Error::Compute(format!("encoding failed: {e}"))))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::validate::tests::model;

    #[tokio::test]
    async fn encodings_are_what_the_contract_says() {
        let model = ModelInfo { shape: vec![1, 1, 3], value_range: [-1.0, 1.0], ..model() };
        let state = vec![-2.0, 0.0, 1.0];
        let raw = Encoding::Float32.encode(state.clone(), &model).await.unwrap();
        assert_eq!(raw[..4], (-2.0_f32).to_le_bytes());
        assert_eq!(raw.len(), 12);
        let bytes = Encoding::Uint8.encode(state.clone(), &model).await.unwrap();
        assert_eq!((bytes[0], bytes[2]), (0, 255));
        let png = Encoding::Png.encode(state, &model).await.unwrap();
        assert!(png.starts_with(b"\x89PNG"));
    }

    #[tokio::test]
    async fn digests_are_of_the_bytes_and_of_the_numbers() {
        let (model, state) = (ModelInfo { shape: vec![1, 1, 2], ..model() }, vec![0.5, -1.0]);
        for encoding in [Encoding::Float32, Encoding::Uint8, Encoding::Png] {
            let Encoded { data, digest, sample_digest } = encoding.finish(state.clone(), &model).await.unwrap();
            assert_eq!((digest, sample_digest), (Digest::of(&data), Digest::of_numbers(&state)), "{encoding:?}");
        }
    }

    #[tokio::test]
    async fn large_images_are_encoded_alike() {
        let model = ModelInfo { shape: vec![3, 65, 65], ..model() };
        let bytes = Encoding::Uint8.encode(vec![1.0; 3 * 65 * 65], &model).await.unwrap();
        assert_eq!(bytes.len(), 3 * 65 * 65);
        assert!(Encoding::Png.encode(vec![1.0; 3 * 65 * 65], &model).await.is_ok());
    }
}
