//! The house rules that no compiler knows: arrows between rooms, budgets of files and functions, a head in every file.

use std::fs;
use std::path::{Path, PathBuf};

/// Most lines of a file.
const FILE_LINES: usize = 500;
/// Most lines of a function, from its `fn` to its closing brace.
const FUNCTION_LINES: usize = 70;

/// Which rooms a room may use, apart from itself and the common ones.
const ARROWS: &[(&str, &[&str])] = &[
    ("domain", &[]),
    ("error", &[]),
    ("picture", &[]),
    ("load", &[]),
    ("telemetry", &[]),
    ("data", &[]),
    ("config", &["api", "scheduler", "shutdown"]),
    ("checkpoint", &[]),
    ("flow", &[]),
    ("model", &["flow", "checkpoint"]),
    ("engine", &["flow", "model", "checkpoint"]),
    ("scheduler", &["engine"]),
    ("simulate", &["scheduler", "engine"]),
    ("api", &["scheduler"]),
    ("shutdown", &[]),
    ("train", &["flow", "model", "checkpoint", "data"]),
    ("eval", &["flow", "model", "checkpoint", "data"]),
    ("study", &["train", "eval", "checkpoint"]),
    ("app", &["api", "scheduler", "engine", "model", "checkpoint", "config", "shutdown"]),
    (
        "cli",
        &[
            "app",
            "api",
            "config",
            "flow",
            "model",
            "checkpoint",
            "data",
            "train",
            "eval",
            "study",
            "shutdown",
            "scheduler",
            "simulate",
        ],
    ),
];

/// What every room may use.
const COMMON: &[&str] = &["domain", "error", "picture", "telemetry", "load"];

/// Crates that only some rooms may know.
const CONFINED: &[(&str, &[&str])] = &[
    ("tonic", &["api"]),
    ("prost", &["api"]),
    ("axum", &["api"]),
    ("candle_core", &["flow", "model", "engine", "checkpoint", "train", "eval", "app", "cli"]),
    ("candle_nn", &["flow", "model", "checkpoint", "train", "eval"]),
    ("clap", &["cli", "config"]),
];

#[test]
fn the_documentation_lists_every_metric() {
    let text = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/OPERATIONS.md")).unwrap();
    let is_missing = |name: &&str| !text.contains(&format!("`{name}`"));
    let missing: Vec<&str> = flowmap::telemetry::metrics::TABLE.iter().map(|m| m.name).filter(is_missing).collect();
    assert!(missing.is_empty(), "docs/OPERATIONS.md does not list {missing:?}");
}

#[test]
fn rooms_use_each_other_only_along_the_arrows() {
    let mut broken = Vec::new();
    for file in sources("src") {
        let Some(room) = file.room() else { continue };
        let Some((_, allowed)) = ARROWS.iter().find(|(name, _)| *name == room) else {
            broken.push(format!("{}: '{room}' is not a room; give it its arrows here", file.name()));
            continue;
        };
        for (number, used) in file.rooms_used() {
            let fine = used == room || COMMON.contains(&used.as_str()) || allowed.contains(&used.as_str());
            if !fine {
                broken.push(format!("{}:{number}: '{room}' may not use '{used}'", file.name()));
            }
        }
        for (name, rooms) in CONFINED {
            if !rooms.contains(&room.as_str()) && file.code().any(|(_, line)| line.contains(&format!("{name}::"))) {
                broken.push(format!("{}: only {rooms:?} may know {name}", file.name()));
            }
        }
    }
    assert!(broken.is_empty(), "{}", broken.join("\n"));
}

#[test]
fn files_and_functions_keep_their_budgets() {
    let mut broken = Vec::new();
    for file in ["src", "tests", "examples", "benches"].into_iter().flat_map(sources) {
        let lines = file.text.lines().count();
        if lines > FILE_LINES {
            broken.push(format!("{}: {lines} lines, more than {FILE_LINES}", file.name()));
        }
        for (start, length) in file.functions() {
            if length > FUNCTION_LINES {
                broken
                    .push(format!("{}:{start}: a function of {length} lines, more than {FUNCTION_LINES}", file.name()));
            }
        }
    }
    assert!(broken.is_empty(), "{}", broken.join("\n"));
}

#[test]
fn every_file_opens_by_saying_what_it_is_for() {
    let mute: Vec<_> = ["src", "tests", "examples", "benches"]
        .into_iter()
        .flat_map(sources)
        .filter(|file| !file.text.starts_with("//! "))
        .map(|file| file.name())
        .collect();
    assert!(mute.is_empty(), "no `//!` head: {mute:?}");
}

