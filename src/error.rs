//! The crate's error, sorted by *who must act*.
//!
//! Inside the crate errors know nothing of transports: one place in the API maps them to a gRPC status, the command
//! line prints them with their causes. `Display` says what is wrong, where, and what to do, for the person named in
//! the variant; the cause stays in `source` and is logged once, at the boundary. A message that a client sees never
//! carries a path or an internal name.

use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// The crate's result.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What went wrong, by who must act.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The caller must change the request: every field that is wrong.
    #[error("invalid request: {}", Violation::list(.0))]
    Invalid(Vec<Violation>),
    /// The caller named something that is not there.
    #[error("{0}")]
    NotFound(String),
    /// The caller must come back later.
    #[error("{}; retry in {} ms", full(*.predicted), .retry_after.as_millis())]
    Overloaded {
        /// When a retry is likely to be taken.
        retry_after: Duration,
        /// How long the images would take now, where that is what they were refused for.
        predicted: Option<Duration>,
    },
    /// The caller must read what it asked for.
    #[error("the client does not read")]
    Stalled,
    /// The caller's time ran out.
    #[error("the deadline passed before the images were finished")]
    DeadlineExceeded,
    /// The caller went away.
    #[error("the request was cancelled")]
    Cancelled,
    /// The caller must go to another server: this one is stopping, its device is lost, or it cannot be reached.
    #[error("unavailable: {0}")]
    Unavailable(String),
    /// The operator must mend a file.
    #[error("{}: {problem}", path.display())]
    File {
        /// Which file or folder.
        path: PathBuf,
        /// What is wrong with it and what would be right.
        problem: String,
        /// The cause, where a library gave one.
        source: Option<Box<dyn std::error::Error + Send + Sync>>,
    },
    /// The operator must mend the configuration or the command line: every problem at once.
    #[error("{}", lines(.0))]
    Config(Vec<String>),
    /// We must act: the arithmetic or the device failed.
    #[error("computation failed: {0}")]
    Compute(String),
}

impl Error {
    /// A file that is not as it should be.
    pub fn file(path: impl AsRef<Path>, problem: impl fmt::Display) -> Self {
        Self::File { path: path.as_ref().to_owned(), problem: problem.to_string(), source: None }
    }

    /// A file that the operating system refuses.
    pub fn io(path: impl AsRef<Path>, doing: &str, source: std::io::Error) -> Self {
        let problem = format!("cannot {doing}: {source}");
        Self::File { path: path.as_ref().to_owned(), problem, source: Some(source.into()) }
    }

    /// A single wrong field.
    pub fn invalid(field: impl Into<String>, description: impl Into<String>) -> Self {
        Self::Invalid(vec![Violation::new(field, description)])
    }
}

/// A field of a request that is wrong, by its path in the message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Violation {
    /// Path of the field, for example `labels[3]`.
    pub field: String,
    /// What is wrong and what is allowed.
    pub description: String,
}

impl Violation {
    /// A violation.
    pub fn new(field: impl Into<String>, description: impl Into<String>) -> Self {
        Self { field: field.into(), description: description.into() }
    }

    fn list(all: &[Self]) -> String {
        let items: Vec<String> = all.iter().map(|v| format!("{}: {}", v.field, v.description)).collect();
        items.join("; ")
    }
}

fn full(predicted: Option<Duration>) -> String {
    match predicted {
        None => "the server is full".into(),
        Some(wait) => {
            format!("the server is full: the images would take {} ms, longer than their deadline", wait.as_millis())
        }
    }
}

fn lines(problems: &[String]) -> String {
    problems.join("\n")
}
