//! Checkpoints on disk: reading, checking and writing the two files.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use candle_core::Tensor;

use super::atomic;
use super::manifest::{Manifest, WeightsRecord};
use super::tensors::{self, Entry, Precision};
use crate::error::{Error, Result};

/// Name of the manifest's file.
pub const CONFIG_FILE: &str = "config.json";
/// Name of the weights' file.
pub const WEIGHTS_FILE: &str = "model.safetensors";
/// Largest file of weights in bytes.
pub const MAX_WEIGHTS_BYTES: usize = 4 << 30;
/// Largest manifest in bytes.
pub const MAX_CONFIG_BYTES: usize = 4 << 20;

/// A model at rest: its manifest and its weights.
#[derive(Debug, Clone)]
pub struct Checkpoint {
    /// Everything but the weights.
    pub manifest: Manifest,
    /// The weights by name: f32 on the CPU, all finite.
    pub tensors: BTreeMap<String, Tensor>,
    /// Where they came from, for messages.
    pub origin: PathBuf,
}

impl Checkpoint {
    /// Reads and checks the checkpoint in the folder `dir`.
    ///
    /// # Errors
    /// [`Error::File`] where a file is missing, too large, damaged, of another schema, or does not belong to the other.
    pub fn read(dir: &Path) -> Result<Self> {
        let (config, weights) = read_files(dir)?;
        Self::parse(&config, &weights, dir)
    }

    /// Checks a checkpoint in memory: the bytes of its two files. `origin` names its folder in errors.
    ///
    /// # Errors
    /// As [`Checkpoint::read`].
    pub fn parse(config: &[u8], weights: &[u8], origin: &Path) -> Result<Self> {
        let manifest = parse_checked(config, weights, origin)?;
        let weights_path = origin.join(WEIGHTS_FILE);
        let tensors = tensors::parse(weights, &weights_path)?;
        let parameters = count(&tensors);
        if parameters != manifest.weights.parameters {
            let declared = manifest.weights.parameters;
            let problem = format!("holds {parameters} weights, but {CONFIG_FILE} declares {declared}");
            return Err(Error::file(weights_path, problem));
        }
        Ok(Self { manifest, tensors, origin: origin.to_owned() })
    }

    /// Writes a checkpoint into the folder `dir`, replacing one that is there as a whole or not at all (see
    /// [`atomic`]). The manifest's weights record is filled in, whatever it held; returns the manifest as written.
    ///
    /// # Errors
    /// [`Error::File`] where the manifest breaks a bound, a weight is not finite or beyond `precision`, or the
    /// operating system refuses; what was there is then still there.
    pub fn write(
        dir: &Path,
        manifest: Manifest,
        tensors: &BTreeMap<String, Tensor>,
        precision: Precision,
    ) -> Result<Manifest> {
        let weights_path = dir.join(WEIGHTS_FILE);
        let weights = tensors::serialize(tensors, precision, &weights_path)?;
        if weights.len() > MAX_WEIGHTS_BYTES {
            let problem = format!("would take {} bytes; at most {MAX_WEIGHTS_BYTES} are read back", weights.len());
            return Err(Error::file(weights_path, problem));
        }
        let record = WeightsRecord { parameters: count(tensors), blake3: content_hash(&weights) };
        let manifest = Manifest { weights: record, ..manifest };
        let config = manifest.to_json(&dir.join(CONFIG_FILE))?;
        atomic::write_folder(dir, &[(CONFIG_FILE, config.as_bytes()), (WEIGHTS_FILE, &weights)])?;
        Ok(manifest)
    }
}

/// Changes what `config.json` of the checkpoint in `dir` says beside its weights, which stay as they are.
///
/// # Errors
/// As [`Checkpoint::read`], and [`Error::File`] where the manifest breaks a bound or the operating system refuses; the
/// file is then as it was.
pub fn annotate(dir: &Path, change: impl FnOnce(&mut Manifest)) -> Result<Manifest> {
    let (mut manifest, _) = inspect(dir)?;
    let weights = manifest.weights.clone();
    change(&mut manifest);
    manifest.weights = weights;
    let path = dir.join(CONFIG_FILE);
    atomic::write_file(&path, manifest.to_json(&path)?.as_bytes())?;
    Ok(manifest)
}

/// The manifest of the checkpoint in `dir` and the layout of its weights' file, for people; the content hash is
/// checked, the numbers are not read.
///
/// # Errors
/// As [`Checkpoint::read`].
pub fn inspect(dir: &Path) -> Result<(Manifest, Vec<Entry>)> {
    let (config, weights) = read_files(dir)?;
    inspect_bytes(&config, &weights, dir)
}

