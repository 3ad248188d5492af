//! Tracing set-up and the one table of metrics: log fields and metrics are an API like any other.

pub mod metrics;

use std::io::IsTerminal;

use serde::{Deserialize, Serialize};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

use crate::error::{Error, Result};

/// How log lines are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line, for collectors.
    Json,
}

/// What is logged and how.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Log {
    /// Text or JSON.
    pub format: LogFormat,
    /// Directives such as `info,flowmap::scheduler=debug`, checked by [`check_filter`].
    pub filter: String,
}

/// Checks a filter's directives.
///
/// # Errors
/// What is wrong with them, as a sentence for the person who wrote them.
pub fn check_filter(directives: &str) -> Result<(), String> {
    EnvFilter::try_new(directives).map(|_| ()).map_err(|e| e.to_string())
}

/// Sends this process's log lines to standard error; standard output belongs to the commands' results.
///
/// # Errors
/// [`Error::Config`] when the filter is wrong or a subscriber is already set.
pub fn init(log: &Log) -> Result<()> {
    let filter = EnvFilter::try_new(&log.filter).map_err(|e| Error::Config(vec![format!("log.filter: {e}")]))?;
    let lines =
        tracing_subscriber::fmt::layer().with_writer(std::io::stderr).with_ansi(std::io::stderr().is_terminal());
    let registry = tracing_subscriber::registry().with(filter);
    let set = match log.format {
        LogFormat::Text => registry.with(lines).try_init(),
        LogFormat::Json => registry.with(lines.json().flatten_event(true).with_span_list(false)).try_init(),
    };
    set.map_err(|e| Error::Config(vec![format!("logging is already set up: {e}")]))
}
