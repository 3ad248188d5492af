//! IDX files, the format of MNIST and Fashion-MNIST, plain or gzip.
//!
//! Big-endian: a magic number (`0x0803` for images, `0x0801` for labels: type "unsigned byte" and the number of
//! dimensions), one 32-bit size for each dimension, then the bytes. Whether a file is compressed is read from its
//! first bytes, not from its name.

use std::io::{BufRead, Read};
use std::path::Path;

use super::Images;
use super::bounded::{self, MAX_BYTES};
use crate::error::{Error, Result};

/// Most items in a file.
pub const MAX_ITEMS: usize = 1 << 20;
/// Largest side of an image in pixels.
pub const MAX_SIDE: usize = 1024;

const IMAGES_MAGIC: u32 = 0x0803;
const LABELS_MAGIC: u32 = 0x0801;

/// Reads a file of images and a file of labels into images of shape `[1, rows, columns]`.
///
/// # Errors
/// [`Error::File`] where a file is missing, is not IDX, is cut short or goes on, exceeds [`MAX_ITEMS`] or
/// [`MAX_SIDE`], or where the two do not belong together or to `classes`.
pub fn read(images: &Path, labels: &Path, classes: Vec<String>) -> Result<Images> {
    let ([count, rows, columns], pixels) = parse_images(bounded::open(images)?, images)?;
    let label_bytes = parse_labels(bounded::open(labels)?, labels)?;
    if label_bytes.len() != count {
        let problem = format!("has {} labels, but {} has {count} images", label_bytes.len(), images.display());
        return Err(Error::file(labels, problem));
    }
    let numbers = label_bytes.into_iter().map(u32::from).collect();
    Images::new([1, rows, columns], pixels, numbers, classes, labels)
}

/// The sizes `[count, rows, columns]` and the bytes of a file of images. `path` is for errors only.
///
/// # Errors
/// As [`read`].
pub fn parse_images(reader: impl BufRead, path: &Path) -> Result<([usize; 3], Vec<u8>)> {
    let mut reader = bounded::unpack(reader, path)?;
    let sizes = header::<3>(&mut reader, IMAGES_MAGIC, path)?;
    if sizes[1..].iter().any(|side| !(1..=MAX_SIDE).contains(side)) {
        let problem = format!("images of {} × {} pixels; sides are 1 to {MAX_SIDE}", sizes[1], sizes[2]);
        return Err(Error::file(path, problem));
    }
    let pixels = body(&mut reader, sizes.iter().product(), path)?;
    Ok((sizes, pixels))
}

/// The bytes of a file of labels. `path` is for errors only.
///
/// # Errors
/// As [`read`].
pub fn parse_labels(reader: impl BufRead, path: &Path) -> Result<Vec<u8>> {
    let mut reader = bounded::unpack(reader, path)?;
    let [count] = header::<1>(&mut reader, LABELS_MAGIC, path)?;
    body(&mut reader, count, path)
}

/// The sizes of a file that begins with `magic`; the first one is the number of items.
fn header<const N: usize>(reader: &mut dyn Read, magic: u32, path: &Path) -> Result<[usize; N]> {
    let found = word(reader, path)?;
    if found != magic {
        let hint = match found {
            IMAGES_MAGIC => " (it holds images, not labels)",
            LABELS_MAGIC => " (it holds labels, not images)",
            _ => "",
        };
        let problem = format!("is not the IDX file expected: magic number {found:#06x}{hint}, expected {magic:#06x}");
        return Err(Error::file(path, problem));
    }
    let mut sizes = [0; N];
    for size in &mut sizes {
        *size = word(reader, path)? as usize;
    }
    match sizes[0] {
        1..=MAX_ITEMS => Ok(sizes),
        count => Err(Error::file(path, format!("declares {count} items; between 1 and {MAX_ITEMS} are read"))),
    }
}

/// The `n` bytes after the header, which are the last ones.
fn body(reader: &mut dyn Read, n: usize, path: &Path) -> Result<Vec<u8>> {
    if n > MAX_BYTES {
        return Err(Error::file(path, format!("declares {n} bytes; at most {MAX_BYTES} are read")));
    }
    let bytes = bounded::exactly(reader, n, "its items", path)?;
    bounded::end(reader, path)?;
    Ok(bytes)
}