/// The same of a checkpoint in memory: the bytes of its two files. `origin` names its folder in errors.
///
/// # Errors
/// As [`Checkpoint::read`].
pub fn inspect_bytes(config: &[u8], weights: &[u8], origin: &Path) -> Result<(Manifest, Vec<Entry>)> {
    let manifest = parse_checked(config, weights, origin)?;
    let entries = tensors::index(weights, &origin.join(WEIGHTS_FILE))?;
    Ok((manifest, entries))
}

/// BLAKE3 of a file's bytes, in hexadecimal.
pub fn content_hash(bytes: &[u8]) -> String {
    blake3::hash(bytes).to_hex().to_string()
}

/// The manifest, once it is certain that the weights are the ones it names.
fn parse_checked(config: &[u8], weights: &[u8], origin: &Path) -> Result<Manifest> {
    let manifest = Manifest::parse(config, &origin.join(CONFIG_FILE))?;
    let found = content_hash(weights);
    if found != manifest.weights.blake3 {
        let declared = &manifest.weights.blake3;
        let problem = format!(
            "its BLAKE3 is {found}, but {CONFIG_FILE} declares {declared}: \
             the file is damaged or belongs to another checkpoint; copy both files again"
        );
        return Err(Error::file(origin.join(WEIGHTS_FILE), problem));
    }
    Ok(manifest)
}

fn read_files(dir: &Path) -> Result<(Vec<u8>, Vec<u8>)> {
    if let Some(old) = atomic::leftover(dir) {
        let problem = format!("is missing because a write was interrupted; rename {} to it", old.display());
        return Err(Error::file(dir, problem));
    }
    let config = read_bounded(&dir.join(CONFIG_FILE), MAX_CONFIG_BYTES)?;
    let weights = read_bounded(&dir.join(WEIGHTS_FILE), MAX_WEIGHTS_BYTES)?;
    Ok((config, weights))
}

fn read_bounded(path: &Path, limit: usize) -> Result<Vec<u8>> {
    let file = File::open(path).map_err(|e| Error::io(path, "open it", e))?;
    let mut bytes = Vec::new();
    file.take(limit as u64 + 1).read_to_end(&mut bytes).map_err(|e| Error::io(path, "read it", e))?;
    if bytes.len() > limit {
        return Err(Error::file(path, format!("is larger than the {limit} bytes that are read")));
    }
    Ok(bytes)
}

fn count(tensors: &BTreeMap<String, Tensor>) -> u64 {
    tensors.values().map(|tensor| tensor.elem_count() as u64).sum()
}

#[cfg(test)]
mod tests {
    use candle_core::Device;
    use proptest::prelude::*;

    use super::super::manifest::tests::example;
    use super::*;

    fn weights() -> BTreeMap<String, Tensor> {
        let tensor = |shape: &[usize]| Tensor::full(0.25f32, shape, &Device::Cpu).unwrap();
        BTreeMap::from([("a".to_owned(), tensor(&[2, 5])), ("b".to_owned(), tensor(&[3]))])
    }

    /// The bytes of the two files.
    fn files(precision: Precision) -> (Vec<u8>, Vec<u8>) {
        let root = tempfile::tempdir().unwrap();
        Checkpoint::write(root.path(), example(), &weights(), precision).unwrap();
        let read = |name| std::fs::read(root.path().join(name)).unwrap();
        (read(CONFIG_FILE), read(WEIGHTS_FILE))
    }

    /// Replaces the hash in a manifest by that of `weights`.
    fn rehash(config: &[u8], weights: &[u8]) -> Vec<u8> {
        let mut manifest: Manifest = serde_json::from_slice(config).unwrap();
        manifest.weights.blake3 = content_hash(weights);
        serde_json::to_vec(&manifest).unwrap()
    }

    fn parse(config: &[u8], weights: &[u8]) -> Result<Checkpoint> {
        Checkpoint::parse(config, weights, Path::new("models/x/1"))
    }

    fn problem(config: &[u8], weights: &[u8]) -> String {
        parse(config, weights).err().map(|e| e.to_string()).unwrap_or_default()
    }

    fn values(checkpoint: &Checkpoint) -> Vec<(String, Vec<f32>)> {
        let numbers = |tensor: &Tensor| tensor.flatten_all().unwrap().to_vec1().unwrap();
        checkpoint.tensors.iter().map(|(name, tensor)| (name.clone(), numbers(tensor))).collect()
    }

