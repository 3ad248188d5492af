//! What a person sees of a run: a progress bar, a log with one JSON object a line, pictures of samples.

use std::fs::{File, OpenOptions, create_dir_all};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};
use serde::Serialize;

use super::learner::Measured;
use crate::checkpoint::atomic::write_file;
use crate::error::{Error, Result};

/// Weight of the newest loss in the running mean that the bar shows.
const SMOOTHING: f64 = 0.02;

/// Progress of a run.
pub(super) struct Report {
    bar: ProgressBar,
    log: File,
    samples: PathBuf,
    path: PathBuf,
    batch: usize,
    /// Where the current line of the log began: steps and time.
    since: (u64, Instant),
    smoothed: Option<f64>,
}

/// A line of the log.
#[derive(Serialize)]
struct Line {
    step: u64,
    loss: f64,
    gradient_norm: f64,
    learning_rate: f64,
    rows_per_second: f64,
}

impl Report {
    /// Reports into the folder `out`, from `step` of `steps`.
    ///
    /// # Errors
    /// [`Error::File`] when the folder cannot be written.
    pub(super) fn new(out: &Path, step: u64, steps: u64, batch: usize) -> Result<Self> {
        let samples = out.join("samples");
        create_dir_all(&samples).map_err(|e| Error::io(&samples, "make the folder", e))?;
        let path = out.join("log.jsonl");
        let log = OpenOptions::new().create(true).append(true).open(&path);
        let log = log.map_err(|e| Error::io(&path, "open the log", e))?;
        let bar = ProgressBar::new(steps).with_position(step).with_elapsed(Duration::ZERO);
        let template = "{bar:32} {pos}/{len} steps  {msg}  elapsed {elapsed}  left {eta}";
        if let Ok(style) = ProgressStyle::with_template(template) {
            bar.set_style(style);
        }
        bar.reset_eta();
        Ok(Self { bar, log, samples, path, batch, since: (step, Instant::now()), smoothed: None })
    }

    /// Takes note of a step.
    pub(super) fn step(&mut self, measured: &Measured) {
        let mean = self.smoothed.map_or(measured.loss, |mean| mean + SMOOTHING * (measured.loss - mean));
        self.smoothed = Some(mean);
        self.bar.inc(1);
    }

    /// Writes a line of the log for what was measured since the last one.
    ///
    /// # Errors
    /// [`Error::File`] when the disk refuses.
    pub(super) fn line(&mut self, step: u64, measured: &Measured, learning_rate: f64) -> Result<()> {
        let (from, start) = self.since;
        let rows_per_second = (step - from) as f64 * self.batch as f64 / start.elapsed().as_secs_f64().max(1e-9);
        self.since = (step, Instant::now());
        let loss = self.smoothed.unwrap_or(measured.loss);
        self.bar.set_message(format!("loss {loss:.4}  {rows_per_second:.0} rows/s"));
        let line = Line { step, loss, gradient_norm: measured.gradient_norm, learning_rate, rows_per_second };
        let mut text = serde_json::to_string(&line).map_err(|e| Error::file(&self.path, e))?;
        text.push('\n');
        self.log.write_all(text.as_bytes()).map_err(|e| Error::io(&self.path, "write the log", e))
    }

    /// Keeps a picture of samples.
    ///
    /// # Errors
    /// [`Error::File`] when the disk refuses.
    pub(super) fn picture(&self, step: u64, png: &[u8]) -> Result<()> {
        write_file(&self.samples.join(format!("step-{step:07}.png")), png)
    }

    /// Says something above the bar.
    pub(super) fn say(&self, text: &str) {
        // Where there is no terminal the bar is silent, but what it would say is still wanted.
        if self.bar.is_hidden() {
            eprintln!("{text}");
        } else {
            self.bar.println(text);
        }
    }
}

impl Drop for Report {
    fn drop(&mut self) {
        self.bar.abandon();
    }
}
