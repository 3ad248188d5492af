//! `model.safetensors`: a strict reader, and the writer's checks.
//!
//! The format: 8 bytes little-endian length of a JSON header, the header (`name → dtype, shape, data_offsets`), then
//! the numbers. The reader takes less than the format allows: `F16` and `F32` only, no duplicate names, no gaps or
//! overlaps, no empty tensors, no NaN or infinity. All arithmetic on sizes is checked, since they come from outside.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::Range;
use std::path::Path;

use candle_core::{DType, Device, Tensor};
use half::f16;
use safetensors::tensor::{Dtype, TensorView};
use serde::de::{self, Deserializer, MapAccess, Visitor};
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};

/// Longest header in bytes.
pub const MAX_HEADER_BYTES: usize = 16 << 20;
/// Most dimensions of a tensor.
const MAX_DIMENSIONS: usize = 8;
const LENGTH_BYTES: usize = 8;

/// How numbers are stored; in memory they are always f32.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize)]
pub enum Precision {
    /// IEEE half precision, 2 bytes.
    F16,
    /// IEEE single precision, 4 bytes.
    F32,
}

impl Precision {
    /// Bytes of one number.
    pub fn bytes(self) -> usize {
        match self {
            Self::F16 => 2,
            Self::F32 => 4,
        }
    }
}

/// Where a tensor is in the file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Its name.
    pub name: String,
    /// How it is stored.
    pub precision: Precision,
    /// Its shape.
    pub shape: Vec<usize>,
    /// Its bytes in the file.
    range: Range<usize>,
}

/// The tensors of a file in the order of their bytes. `origin` names the file in errors.
///
/// # Errors
/// [`Error::File`] where the header is not as described above, or does not cover the file exactly.
pub fn index(file: &[u8], origin: &Path) -> Result<Vec<Entry>> {
    let (header, numbers) = split(file, origin)?;
    let Header(declared) = serde_json::from_slice(header)
        .map_err(|e| Error::file(origin, format!("its header is not that of a checkpoint: {e}")))?;
    let start = LENGTH_BYTES + header.len();
    let mut entries = Vec::with_capacity(declared.len());
    for (name, tensor) in declared {
        let [from, to] = check(&tensor, numbers.len())
            .map_err(|problem| Error::file(origin, format!("tensor '{name}' {problem}")))?;
        let Declared { dtype, shape, .. } = tensor;
        entries.push(Entry { name, precision: dtype, shape, range: start + from..start + to });
    }
    entries.sort_by_key(|entry| entry.range.start);
    let mut end = start;
    for entry in &entries {
        if entry.range.start != end {
            return Err(Error::file(origin, format!("tensor '{}' overlaps another or leaves a gap", entry.name)));
        }
        end = entry.range.end;
    }
    if end != file.len() {
        let problem = format!("{} bytes belong to no tensor; it was damaged or extended", file.len() - end);
        return Err(Error::file(origin, problem));
    }
    Ok(entries)
}

/// All tensors of a file, as f32 on the CPU. `origin` names the file in errors.
///
/// # Errors
/// [`Error::File`] as [`index`], and where a number is not finite.
pub fn parse(file: &[u8], origin: &Path) -> Result<BTreeMap<String, Tensor>> {
    let entries = index(file, origin)?;
    let tensors = entries.into_iter().map(|entry| {
        let numbers = decode(&file[entry.range.clone()], entry.precision);
        check_finite(&entry.name, &numbers).map_err(|problem| Error::file(origin, problem))?;
        let tensor = Tensor::from_vec(numbers, entry.shape, &Device::Cpu).map_err(compute)?;
        Ok((entry.name, tensor))
    });
    tensors.collect()
}

/// The bytes of a file with `tensors`, which may be of any float type and on any device. `origin` names the file in
/// errors.
///
/// # Errors
/// [`Error::File`] where a number is not finite, or not in `precision`; [`Error::Compute`] where a device fails.
pub fn serialize(tensors: &BTreeMap<String, Tensor>, precision: Precision, origin: &Path) -> Result<Vec<u8>> {
    let mut encoded = Vec::with_capacity(tensors.len());
    for (name, tensor) in tensors {
        let bytes = encode(name, &numbers(tensor).map_err(compute)?, precision);
        let bytes = bytes.map_err(|problem| Error::file(origin, problem))?;
        encoded.push((name.as_str(), tensor.dims().to_vec(), bytes));
    }
    let dtype = match precision {
        Precision::F16 => Dtype::F16,
        Precision::F32 => Dtype::F32,
    };
    let views = encoded.iter().map(|(name, shape, bytes)| Ok((*name, TensorView::new(dtype, shape.clone(), bytes)?)));
    let file = views.collect::<Result<Vec<_>, _>>().and_then(|views| safetensors::serialize(views, None));
    file.map_err(|e| Error::file(origin, format!("cannot be written as safetensors: {e}")))
}

fn numbers(tensor: &Tensor) -> candle_core::Result<Vec<f32>> {
    tensor.to_device(&Device::Cpu)?.to_dtype(DType::F32)?.flatten_all()?.to_vec1()
}

