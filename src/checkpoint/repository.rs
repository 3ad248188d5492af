//! Models by name and version: those embedded in the program, or those in a folder.
//!
//! A folder holds one checkpoint in each `NAME/VERSION/`; versions are the numbers 1, 2, 3 …, the highest is the
//! latest. Plain files and hidden entries are ignored; a folder whose name is no model name or version is an error,
//! since it is most likely a model that would otherwise silently not be served.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};

use super::embedded::{self, Embedded};
use super::manifest::Manifest;
use super::store::{self, Checkpoint};
use super::tensors::Entry;
use crate::domain::{ModelId, ModelRef};
use crate::error::{Error, Result};

/// Longest model name in bytes.
pub const MAX_NAME_BYTES: usize = 64;
/// Most models in a folder.
const MAX_MODELS: usize = 10_000;

/// Where models come from. What there is, is read once, when it is opened.
#[derive(Debug, Clone)]
pub struct Repository {
    place: Place,
    models: Vec<ModelId>,
}

#[derive(Debug, Clone)]
enum Place {
    Embedded(&'static [Embedded]),
    Folder(PathBuf),
}

/// Where a model is: its folder, or its bytes and what stands for their folder in errors.
enum Found {
    Folder(PathBuf),
    Embedded(&'static Embedded, PathBuf),
}

impl Repository {
    /// The models embedded in the program.
    pub fn embedded() -> Self {
        Self::of_embedded(embedded::MODELS)
    }

    fn of_embedded(table: &'static [Embedded]) -> Self {
        let mut models: Vec<_> = table.iter().map(Embedded::id).collect();
        models.sort();
        Self { place: Place::Embedded(table), models }
    }

    /// The models in the folder `root`.
    ///
    /// # Errors
    /// [`Error::File`] where the folder cannot be read, or a folder in it is named like no model or version.
    pub fn open(root: &Path) -> Result<Self> {
        let mut models = Vec::new();
        for (name, folder) in folders(root)? {
            check_name(&name).map_err(|problem| Error::file(&folder, problem))?;
            for (number, folder) in folders(&folder)? {
                let version = parse_version(&number).map_err(|problem| Error::file(&folder, problem))?;
                models.push(ModelId { name: name.clone(), version });
            }
            if models.len() > MAX_MODELS {
                return Err(Error::file(root, format!("holds more than {MAX_MODELS} models; split it")));
            }
        }
        models.sort();
        Ok(Self { place: Place::Folder(root.to_owned()), models })
    }

    /// The models that are there, by name and version.
    pub fn list(&self) -> &[ModelId] {
        &self.models
    }

    /// Reads and checks a model that is there.
    ///
    /// # Errors
    /// [`Error::NotFound`] where there is no such model; [`Error::File`] where its files are not as they should be.
    pub fn load(&self, id: &ModelId) -> Result<Checkpoint> {
        match self.find(id)? {
            Found::Folder(dir) => Checkpoint::read(&dir),
            Found::Embedded(entry, origin) => Checkpoint::parse(entry.config, entry.weights, &origin),
        }
    }

    /// The manifest of a model that is there and the layout of its weights' file, for people.
    ///
    /// # Errors
    /// As [`Repository::load`].
    pub fn inspect(&self, id: &ModelId) -> Result<(Manifest, Vec<Entry>)> {
        match self.find(id)? {
            Found::Folder(dir) => store::inspect(&dir),
            Found::Embedded(entry, origin) => store::inspect_bytes(entry.config, entry.weights, &origin),
        }
    }

    fn find(&self, id: &ModelId) -> Result<Found> {
        let missing = || self.not_found(&id.to_string());
        if self.models.binary_search(id).is_err() {
            return Err(missing());
        }
        let below = |root: &Path| root.join(&id.name).join(id.version.to_string());
        match &self.place {
            Place::Folder(root) => Ok(Found::Folder(below(root))),
            Place::Embedded(table) => {
                let entry = table.iter().find(|entry| entry.id() == *id).ok_or_else(missing)?;
                Ok(Found::Embedded(entry, below(Path::new("(embedded)"))))
            }
        }
    }

    /// The model that `wanted` names: a name without a version is its latest version, nothing is the `default`, and
    /// where there is no default either, the only name that is there.
    ///
    /// # Errors
    /// [`Error::NotFound`], with the names that are there.
    pub fn resolve(&self, wanted: &ModelRef, default: Option<&ModelRef>) -> Result<ModelId> {
        let wanted = if wanted.name.is_some() { wanted } else { default.unwrap_or(wanted) };
        let name = match (&wanted.name, self.models.first(), self.models.last()) {
            (Some(name), _, _) => name,
            (None, Some(first), Some(last)) if first.name == last.name => &first.name,
            _ => return Err(Error::NotFound(format!("no model was named and there is no default; {}", self.names()))),
        };
        let versions = self.models.iter().filter(|id| id.name == *name);
        let found = versions.filter(|id| wanted.version.is_none_or(|version| id.version == version)).max();
        found.cloned().ok_or_else(|| match wanted.version {
            Some(version) => self.not_found(&format!("{name}@{version}")),
            None => self.not_found(name),
        })
    }

    fn not_found(&self, wanted: &str) -> Error {
        Error::NotFound(format!("there is no model '{wanted}'; {}", self.names()))
    }

