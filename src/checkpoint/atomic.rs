//! Files and folders that are replaced as a whole: a killed process or a full disk leaves the old content or the new.
//!
//! **One file** is written aside in the same folder (`.NAME.new`), flushed to the disk, and renamed over the old one,
//! which POSIX makes atomic; then the folder is flushed, so that the rename survives a power cut.
//!
//! **A folder** cannot be renamed over a full one. Its files are written into `.NAME.new` beside it and flushed; the
//! old folder, if there is one, is renamed to `.NAME.old`, the new one is renamed into place, the parent is flushed,
//! and the old one is removed. A process killed between the two renames leaves no folder of that name, and both
//! complete ones beside it: the next write puts the old one back before it begins, and [`leftover`] finds it for an
//! error message. At no moment does a folder of that name hold part of its files.
//!
//! The names are fixed, so leavings of a killed process are found and removed; a path has one writer at a time.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};

use crate::error::{Error, Result};

/// Writes `bytes` to the file `path`, making its folder where there is none.
///
/// # Errors
/// [`Error::File`] where the operating system refuses; the file then holds the old content (or, where only the last
/// flush failed, all of the new).
pub fn write_file(path: &Path, bytes: &[u8]) -> Result<()> {
    let parent = parent_of(path);
    fs::create_dir_all(parent).map_err(|e| Error::io(parent, "make the folder", e))?;
    let aside = sibling(path, "new")?;
    let written = write_flushed(&aside, bytes)
        .and_then(|()| fs::rename(&aside, path).map_err(|e| Error::io(path, "put the new file in place", e)));
    if written.is_err() {
        discard(&aside);
    }
    written?;
    flush_folder(parent)
}

/// Makes `dir` a folder of exactly `files` (name and content), making its parents where there are none.
///
/// # Errors
/// [`Error::File`] where the operating system refuses; `dir` is then the old folder (or, where only the last flush
/// failed, the complete new one).
pub fn write_folder(dir: &Path, files: &[(&str, &[u8])]) -> Result<()> {
    let parent = parent_of(dir);
    fs::create_dir_all(parent).map_err(|e| Error::io(parent, "make the folder", e))?;
    let [aside, old] = [sibling(dir, "new")?, sibling(dir, "old")?];
    recover(dir, &aside, &old)?;
    let written = fill(&aside, files).and_then(|()| swap(dir, &aside, &old));
    if written.is_err() {
        discard(&aside);
    }
    written?;
    flush_folder(parent)?;
    discard(&old);
    Ok(())
}

/// The former content of a folder that a killed [`write_folder`] left without its name.
pub fn leftover(dir: &Path) -> Option<PathBuf> {
    let old = sibling(dir, "old").ok()?;
    (!dir.exists() && old.is_dir()).then_some(old)
}

/// Undoes what a killed write left behind.
fn recover(dir: &Path, aside: &Path, old: &Path) -> Result<()> {
    if let Some(old) = leftover(dir) {
        fs::rename(&old, dir).map_err(|e| Error::io(&old, "put it back in place", e))?;
    }
    discard(aside);
    discard(old);
    Ok(())
}

fn fill(dir: &Path, files: &[(&str, &[u8])]) -> Result<()> {
    fs::create_dir(dir).map_err(|e| Error::io(dir, "make the folder", e))?;
    for (name, bytes) in files {
        write_flushed(&dir.join(name), bytes)?;
    }
    flush_folder(dir)
}

/// Puts `aside` in the place of `dir`, which moves to `old`.
fn swap(dir: &Path, aside: &Path, old: &Path) -> Result<()> {
    let replaces = dir.exists();
    if replaces && !dir.is_dir() {
        return Err(Error::file(dir, "is a file where a folder is to be written; move it away"));
    }
    if replaces {
        fs::rename(dir, old).map_err(|e| Error::io(dir, "move the old folder aside", e))?;
    }
    let placed = fs::rename(aside, dir).map_err(|e| Error::io(dir, "put the new folder in place", e));
    if placed.is_err() && replaces {
        fs::rename(old, dir).map_err(|e| Error::io(old, "put it back in place", e))?;
    }
    placed
}

