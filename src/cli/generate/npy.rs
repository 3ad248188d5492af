//! NumPy's file format, version 1.0: a magic number, the length of a header, the header as a Python literal, the
//! numbers. <https://numpy.org/doc/stable/reference/generated/numpy.lib.format.html>

/// Magic number and version.
const MAGIC: &[u8; 8] = b"\x93NUMPY\x01\x00";
/// The numbers begin at a multiple of this many bytes, so that the file can be mapped.
const ALIGNMENT: usize = 64;

/// An array of little-endian float32, row-major: `numbers` of `shape`.
pub(in crate::cli) fn file(shape: &[usize], numbers: impl Iterator<Item = f32>) -> Vec<u8> {
    let mut file = header(shape);
    file.extend(numbers.flat_map(f32::to_le_bytes));
    file
}

fn header(shape: &[usize]) -> Vec<u8> {
    // A tuple of one has a comma as well.
    let sides: String = shape.iter().map(|side| format!("{side}, ")).collect();
    let shape = if shape.len() > 1 { sides.trim_end_matches(", ") } else { sides.trim_end() };
    let mut text = format!("{{'descr': '<f4', 'fortran_order': False, 'shape': ({shape}), }}");
    let before = MAGIC.len() + size_of::<u16>();
    let end = (before + text.len() + 1).next_multiple_of(ALIGNMENT);
    text += &" ".repeat(end - before - text.len() - 1);
    text.push('\n');
    // A shape of a few dimensions is far below the 64 KiB that version 1.0 can say.
    let length = u16::try_from(text.len()).unwrap_or(u16::MAX);
    [MAGIC.as_slice(), &length.to_le_bytes(), text.as_bytes()].concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_header_is_a_python_literal_of_aligned_length() {
        for (shape, told) in [(vec![], "()"), (vec![3], "(3,)"), (vec![2, 1, 28, 28], "(2, 1, 28, 28)")] {
            let header = header(&shape);
            let length = usize::from(u16::from_le_bytes([header[8], header[9]]));
            let text = std::str::from_utf8(&header[10..]).unwrap();
            assert_eq!((header.len() % ALIGNMENT, text.len()), (0, length));
            let literal = format!("{{'descr': '<f4', 'fortran_order': False, 'shape': {told}, }}");
            assert_eq!(text.trim_end(), literal);
            assert!(text.ends_with('\n'));
        }
    }

    #[test]
    fn numbers_follow_the_header() {
        let file = file(&[2], [1.0, -2.0].into_iter());
        assert_eq!(file[file.len() - 8..], [0, 0, 128, 63, 0, 0, 0, 192]);
    }

    #[test]
    fn candle_reads_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.npy");
        std::fs::write(&path, file(&[2, 3], (0..6u8).map(f32::from))).unwrap();
        let tensor = candle_core::Tensor::read_npy(&path).unwrap();
        assert_eq!(tensor.to_vec2::<f32>().unwrap(), [[0.0, 1.0, 2.0], [3.0, 4.0, 5.0]]);
    }
}
