//! What each setting was set to, and where: raw values in layers, later ones on top.
//!
//! The embedded defaults are the schema. A key that they do not have is a problem, and a value from a text-only source
//! (the environment, a flag) is read as whatever type its default has.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::Path;

use config::{ConfigError, File, FileFormat, Map, Source, Value, ValueKind};

use super::DEFAULTS;
use crate::error::{Error, Result};

/// Variables of the environment that are settings. Two underscores keep clear of the FLOWMAP_PORT and its kin that
/// Kubernetes sets for a service of that name.
const PREFIX: &str = "FLOWMAP__";
/// Between the parts of a key in a variable's name.
const SEPARATOR: &str = "__";
/// Where a value comes from that nobody set.
const DEFAULT_ORIGIN: &str = "default";

/// A setting given on the command line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Override {
    /// The key, for example `log.format`.
    pub key: String,
    /// The value as text.
    pub value: String,
    /// The flag that gave it.
    pub flag: String,
}

/// Raw settings by key, each with its origin.
#[derive(Debug, Clone)]
pub struct Layers {
    defaults: BTreeMap<String, Value>,
    values: BTreeMap<String, Value>,
}

/// This process's environment. The only place that reads it, but for what `main` sets for candle.
#[expect(clippy::disallowed_methods, reason = "this is the one place that the others are told to use")]
pub fn environment() -> impl Iterator<Item = (OsString, OsString)> {
    std::env::vars_os()
}

impl Layers {
    /// Stacks defaults, `file`, `environment` and `flags`.
    ///
    /// # Errors
    /// [`Error::Config`] when the file cannot be read as TOML. Wrong keys and values are found by
    /// [`Config::read`](super::Config::read), all at once.
    pub fn load(
        file: Option<&Path>,
        environment: impl IntoIterator<Item = (OsString, OsString)>,
        flags: impl IntoIterator<Item = Override>,
    ) -> Result<Self> {
        let defaults = File::from_str(DEFAULTS, FileFormat::Toml);
        let mut stack = config::Config::builder().add_source(defaults.clone());
        if let Some(path) = file {
            stack = stack.add_source(Text::file(path)?);
        }
        stack = stack.add_source(Text::environment(environment)).add_source(Text::flags(flags));
        let problem = |e: ConfigError| Error::Config(vec![e.to_string()]);
        let defaults = config::Config::builder().add_source(defaults).build().map_err(problem)?;
        let layered = stack.build().map_err(problem)?;
        Ok(Self { defaults: flatten(defaults.cache), values: flatten(layered.cache) })
    }

    /// Every key there is.
    pub fn keys(&self) -> impl Iterator<Item = &str> {
        self.defaults.keys().map(String::as_str)
    }

    /// Where `key` was set.
    pub fn origin(&self, key: &str) -> String {
        self.values.get(key).and_then(Value::origin).unwrap_or(DEFAULT_ORIGIN).to_owned()
    }

    /// The value of `key`, in the type of its default where it can be read as such, else as it was given.
    pub fn value(&self, key: &str) -> Value {
        let default = self.defaults.get(key);
        let given = self.values.get(key).or(default).cloned().unwrap_or_default();
        default.and_then(|default| coerce(&given, &default.kind)).unwrap_or(given)
    }

    /// Keys that were set and do not exist.
    pub(super) fn unknown(&self) -> impl Iterator<Item = (&str, &Value)> {
        let known = |key: &str| self.defaults.contains_key(key);
        self.values.iter().filter(move |(key, _)| !known(key)).map(|(key, value)| (key.as_str(), value))
    }
}

/// The same value in the type of `like`, if it can be read as such.
fn coerce(given: &Value, like: &ValueKind) -> Option<Value> {
    let kind = match like {
        // The library's own conversion would make numbers of truth values and round fractions.
        ValueKind::I64(_) => match &given.kind {
            ValueKind::I64(number) => ValueKind::I64(*number),
            ValueKind::String(text) => ValueKind::I64(text.trim().parse().ok()?),
            _ => return None,
        },
        ValueKind::Boolean(_) => match &given.kind {
            ValueKind::Boolean(truth) => ValueKind::Boolean(*truth),
            ValueKind::String(text) => ValueKind::Boolean(text.trim().parse().ok()?),
            _ => return None,
        },
        ValueKind::String(_) => ValueKind::String(given.clone().into_string().ok()?),
        ValueKind::Array(_) => match &given.kind {
            ValueKind::String(list) => split(list),
            ValueKind::Array(_) => given.kind.clone(),
            _ => return None,
        },
        _ => return None,
    };
    Some(Value::new(given.origin().map(String::from).as_ref(), kind))
}

fn split(list: &str) -> ValueKind {
    let items = list.split(',').map(str::trim).filter(|item| !item.is_empty());
    ValueKind::Array(items.map(|item| Value::new(None, item)).collect())
}

/// Leaves by dotted key.
fn flatten(root: Value) -> BTreeMap<String, Value> {
    let mut leaves = BTreeMap::new();
    let mut open = vec![(String::new(), root)];
    while let Some((key, value)) = open.pop() {
        match value.kind {
            ValueKind::Table(table) => {
                let path = |name: String| if key.is_empty() { name } else { format!("{key}.{name}") };
                open.extend(table.into_iter().map(|(name, value)| (path(name), value)));
            }
            _ => drop(leaves.insert(key, value)),
        }
    }
    leaves
}

/// A layer whose values know exactly where they came from.
#[derive(Debug, Clone)]
struct Text(Map<String, Value>);

impl Text {
    fn file(path: &Path) -> Result<Self> {
        let problem = |e: &dyn std::fmt::Display| Error::Config(vec![format!("file {}: {e}", path.display())]);
        let text = std::fs::read_to_string(path).map_err(|e| problem(&e))?;
        let parsed = config::Config::builder().add_source(File::from_str(&text, FileFormat::Toml)).build();
        let origin = format!("file {}", path.display());
        let leaves = flatten(parsed.map_err(|e| problem(&e))?.cache);
        Ok(Self(leaves.into_iter().map(|(key, value)| (key, Value::new(Some(&origin), value.kind))).collect()))
    }

    fn environment(variables: impl IntoIterator<Item = (OsString, OsString)>) -> Self {
        let setting = |(name, value): (OsString, OsString)| {
            let name = name.into_string().ok()?;
            let key = name.strip_prefix(PREFIX)?.replace(SEPARATOR, ".").to_lowercase();
            // Not Unicode: shown with replacement characters, and refused as whatever its type is.
            Some((key, Value::new(Some(&format!("environment variable {name}")), value.to_string_lossy().into_owned())))
        };
        Self(variables.into_iter().filter_map(setting).collect())
    }

    fn flags(overrides: impl IntoIterator<Item = Override>) -> Self {
        let setting = |o: Override| (o.key, Value::new(Some(&format!("flag {}", o.flag)), o.value));
        Self(overrides.into_iter().map(setting).collect())
    }
}

impl Source for Text {
    fn clone_into_box(&self) -> Box<dyn Source + Send + Sync> {
        Box::new(self.clone())
    }

    fn collect(&self) -> Result<Map<String, Value>, ConfigError> {
        Ok(self.0.clone())
    }
}