    fn names(&self) -> String {
        match self.models.as_slice() {
            [] => "there are no models at all".to_owned(),
            models => {
                let names: Vec<_> = models.iter().map(ToString::to_string).collect();
                format!("there are: {}", names.join(", "))
            }
        }
    }
}

impl Embedded {
    fn id(&self) -> ModelId {
        ModelId { name: self.name.to_owned(), version: self.version }
    }
}

/// Checks that `name` can be a model's name and, since it becomes a folder's, that it cannot lead elsewhere.
///
/// # Errors
/// What is wrong with it, as a sentence.
pub fn check_name(name: &str) -> Result<(), String> {
    let legal = |b: u8| b.is_ascii_alphanumeric() || b"-_.".contains(&b);
    if (1..=MAX_NAME_BYTES).contains(&name.len()) && !name.starts_with('.') && name.bytes().all(legal) {
        return Ok(());
    }
    let rule = "ASCII letters, digits and any of '-_.', not beginning with a dot";
    Err(format!("'{name}' cannot be a model's name: 1 to {MAX_NAME_BYTES} {rule}"))
}

fn parse_version(number: &str) -> Result<u32, String> {
    let version = number.parse::<u32>().ok().filter(|version| *version > 0 && version.to_string() == number);
    version.ok_or_else(|| format!("'{number}' cannot be a model's version: those are the numbers 1, 2, 3 …"))
}

/// The visible folders in `root` by name.
fn folders(root: &Path) -> Result<Vec<(String, PathBuf)>> {
    let listing = std::fs::read_dir(root).and_then(|entries| entries.collect::<Result<Vec<_>, _>>());
    let listing = listing.map_err(|e| Error::io(root, "list the models in it", e))?;
    let paths = listing.iter().map(std::fs::DirEntry::path).filter(|path| path.is_dir());
    let named = paths.map(|path| {
        let name = path.file_name().and_then(OsStr::to_str).map(str::to_owned);
        name.map(|name| (name, path.clone())).ok_or_else(|| Error::file(path, "its name is not UTF-8; rename it"))
    });
    let named = named.collect::<Result<Vec<_>>>()?;
    Ok(named.into_iter().filter(|(name, _)| !name.starts_with('.')).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn repository(folders: &[&str]) -> (tempfile::TempDir, Result<Repository>) {
        let root = tempfile::tempdir().unwrap();
        folders.iter().for_each(|folder| std::fs::create_dir_all(root.path().join(folder)).unwrap());
        let opened = Repository::open(root.path());
        (root, opened)
    }

    fn resolve(folders: &[&str], wanted: &str, default: Option<&str>) -> Result<String> {
        let repository = repository(folders).1?;
        let default: Option<ModelRef> = default.map(|text| text.parse().unwrap());
        repository.resolve(&wanted.parse().unwrap(), default.as_ref()).map(|id| id.to_string())
    }

    #[test]
    fn models_are_listed_in_order_of_name_and_number() {
        let (_root, opened) = repository(&["b/2", "b/10", "a/1", ".hidden/x", "b/.2.new", "empty"]);
        let listed: Vec<_> = opened.unwrap().list().iter().map(ToString::to_string).collect();
        assert_eq!(listed, ["a@1", "b@2", "b@10"]);
    }

    #[test]
    fn references_resolve_to_the_latest_or_the_named_version() {
        let all = ["b/2", "b/10", "a/1"];
        assert_eq!(resolve(&all, "b", None).unwrap(), "b@10");
        assert_eq!(resolve(&all, "b@2", Some("a")).unwrap(), "b@2");
        assert_eq!(resolve(&all, "", Some("b@2")).unwrap(), "b@2");
        assert_eq!(resolve(&["b/2", "b/3"], "", None).unwrap(), "b@3");
        for missing in ["", "c", "b@3"] {
            let error = resolve(&all, missing, None).unwrap_err();
            assert!(matches!(&error, Error::NotFound(text) if text.contains("a@1, b@2, b@10")), "{error}");
        }
        assert!(resolve(&[], "", None).is_err());
    }

    #[test]
    fn names_cannot_lead_out_of_the_folder() {
        for good in ["a", "fashion-mnist", "A_1.5"] {
            assert_eq!(check_name(good), Ok(()));
        }
        for bad in ["", ".", "..", "../a", "a/b", "a\\b", "é", ".hidden", "a b", &"a".repeat(65)] {
            assert!(check_name(bad).is_err(), "{bad}");
        }
        let (_root, opened) = repository(&["a/1"]);
        let escaping = ModelId { name: "../a".into(), version: 1 };
        assert!(matches!(opened.unwrap().load(&escaping), Err(Error::NotFound(_))));
    }

    #[test]
    fn folders_that_are_no_models_are_named() {
        for bad in ["a/latest", "a/0", "a/01", "a b/1"] {
            let error = repository(&[bad]).1.unwrap_err().to_string();
            assert!(error.contains("cannot be a model's"), "{error}");
        }
        assert!(Repository::open(Path::new("no/such/folder")).is_err());
    }

    #[test]
    fn every_embedded_model_loads() {
        let repository = Repository::embedded();
        for id in repository.list() {
            check_name(&id.name).unwrap();
            repository.load(id).unwrap();
        }
        assert_eq!(repository.list().len(), embedded::MODELS.len());
    }
}
