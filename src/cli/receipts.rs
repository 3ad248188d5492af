//! Receipts in files: a JSON list, as `flowmap generate --receipts` writes it.

use std::path::Path;

use crate::domain::Receipt;
use crate::error::{Error, Result};

/// Reads the receipts of a file, at least one.
///
/// # Errors
/// [`Error::File`] where it cannot be read or is no list of receipts.
pub(super) fn read(path: &Path) -> Result<Vec<Receipt>> {
    let text = std::fs::read_to_string(path).map_err(|e| Error::io(path, "read it", e))?;
    let receipts: Vec<Receipt> = serde_json::from_str(&text)
        .map_err(|e| Error::file(path, format!("is not a list of receipts as `flowmap generate` writes it: {e}")))?;
    if receipts.is_empty() { Err(Error::file(path, "has no receipts")) } else { Ok(receipts) }
}

/// Writes receipts into a file.
///
/// # Errors
/// [`Error::File`] where the operating system refuses.
pub(super) fn write(path: &Path, receipts: &[&Receipt]) -> Result<()> {
    let text = serde_json::to_string_pretty(receipts);
    let text = text.map_err(|e| Error::file(path, format!("cannot be written as JSON: {e}")))? + "\n";
    std::fs::write(path, text).map_err(|e| Error::io(path, "write it", e))
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::domain::{Digest, Sampler};

    /// A receipt of `tiny@1`.
    pub(in crate::cli) fn receipt(index: u32) -> Receipt {
        Receipt {
            model: "tiny@1".into(),
            content_hash: "00".into(),
            seed: 7,
            index,
            label: Some(1),
            guidance: 1.0,
            sampler: Sampler::FlowMap,
            times: vec![0.0, 0.5, 1.0],
            initial_state_digest: None,
            initial_state_noised: false,
            sample_digest: Digest::of(b"a"),
        }
    }

    #[test]
    fn a_file_gives_back_what_was_written() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("receipts.json");
        let receipts =
            [receipt(0), Receipt { label: None, initial_state_digest: Some(Digest::of(b"b")), ..receipt(1) }];
        write(&path, &receipts.iter().collect::<Vec<_>>()).unwrap();
        assert_eq!(read(&path).unwrap(), receipts);
    }

    #[test]
    fn what_is_no_list_of_receipts_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("receipts.json");
        assert!(read(&path).is_err());
        for (text, why) in
            [("[]", "no receipts"), ("{}", "not a list of receipts"), ("[{\"seed\": 1}]", "missing field")]
        {
            std::fs::write(&path, text).unwrap();
            assert!(read(&path).unwrap_err().to_string().contains(why), "{text}");
        }
    }
}