#[test]
fn every_file_is_a_module_of_the_crate() {
    let orphans: Vec<_> =
        sources("src").into_iter().filter(|file| !file.is_declared()).map(|file| file.name()).collect();
    assert!(orphans.is_empty(), "declared by no `mod`: {orphans:?}");
}

/// A Rust file of the repository.
struct Source {
    /// Relative to the repository.
    path: PathBuf,
    text: String,
}

impl Source {
    fn name(&self) -> String {
        self.path.display().to_string()
    }

    /// The room that the file belongs to; none for the crate's roots.
    fn room(&self) -> Option<String> {
        let inside = self.path.strip_prefix("src").ok()?;
        let first = inside.iter().next()?.to_str()?;
        let room = first.trim_end_matches(".rs");
        (!["lib", "main"].contains(&room)).then(|| room.to_owned())
    }

    /// Lines that are code: neither comments nor unit tests, which may reach wherever they like.
    fn code(&self) -> impl Iterator<Item = (usize, &str)> {
        let tests = self.path.ends_with("tests.rs") || self.path.iter().any(|part| part == "tests");
        let lines = self.text.lines().enumerate().map(|(index, line)| (index + 1, line));
        lines
            .take_while(move |(_, line)| !tests && !line.starts_with("mod tests {"))
            .filter(|(_, line)| !line.trim_start().starts_with("//"))
    }

    /// Every room named by a path from the crate's root, with the line.
    fn rooms_used(&self) -> Vec<(usize, String)> {
        let mut used = Vec::new();
        for (number, line) in self.code() {
            for (start, _) in line.match_indices("crate::") {
                let rest = &line[start + "crate::".len()..];
                let names = rest.strip_prefix('{').map_or(rest, |list| list.trim_end_matches(['}', ';']));
                let grouped = rest.starts_with('{');
                for name in names.split(", ").take(if grouped { usize::MAX } else { 1 }) {
                    let name: String = name.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
                    if ARROWS.iter().any(|(room, _)| *room == name) {
                        used.push((number, name));
                    }
                }
            }
        }
        used
    }

    /// First line and number of lines of every function. The code is formatted, so a function ends at the first line
    /// that is a closing brace at its own indentation.
    fn functions(&self) -> Vec<(usize, usize)> {
        let lines: Vec<_> = self.text.lines().collect();
        let mut functions = Vec::new();
        for (start, line) in lines.iter().enumerate() {
            let trimmed = line.trim_start();
            let signature = trimmed.split('(').next().unwrap_or_default();
            if !signature.split_whitespace().any(|word| word == "fn") || trimmed.starts_with("//") {
                continue;
            }
            // A trait's signature has no body: it ends before any line that opens one.
            let ends = |line: &&str| line.ends_with([';', '{', '}']);
            if lines[start..].iter().find(|line| ends(line)).is_some_and(|line| line.ends_with(';')) {
                continue;
            }
            let close = format!("{}}}", &line[..line.len() - trimmed.len()]);
            if let Some(length) = lines[start..].iter().position(|line| *line == close) {
                functions.push((start + 1, length + 1));
            }
        }
        functions
    }

    /// Whether the file above declares this one as a module.
    fn is_declared(&self) -> bool {
        let (Some(parent), Some(stem)) = (self.path.parent(), self.path.file_stem().and_then(|s| s.to_str())) else {
            return false;
        };
        if parent == Path::new("src") && ["lib", "main"].contains(&stem) {
            return true;
        }
        let above = if parent == Path::new("src") { parent.join("lib.rs") } else { parent.with_extension("rs") };
        let text = fs::read_to_string(root().join(above)).unwrap_or_default();
        text.lines().any(|line| line.trim_end_matches([';', '{', ' ']).ends_with(&format!("mod {stem}")))
    }
}

/// All Rust files under a folder of the repository.
fn sources(folder: &str) -> Vec<Source> {
    let mut found = Vec::new();
    let mut folders = vec![PathBuf::from(folder)];
    while let Some(folder) = folders.pop() {
        let Ok(entries) = fs::read_dir(root().join(&folder)) else { continue };
        for entry in entries.map(|entry| entry.unwrap()) {
            let path = folder.join(entry.file_name());
            if entry.file_type().unwrap().is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let text = fs::read_to_string(entry.path()).unwrap();
                found.push(Source { path, text });
            }
        }
    }
    found.sort_by(|a, b| a.path.cmp(&b.path));
    found
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}
