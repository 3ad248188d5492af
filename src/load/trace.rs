//! Recorded loads: a text file with one request a line.
//!
//! `offset_s,steps[,deadline_ms]`, in the order of the offsets; a first line of names, empty lines and lines that begin
//! with `#` are skipped.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use super::Arrival;
use crate::error::{Error, Result};

/// Largest file, in bytes.
const MAX_BYTES: u64 = 64 << 20;
/// Most requests of a trace.
pub const MAX_REQUESTS: usize = 1_000_000;

/// A recorded load.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Trace {
    arrivals: Vec<Arrival>,
}

impl Trace {
    /// Reads a file.
    ///
    /// # Errors
    /// [`Error::File`] where it cannot be read, is too large, or has a line that is no request.
    pub fn read(path: &Path) -> Result<Self> {
        let file = File::open(path).map_err(|e| Error::io(path, "open it", e))?;
        let mut text = String::new();
        // One byte more than is allowed tells a file that is too large from one that just fits.
        file.take(MAX_BYTES + 1).read_to_string(&mut text).map_err(|e| Error::io(path, "read it as text", e))?;
        if text.len() as u64 > MAX_BYTES {
            return Err(Error::file(path, format!("is larger than {} MiB; use a part of it", MAX_BYTES >> 20)));
        }
        Self::parse(&text).map_err(|why| Error::file(path, why))
    }

    /// Reads the text of a file.
    ///
    /// # Errors
    /// The first line that is wrong, as a sentence for the person who wrote it.
    pub fn parse(text: &str) -> Result<Self, String> {
        let mut arrivals: Vec<Arrival> = Vec::new();
        let mut head = true;
        for (number, line) in (1..).zip(text.lines()) {
            let line = line.trim();
            if line.is_empty() || line.starts_with('#') || (head && line.starts_with("offset_s")) {
                continue;
            }
            head = false;
            let arrival = request(line).map_err(|why| format!("line {number}: {why}; a line is like 0.25,4,200"))?;
            if arrivals.last().is_some_and(|last| last.at_s > arrival.at_s) {
                return Err(format!("line {number}: comes before the line above it; sort the lines by their offset"));
            }
            if arrivals.len() == MAX_REQUESTS {
                return Err(format!("line {number}: more than {MAX_REQUESTS} requests; use a part of the trace"));
            }
            arrivals.push(arrival);
        }
        if arrivals.is_empty() {
            return Err("has no request; a line is like 0.25,4,200 for offset_s,steps,deadline_ms".into());
        }
        Ok(Self { arrivals })
    }

    /// The requests, in the order in which they come.
    pub fn arrivals(&self) -> &[Arrival] {
        &self.arrivals
    }

    /// When the last request comes, in seconds.
    pub fn seconds(&self) -> f64 {
        self.arrivals.last().map_or(0.0, |last| last.at_s)
    }
}

fn request(line: &str) -> Result<Arrival, String> {
    let fields: Vec<&str> = line.split(',').map(str::trim).collect();
    let (offset, steps, deadline) = match fields.as_slice() {
        [offset, steps] => (offset, steps, ""),
        [offset, steps, deadline] => (offset, steps, *deadline),
        fields => return Err(format!("has {} fields instead of 2 or 3", fields.len())),
    };
    let at_s = offset.parse::<f64>().ok().filter(|at_s| at_s.is_finite() && *at_s >= 0.0);
    let at_s = at_s.ok_or_else(|| format!("'{offset}' is not an offset in seconds"))?;
    let steps = whole(steps).ok_or_else(|| format!("'{steps}' is not a number of steps"))?;
    let deadline_ms = match deadline {
        "" => None,
        text => Some(whole(text).ok_or_else(|| format!("'{text}' is not a deadline in milliseconds"))?),
    };
    Ok(Arrival { at_s, steps, deadline_ms })
}

fn whole(text: &str) -> Option<u32> {
    text.parse().ok().filter(|&n| n > 0)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn lines_are_requests() {
        let trace = Trace::parse("offset_s,steps,deadline_ms\n# quiet\n\n0, 4\r\n0.5,1,\n0.5,8,250\n").unwrap();
        let arrival = |at_s, steps, deadline_ms| Arrival { at_s, steps, deadline_ms };
        assert_eq!(trace.arrivals(), [arrival(0.0, 4, None), arrival(0.5, 1, None), arrival(0.5, 8, Some(250))]);
        assert_eq!(trace.seconds(), 0.5);
    }

    #[test]
    fn the_wrong_line_is_named() {
        for (text, why) in [
            ("0,4\n-1,4", "line 2: '-1' is not an offset"),
            ("0,0", "line 1: '0' is not a number of steps"),
            ("0,1,0", "'0' is not a deadline"),
            ("0,1,2,3", "has 4 fields"),
            ("0", "has 1 fields"),
            ("1,1\n0,1", "line 2: comes before"),
            ("# nothing\n", "has no request"),
            ("nan,1", "'nan'"),
        ] {
            let told = Trace::parse(text).unwrap_err();
            assert!(told.contains(why), "{told}");
        }
    }

    #[test]
    fn files_are_read_and_bounded() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("trace.csv");
        std::fs::write(&path, "0.25,4,200").unwrap();
        assert_eq!(Trace::read(&path).unwrap().arrivals().len(), 1);
        File::create(&path).unwrap().set_len(MAX_BYTES + 1).unwrap();
        assert!(Trace::read(&path).unwrap_err().to_string().contains("larger than 64 MiB"));
        assert!(Trace::read(&folder.path().join("none")).unwrap_err().to_string().contains("cannot open it"));
    }

    proptest! {
        #[test]
        fn any_text_is_read_or_explained(text in "[0-9.,#\n e-]{0,40}") {
            if let Ok(trace) = Trace::parse(&text) {
                prop_assert!(trace.arrivals().is_sorted_by(|a, b| a.at_s <= b.at_s));
            }
        }
    }
}