    #[test]
    fn a_checkpoint_reads_back_as_it_was_written() {
        let root = tempfile::tempdir().unwrap();
        let dir = root.path().join("models/clothes/1");
        for precision in [Precision::F32, Precision::F16] {
            let written = Checkpoint::write(&dir, example(), &weights(), precision).unwrap();
            assert_eq!(written.weights.parameters, 13);
            let read = Checkpoint::read(&dir).unwrap();
            assert_eq!(read.manifest, written);
            assert_eq!(values(&read), values(&Checkpoint { tensors: weights(), ..read.clone() }));
            let (manifest, entries) = inspect(&dir).unwrap();
            assert_eq!((manifest, entries.len(), entries[0].precision), (written, 2, precision));
        }
    }

    #[test]
    fn annotations_leave_the_weights_as_they_are() {
        let root = tempfile::tempdir().unwrap();
        let dir = root.path().join("1");
        let written = Checkpoint::write(&dir, example(), &weights(), Precision::F32).unwrap();
        let changed = annotate(&dir, |manifest| {
            manifest.grids.insert(2, vec![0.0, 0.25, 1.0]);
            manifest.weights.blake3 = "00".repeat(32);
        });
        let changed = changed.unwrap();
        assert_eq!((changed.weights.clone(), changed.grids.len()), (written.weights, 1));
        assert_eq!(Checkpoint::read(&dir).unwrap().manifest, changed);
        assert!(annotate(&dir, |manifest| manifest.noise_scale = -1.0).is_err());
        assert_eq!(Checkpoint::read(&dir).unwrap().manifest, changed);
    }

    #[test]
    fn what_cannot_be_written_leaves_the_old_checkpoint() {
        let root = tempfile::tempdir().unwrap();
        let dir = root.path().join("1");
        let written = Checkpoint::write(&dir, example(), &weights(), Precision::F32).unwrap();
        let diverged = BTreeMap::from([("a".to_owned(), Tensor::new(&[f32::NAN], &Device::Cpu).unwrap())]);
        assert!(Checkpoint::write(&dir, example(), &diverged, Precision::F32).is_err());
        let absurd = Manifest { noise_scale: -1.0, ..example() };
        assert!(Checkpoint::write(&dir, absurd, &weights(), Precision::F32).is_err());
        assert_eq!(Checkpoint::read(&dir).unwrap().manifest, written);
    }

    #[test]
    fn files_that_do_not_belong_together_are_refused() {
        let (config, weights) = files(Precision::F32);
        let (_, other) = files(Precision::F16);
        assert!(problem(&config, &other).contains("belongs to another checkpoint"));
        assert!(problem(&config, &weights[1..]).contains("model.safetensors: its BLAKE3"));
        let mut manifest: Manifest = serde_json::from_slice(&config).unwrap();
        manifest.weights.parameters = 14;
        let miscounted = serde_json::to_vec(&manifest).unwrap();
        assert!(problem(&miscounted, &weights).contains("holds 13 weights, but config.json declares 14"));
    }

    #[test]
    fn missing_files_and_interrupted_writes_are_named() {
        let root = tempfile::tempdir().unwrap();
        let read = |dir: &Path| Checkpoint::read(dir).unwrap_err().to_string();
        assert!(read(root.path()).contains("config.json: cannot open it"));
        std::fs::create_dir(root.path().join(".1.old")).unwrap();
        assert!(read(&root.path().join("1")).contains("a write was interrupted"));
    }

    proptest! {
        #[test]
        fn a_changed_byte_of_the_config_is_an_error_or_the_same_weights(at in 0usize..2000, byte in any::<u8>()) {
            let (config, weights) = files(Precision::F32);
            let mut changed = config.clone();
            let at = at % config.len();
            changed[at] = byte;
            if let Ok(read) = parse(&changed, &weights) {
                prop_assert_eq!(values(&read), values(&parse(&config, &weights).unwrap()));
            }
        }

        #[test]
        fn a_changed_byte_of_the_weights_is_an_error(at in 0usize..400, flip in 1u8..) {
            let (config, weights) = files(Precision::F32);
            let mut changed = weights.clone();
            let at = at % weights.len();
            changed[at] ^= flip;
            prop_assert!(parse(&config, &changed).is_err());
            // With the right hash the parser itself must cope: no panic, and as many finite weights as declared.
            if let Ok(read) = parse(&rehash(&config, &changed), &changed) {
                prop_assert_eq!(count(&read.tensors), 13);
            }
        }
    }
}