fn compute(error: candle_core::Error) -> Error {
    Error::Compute(error.to_string())
}

fn encode(name: &str, numbers: &[f32], precision: Precision) -> Result<Vec<u8>, String> {
    check_finite(name, numbers)?;
    match precision {
        Precision::F32 => Ok(numbers.iter().flat_map(|v| v.to_le_bytes()).collect()),
        Precision::F16 => {
            let halves: Vec<f16> = numbers.iter().map(|&v| f16::from_f32(v)).collect();
            match halves.iter().position(|v| !v.is_finite()) {
                Some(i) => Err(format!("tensor '{name}' holds {}, beyond f16; store it as f32", numbers[i])),
                None => Ok(halves.iter().flat_map(|v| v.to_le_bytes()).collect()),
            }
        }
    }
}

fn decode(bytes: &[u8], precision: Precision) -> Vec<f32> {
    match precision {
        Precision::F16 => bytes.as_chunks().0.iter().map(|&b| f16::from_le_bytes(b).to_f32()).collect(),
        Precision::F32 => bytes.as_chunks().0.iter().map(|&b| f32::from_le_bytes(b)).collect(),
    }
}

fn check_finite(name: &str, numbers: &[f32]) -> Result<(), String> {
    match numbers.iter().position(|v| !v.is_finite()) {
        Some(i) => {
            Err(format!("tensor '{name}' holds {} at {i}: the training diverged; use an earlier one", numbers[i]))
        }
        None => Ok(()),
    }
}

/// The header's bytes and those after it.
fn split<'a>(file: &'a [u8], origin: &Path) -> Result<(&'a [u8], &'a [u8])> {
    let Some((length, rest)) = file.split_first_chunk::<LENGTH_BYTES>() else {
        return Err(Error::file(origin, format!("has {} bytes, too few for a safetensors file", file.len())));
    };
    let length = u64::from_le_bytes(*length);
    match usize::try_from(length).ok().filter(|&n| n <= rest.len()) {
        None => {
            let problem = format!("declares a header of {length} bytes, but {} follow; it is cut short", rest.len());
            Err(Error::file(origin, problem))
        }
        Some(n) if n > MAX_HEADER_BYTES => {
            Err(Error::file(origin, format!("declares a header of {n} bytes; at most {MAX_HEADER_BYTES} are read")))
        }
        Some(n) => Ok(rest.split_at(n)),
    }
}

/// The offsets of a tensor, once it is certain that they lie in the file and fit its shape.
fn check(tensor: &Declared, available: usize) -> Result<[usize; 2], String> {
    let [from, to] = tensor.data_offsets;
    if from > to || to > available {
        return Err(format!("lies at {from} … {to}, outside the {available} bytes of numbers"));
    }
    let shape = &tensor.shape;
    let elements = shape.iter().try_fold(1usize, |n, &side| n.checked_mul(side)).filter(|&n| n > 0);
    let bytes = elements.and_then(|n| n.checked_mul(tensor.dtype.bytes()));
    match bytes {
        _ if shape.len() > MAX_DIMENSIONS => Err(format!("has {} dimensions, more than {MAX_DIMENSIONS}", shape.len())),
        None => Err(format!("has the shape {shape:?}, which is empty or overflows")),
        Some(bytes) if bytes != to - from => {
            Err(format!("takes {} bytes, but its shape {shape:?} needs {bytes}", to - from))
        }
        Some(_) => Ok([from, to]),
    }
}

/// What a header says about one tensor.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Declared {
    dtype: Precision,
    shape: Vec<usize>,
    data_offsets: [usize; 2],
}

/// A header: tensors by name, each name once; `__metadata__` is allowed and ignored.
struct Header(BTreeMap<String, Declared>);

impl<'de> Deserialize<'de> for Header {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(HeaderVisitor).map(Self)
    }
}

struct HeaderVisitor;