fn word(reader: &mut dyn Read, path: &Path) -> Result<u32> {
    let bytes = bounded::exactly(reader, 4, "its header", path)?;
    Ok(bytes.iter().fold(0, |word, &byte| (word << 8) | u32::from(byte)))
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use proptest::prelude::*;

    use super::*;

    fn images_file(count: u32, side: u32, bytes: usize) -> Vec<u8> {
        let words = [IMAGES_MAGIC, count, side, side];
        let header = words.into_iter().flat_map(u32::to_be_bytes);
        header.chain((0..bytes).map(|i| (i % 256) as u8)).collect()
    }

    fn labels_file(labels: &[u8]) -> Vec<u8> {
        let words = [LABELS_MAGIC, labels.len() as u32];
        words.into_iter().flat_map(u32::to_be_bytes).chain(labels.iter().copied()).collect()
    }

    fn gzip(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    }

    fn images(bytes: &[u8]) -> Result<([usize; 3], Vec<u8>)> {
        parse_images(bytes, Path::new("images"))
    }

    fn problem<T>(result: Result<T>) -> String {
        result.err().map(|e| e.to_string()).unwrap_or_default()
    }

    #[test]
    fn plain_and_gzip_files_give_the_same_images() {
        let plain = images_file(3, 5, 75);
        let (sizes, pixels) = images(&plain).unwrap();
        assert_eq!((sizes, pixels.len(), pixels[74]), ([3, 5, 5], 75, 74));
        assert_eq!(images(&gzip(&plain)).unwrap(), (sizes, pixels));
    }

    #[test]
    fn every_truncation_and_every_extra_byte_is_an_error() {
        for whole in [images_file(2, 3, 18), gzip(&images_file(2, 3, 18))] {
            for n in 0..whole.len() {
                assert!(images(&whole[..n]).is_err(), "{n} of {} bytes", whole.len());
            }
            assert!(images(&[whole.as_slice(), &[0]].concat()).is_err());
        }
        assert!(problem(images(&gzip(&images_file(2, 3, 19)))).contains("goes on"));
    }

    #[test]
    fn headers_that_ask_for_too_much_are_refused_before_memory_is_taken() {
        assert!(problem(images(&images_file(u32::MAX, 28, 0))).contains("4294967295 items"));
        assert!(problem(images(&images_file(1, u32::MAX, 0))).contains("sides are 1 to 1024"));
        assert!(problem(images(&images_file(1 << 20, 1024, 0))).contains("at most"));
        assert!(problem(images(&images_file(0, 28, 0))).contains("0 items"));
        assert!(problem(images(&images_file(1 << 20, 28, 10))).contains("10 of 822083584 bytes"));
    }

    #[test]
    fn a_gzip_bomb_is_read_only_as_far_as_its_header_says() {
        let bomb = gzip(&images_file(1, 4, 1 << 24));
        assert!(bomb.len() < 1 << 18);
        assert!(problem(images(&bomb)).contains("goes on"));
    }

    #[test]
    fn swapped_files_are_named() {
        assert!(problem(images(&labels_file(&[1, 2]))).contains("holds labels, not images"));
    }

    #[test]
    fn files_that_do_not_belong_together_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        let [images, labels] = ["images", "labels"].map(|name| folder.path().join(name));
        std::fs::write(&images, images_file(2, 3, 18)).unwrap();
        let read = |bytes: &[u8]| {
            std::fs::write(&labels, labels_file(bytes)).unwrap();
            super::read(&images, &labels, vec!["a".to_owned(), "b".to_owned()])
        };
        assert_eq!(read(&[1, 0]).unwrap().labels(), [1, 0]);
        assert!(problem(read(&[1])).contains("has 1 labels, but"));
        assert!(problem(read(&[1, 2])).contains("label 2 of image 1 is beyond the 2 classes"));
        assert!(problem(super::read(&folder.path().join("none"), &labels, vec![])).contains("none: cannot open it"));
    }

    proptest! {
        #[test]
        fn no_bytes_make_the_parsers_panic(bytes in prop::collection::vec(any::<u8>(), 0..64)) {
            let _ = images(&bytes);
            let _ = images(&[&[0, 0, 8, 3], bytes.as_slice()].concat());
            let _ = images(&[&GZIP_START, bytes.as_slice()].concat());
            let _ = parse_labels(&[&[0, 0, 8, 1], bytes.as_slice()].concat()[..], Path::new("labels"));
        }

        #[test]
        fn a_changed_byte_of_a_gzip_file_is_an_error_or_the_same(at in 0usize..200, flip in 1u8..) {
            let whole = gzip(&images_file(4, 7, 196));
            let mut changed = whole.clone();
            let at = at % whole.len();
            changed[at] ^= flip;
            if let Ok(read) = images(&changed) {
                prop_assert_eq!(read, images(&whole).unwrap());
            }
        }
    }

    const GZIP_START: [u8; 10] = [0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 255];
}
