//! CIFAR-10 in its binary version: records of one label byte and 3072 pixels (`[3, 32, 32]`).

use std::io::BufRead;
use std::path::{Path, PathBuf};

use super::bounded::{self, MAX_BYTES};
use super::{Images, Split};
use crate::error::{Error, Result};

/// The classes by label.
pub const CLASSES: [&str; 10] =
    ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"];
/// Bytes of one record.
pub const RECORD_BYTES: usize = 1 + PIXELS;
/// Most bytes of one batch file: ten times those of the published ones.
pub const MAX_FILE_BYTES: usize = 100_000 * RECORD_BYTES;

const SHAPE: [usize; 3] = [3, 32, 32];
const PIXELS: usize = 3 * 32 * 32;

/// Reads the batches of `split` in `dir` (`data_batch_1.bin` … `data_batch_5.bin`, or `test_batch.bin`).
///
/// # Errors
/// [`Error::File`] where a batch is missing, is not a whole number of records, exceeds [`MAX_FILE_BYTES`] or holds a
/// label above 9.
pub fn read(dir: &Path, split: Split) -> Result<Images> {
    let mut pixels = Vec::new();
    let mut labels = Vec::new();
    for path in batches(dir, split) {
        append(bounded::open(&path)?, &path, &mut pixels, &mut labels)?;
    }
    Images::new(SHAPE, pixels, labels, CLASSES.map(str::to_owned).to_vec(), dir)
}

fn batches(dir: &Path, split: Split) -> Vec<PathBuf> {
    match split {
        Split::Train => (1..=5).map(|i| dir.join(format!("data_batch_{i}.bin"))).collect(),
        Split::Test => vec![dir.join("test_batch.bin")],
    }
}

/// Appends the records of one batch file.
fn append(reader: impl BufRead, path: &Path, pixels: &mut Vec<u8>, labels: &mut Vec<u32>) -> Result<()> {
    const { assert!(5 * MAX_FILE_BYTES <= MAX_BYTES) };
    let bytes = bounded::at_most(reader, MAX_FILE_BYTES, path)?;
    if bytes.is_empty() || bytes.len() % RECORD_BYTES != 0 {
        let problem = format!("has {} bytes, not a whole number of records of {RECORD_BYTES}", bytes.len());
        return Err(Error::file(path, problem));
    }
    for (i, record) in bytes.chunks_exact(RECORD_BYTES).enumerate() {
        let label = record[0];
        if usize::from(label) >= CLASSES.len() {
            return Err(Error::file(path, format!("label {label} of record {i} is above 9")));
        }
        labels.push(u32::from(label));
        pixels.extend_from_slice(&record[1..]);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn record(label: u8, pixel: u8) -> Vec<u8> {
        let mut bytes = vec![pixel; RECORD_BYTES];
        bytes[0] = label;
        bytes
    }

    fn parse(bytes: &[u8]) -> Result<Vec<u32>> {
        let (mut pixels, mut labels) = (Vec::new(), Vec::new());
        append(bytes, Path::new("batch"), &mut pixels, &mut labels)?;
        assert_eq!(pixels.len(), labels.len() * PIXELS);
        Ok(labels)
    }

    #[test]
    fn batches_are_read_in_order() {
        let folder = tempfile::tempdir().unwrap();
        for i in 1..=5u8 {
            let name = format!("data_batch_{i}.bin");
            std::fs::write(folder.path().join(name), [record(i, 10 * i), record(0, 0)].concat()).unwrap();
        }
        let images = read(folder.path(), Split::Train).unwrap();
        assert_eq!(images.labels(), [1, 0, 2, 0, 3, 0, 4, 0, 5, 0]);
        assert_eq!(images.get(8).map(|(pixels, label)| (pixels[3071], label)), Some((50, 5)));
        let missing = read(folder.path(), Split::Test).unwrap_err().to_string();
        assert!(missing.contains("test_batch.bin: cannot open it"), "{missing}");
    }

    #[test]
    fn labels_are_checked() {
        assert_eq!(parse(&record(9, 0)).unwrap(), [9]);
        assert!(parse(&record(10, 0)).unwrap_err().to_string().contains("label 10 of record 0"));
    }

    proptest! {
        #[test]
        fn every_truncation_is_an_error(n in 0..2 * RECORD_BYTES) {
            let whole = [record(1, 2), record(3, 4)].concat();
            prop_assert_eq!(parse(&whole[..n]).is_ok(), n == RECORD_BYTES);
        }
    }
}