impl<'de> Visitor<'de> for HeaderVisitor {
    type Value = BTreeMap<String, Declared>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a map from tensor names to dtype (F16 or F32), shape and data_offsets")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut tensors = BTreeMap::new();
        while let Some(name) = map.next_key::<String>()? {
            if name == "__metadata__" {
                map.next_value::<BTreeMap<String, String>>()?;
                continue;
            }
            let tensor = map.next_value()?;
            if tensors.contains_key(&name) {
                return Err(de::Error::custom(format!("tensor '{name}' appears twice")));
            }
            tensors.insert(name, tensor);
        }
        Ok(tensors)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn origin() -> &'static Path {
        Path::new("model.safetensors")
    }

    fn example() -> BTreeMap<String, Tensor> {
        let tensor = |shape: &[usize]| {
            let n = shape.iter().product::<usize>();
            Tensor::from_vec((0..n).map(|i| i as f32 / 4.0 - 1.0).collect(), shape, &Device::Cpu).unwrap()
        };
        [("a.weight", tensor(&[2, 3])), ("a.bias", tensor(&[3])), ("scale", tensor(&[]))]
            .map(|(name, tensor)| (name.to_owned(), tensor))
            .into()
    }

    fn file(header: &str, numbers: usize) -> Vec<u8> {
        [&(header.len() as u64).to_le_bytes(), header.as_bytes(), &vec![0; numbers]].concat()
    }

    fn problem(file: &[u8]) -> String {
        parse(file, origin()).err().map(|e| e.to_string()).unwrap_or_default()
    }

    fn values(tensors: &BTreeMap<String, Tensor>) -> Vec<(String, Vec<usize>, Vec<f32>)> {
        let each = tensors.iter().map(|(name, t)| (name.clone(), t.dims().to_vec(), numbers(t).unwrap()));
        each.collect()
    }

    #[test]
    fn both_precisions_round_trip_and_other_readers_agree() {
        for precision in [Precision::F16, Precision::F32] {
            let bytes = serialize(&example(), precision, origin()).unwrap();
            assert_eq!(values(&parse(&bytes, origin()).unwrap()), values(&example()));
            assert!(index(&bytes, origin()).unwrap().iter().all(|entry| entry.precision == precision));
            let theirs = safetensors::SafeTensors::deserialize(&bytes).unwrap();
            assert_eq!(theirs.tensor("a.weight").unwrap().shape(), [2, 3]);
        }
    }

    #[test]
    fn numbers_that_cannot_be_stored_are_named() {
        let one = |v: f32| BTreeMap::from([("w".to_owned(), Tensor::new(&[0.0, v], &Device::Cpu).unwrap())]);
        let refused = |v, precision| serialize(&one(v), precision, origin()).err().map(|e| e.to_string());
        assert!(refused(f32::NAN, Precision::F32).unwrap().contains("'w' holds NaN at 1"));
        assert!(refused(1e6, Precision::F16).unwrap().contains("store it as f32"));
        assert!(refused(1e6, Precision::F32).is_none());
        let mut bytes = serialize(&one(1.0), Precision::F32, origin()).unwrap();
        let end = bytes.len();
        bytes[end - 4..].copy_from_slice(&f32::INFINITY.to_le_bytes());
        assert!(problem(&bytes).contains("tensor 'w' holds inf at 1"), "{}", problem(&bytes));
    }

    #[test]
    fn headers_that_lie_are_refused() {
        let tensor = |shape: &str, offsets: &str| {
            format!(r#"{{"w":{{"dtype":"F32","shape":{shape},"data_offsets":{offsets}}}}}"#)
        };
        assert_eq!(problem(&file(&tensor("[2]", "[0,8]"), 8)), "");
        let huge = "[4294967296,4294967296]";
        for (header, numbers, expected) in [
            (tensor("[2]", "[0,8]"), 4, "outside the 4 bytes"),
            (tensor("[2]", "[0,8]"), 12, "4 bytes belong to no tensor"),
            (tensor("[2]", "[4,12]"), 12, "gap"),
            (tensor("[3]", "[0,8]"), 8, "needs 12"),
            (tensor("[2]", "[8,0]"), 8, "outside"),
            (tensor(huge, "[0,0]"), 0, "overflows"),
            (tensor("[0]", "[0,0]"), 0, "empty"),
            (tensor("[2]", "[0,18446744073709551615]"), 8, "outside"),
            (tensor("[-1]", "[0,8]"), 8, "invalid value"),
            (tensor("[2]", "[0,8]").replace("F32", "BF16"), 8, "unknown variant `BF16`"),
            (
                tensor("[2]", "[0,8]").replace("}}", r#"},"w":{"dtype":"F32","shape":[],"data_offsets":[8,12]}}"#),
                12,
                "twice",
            ),
            ("[]".to_owned(), 0, "not that of a checkpoint"),
        ] {
            let problem = problem(&file(&header, numbers));
            assert!(problem.contains(expected), "{header}: {problem}");
        }
        assert!(problem(&u64::MAX.to_le_bytes()).contains("cut short"));
        assert!(problem(&[1, 2, 3]).contains("too few"));
    }

    proptest! {
        #[test]
        fn a_changed_byte_is_an_error_or_a_readable_file(at in 0usize..400, flip in 1u8..) {
            let mut bytes = serialize(&example(), Precision::F32, origin()).unwrap();
            let at = at % bytes.len();
            bytes[at] ^= flip;
            if let Ok(tensors) = parse(&bytes, origin()) {
                prop_assert!(values(&tensors).iter().all(|(_, _, v)| v.iter().all(|v| v.is_finite())));
            }
        }

        #[test]
        fn every_truncation_is_an_error(cut in 1usize..300) {
            let bytes = serialize(&example(), Precision::F16, origin()).unwrap();
            prop_assert!(parse(&bytes[..bytes.len().saturating_sub(cut)], origin()).is_err());
        }

        #[test]
        fn no_header_makes_the_parser_panic(header in "[\\[\\]{}\":,0-9a-z]{0,60}", n in 0usize..20) {
            let _ = parse(&file(&header, n), origin());
        }
    }
}