fn write_flushed(path: &Path, bytes: &[u8]) -> Result<()> {
    let write = || -> std::io::Result<()> {
        let mut file = File::create(path)?;
        file.write_all(bytes)?;
        file.sync_all()
    };
    write().map_err(|e| Error::io(path, "write it", e))
}

/// Flushes the names in a folder; only Unix lets a folder be opened for that.
fn flush_folder(dir: &Path) -> Result<()> {
    if cfg!(unix) {
        File::open(dir).and_then(|folder| folder.sync_all()).map_err(|e| Error::io(dir, "flush the folder", e))?;
    }
    Ok(())
}

/// Removes a file or folder as well as it goes: what stays is removed by the next write.
fn discard(path: &Path) {
    let _ = if path.is_dir() { fs::remove_dir_all(path) } else { fs::remove_file(path) };
}

fn sibling(path: &Path, suffix: &str) -> Result<PathBuf> {
    let name = path.file_name().and_then(OsStr::to_str);
    let name = name.ok_or_else(|| Error::file(path, "does not end in a name that is UTF-8; choose another path"))?;
    Ok(path.with_file_name(format!(".{name}.{suffix}")))
}

fn parent_of(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(dir: &Path) -> Vec<String> {
        let entries = fs::read_dir(dir).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap());
        let mut names: Vec<_> = entries.collect();
        names.sort();
        names
    }

    #[test]
    fn a_file_is_replaced_and_nothing_else_is_left() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("deep/state.bin");
        write_file(&path, b"one").unwrap();
        write_file(&path, b"two").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"two");
        assert_eq!(names(path.parent().unwrap()), ["state.bin"]);
    }

    #[test]
    fn a_file_that_cannot_be_replaced_leaves_the_old_content() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("taken");
        fs::create_dir_all(path.join("inside")).unwrap();
        assert!(write_file(&path, b"new").is_err());
        assert!(path.join("inside").is_dir());
        assert_eq!(names(root.path()), ["taken"]);
        assert!(write_file(&root.path().join(".."), b"new").is_err());
    }

    #[test]
    fn a_folder_is_replaced_whole() {
        let root = tempfile::tempdir().unwrap();
        let dir = root.path().join("models/1");
        write_folder(&dir, &[("a", b"1"), ("b", b"2")]).unwrap();
        write_folder(&dir, &[("a", b"3")]).unwrap();
        assert_eq!((names(&dir), fs::read(dir.join("a")).unwrap()), (vec!["a".to_owned()], b"3".to_vec()));
        assert_eq!(names(dir.parent().unwrap()), ["1"]);
    }

    #[test]
    fn a_write_that_fails_half_way_leaves_the_old_folder() {
        let root = tempfile::tempdir().unwrap();
        let dir = root.path().join("1");
        write_folder(&dir, &[("a", b"old")]).unwrap();
        assert!(write_folder(&dir, &[("a", b"new"), ("no/such/folder", b"")]).is_err());
        assert_eq!(fs::read(dir.join("a")).unwrap(), b"old");
        assert_eq!(names(root.path()), ["1"]);
    }

    #[test]
    fn a_file_in_the_place_of_a_folder_is_not_touched() {
        let root = tempfile::tempdir().unwrap();
        let dir = root.path().join("1");
        fs::write(&dir, "mine").unwrap();
        let problem = write_folder(&dir, &[("a", b"new")]).unwrap_err().to_string();
        assert!(problem.contains("is a file"), "{problem}");
        assert_eq!(fs::read(&dir).unwrap(), b"mine");
        assert_eq!(names(root.path()), ["1"]);
    }

    /// The state in which a process killed between the two renames leaves the disk.
    #[test]
    fn the_next_write_recovers_from_a_killed_one() {
        let root = tempfile::tempdir().unwrap();
        let dir = root.path().join("1");
        for (place, content) in [(".1.old", "old"), (".1.new", "half")] {
            fs::create_dir(root.path().join(place)).unwrap();
            fs::write(root.path().join(place).join("a"), content).unwrap();
        }
        assert_eq!(leftover(&dir), Some(root.path().join(".1.old")));
        assert!(write_folder(&dir, &[("no/such/folder", b"")]).is_err());
        assert_eq!(fs::read(dir.join("a")).unwrap(), b"old");
        assert_eq!((names(root.path()), leftover(&dir)), (vec!["1".to_owned()], None));
    }
}
