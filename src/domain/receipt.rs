//! What an image's bytes depend on, and the digests by which they are compared.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::Sampler;

/// A BLAKE3 digest; in hexadecimal for people and in JSON.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct Digest([u8; Self::BYTES]);

impl Digest {
    /// Bytes of a digest.
    pub const BYTES: usize = blake3::OUT_LEN;

    /// The digest of `bytes`.
    pub fn of(bytes: &[u8]) -> Self {
        Self(blake3::hash(bytes).into())
    }

    /// The digest of `numbers` as float32, little-endian, one after the other.
    pub fn of_numbers(numbers: &[f32]) -> Self {
        if cfg!(target_endian = "little") {
            return Self::of(bytemuck::cast_slice(numbers));
        }
        /// Numbers that are hashed at a time.
        const PIECE: usize = 1024;
        let mut hasher = blake3::Hasher::new();
        let mut bytes = [0; PIECE * size_of::<f32>()];
        for piece in numbers.chunks(PIECE) {
            let (places, _) = bytes.as_chunks_mut();
            places.iter_mut().zip(piece).for_each(|(place, number)| *place = number.to_le_bytes());
            hasher.update(&bytes[..size_of_val(piece)]);
        }
        Self(hasher.finalize().into())
    }

    /// The digest that `bytes` are, if there are as many as a digest has.
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        bytes.try_into().ok().map(Self)
    }

    /// Its bytes.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl FromStr for Digest {
    type Err = String;

    fn from_str(s: &str) -> Result<Self, Self::Err> {
        let digest = blake3::Hash::from_hex(s);
        digest.map(|hash| Self(hash.into())).map_err(|_| format!("'{s}' is not a digest of 64 hexadecimal digits"))
    }
}

impl From<Digest> for String {
    fn from(digest: Digest) -> Self {
        digest.to_string()
    }
}

impl TryFrom<String> for Digest {
    type Error = String;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

/// All that a finished image's bytes depend on: enough to make it again and to tell whether it is the same, or to go on
/// from it. In JSON every number is exact.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Receipt {
    /// The model, as `name@version`.
    pub model: String,
    /// BLAKE3 of the weights' file, in hexadecimal.
    pub content_hash: String,
    /// The image started from the noise of `(seed, index)`, unless `initial_state_digest` is there.
    pub seed: u64,
    /// Index of its noise.
    pub index: u32,
    /// Class label; `None` is the null class.
    pub label: Option<u32>,
    /// Guidance scale.
    pub guidance: f32,
    /// How the times were walked.
    pub sampler: Sampler,
    /// The times that were visited, first to last.
    pub times: Vec<f64>,
    /// Digest of the numbers of the state that it started from; `None` for noise.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub initial_state_digest: Option<Digest>,
    /// Whether that state was data, to which noise of `(seed, index)` was added up to the first time.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub initial_state_noised: bool,
    /// Digest of the finished sample's numbers.
    pub sample_digest: Digest,
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn digests_are_those_of_the_bytes_that_the_contract_names() {
        for count in [0u16, 1, 1023, 1024, 1025, 5000] {
            let numbers: Vec<f32> = (0..count).map(f32::from).collect();
            let bytes: Vec<u8> = numbers.iter().flat_map(|number| number.to_le_bytes()).collect();
            assert_eq!(Digest::of_numbers(&numbers), Digest::of(&bytes), "{count}");
        }
        let digest = Digest::of(b"a");
        assert_eq!(digest.to_string(), blake3::hash(b"a").to_hex().as_str());
        assert_eq!((digest.to_string().parse(), Digest::from_bytes(digest.as_bytes())), (Ok(digest), Some(digest)));
        assert!("00".parse::<Digest>().is_err() && Digest::from_bytes(&[0; 31]).is_none());
    }

    proptest! {
        #[test]
        fn json_keeps_every_number(
            seed: u64,
            guidance in -1e30f32..1e30,
            times in prop::collection::vec(0.0f64..1.0, 2..9),
            label: Option<u32>,
        ) {
            let sample_digest = Digest::of(&seed.to_le_bytes());
            let receipt = Receipt {
                model: "a@1".into(), content_hash: "00".into(), seed, index: u32::MAX, label, guidance,
                sampler: Sampler::ALL[usize::from(label.is_some()) * 3], times, sample_digest,
                initial_state_digest: label.map(|_| sample_digest), initial_state_noised: label.is_some(),
            };
            let text = serde_json::to_string(&receipt).unwrap();
            prop_assert_eq!(serde_json::from_str::<Receipt>(&text).unwrap(), receipt);
        }
    }
}
