//! Reading files of which nothing is trusted: plain or gzip, never more bytes than asked for.

use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::path::Path;

use flate2::bufread::MultiGzDecoder;

use crate::error::{Error, Result};

/// Most bytes of pixels that a data set may hold in memory.
pub(super) const MAX_BYTES: usize = 2 << 30;

/// First bytes of a gzip stream.
const GZIP_MAGIC: [u8; 2] = [0x1f, 0x8b];

/// Opens a file.
pub(super) fn open(path: &Path) -> Result<BufReader<File>> {
    let file = File::open(path).map_err(|e| Error::io(path, "open it", e))?;
    Ok(BufReader::new(file))
}

/// What `reader` holds: unpacked if it begins like a gzip stream, whatever its name.
pub(super) fn unpack<'a>(mut reader: impl BufRead + 'a, path: &Path) -> Result<Box<dyn Read + 'a>> {
    let start = reader.fill_buf().map_err(|e| Error::io(path, "read it", e))?;
    if start.starts_with(&GZIP_MAGIC) { Ok(Box::new(MultiGzDecoder::new(reader))) } else { Ok(Box::new(reader)) }
}

/// Exactly the next `n` bytes. Memory grows with the bytes that are there, not with `n`.
pub(super) fn exactly(reader: &mut dyn Read, n: usize, what: &str, path: &Path) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    reader.take(n as u64).read_to_end(&mut bytes).map_err(|e| Error::io(path, &format!("read {what}"), e))?;
    if bytes.len() < n {
        let found = bytes.len();
        return Err(Error::file(path, format!("ends within {what}: {found} of {n} bytes are there; copy it again")));
    }
    Ok(bytes)
}

/// All bytes of `reader`, at most `limit`.
pub(super) fn at_most(mut reader: impl Read, limit: usize, path: &Path) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    reader.by_ref().take(limit as u64 + 1).read_to_end(&mut bytes).map_err(|e| Error::io(path, "read it", e))?;
    if bytes.len() > limit {
        return Err(Error::file(path, format!("is larger than the {limit} bytes that are read")));
    }
    Ok(bytes)
}

/// Checks that nothing follows.
pub(super) fn end(reader: &mut dyn Read, path: &Path) -> Result<()> {
    match exactly_one_more(reader).map_err(|e| Error::io(path, "read its end", e))? {
        false => Ok(()),
        true => Err(Error::file(path, "goes on after the last item that its header declares")),
    }
}

fn exactly_one_more(reader: &mut dyn Read) -> std::io::Result<bool> {
    let mut rest = Vec::new();
    Ok(reader.take(1).read_to_end(&mut rest)? > 0)
}
