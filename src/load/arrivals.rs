//! When requests come: Poisson, at equal distances, or in bursts.
//!
//! An arrival process knows nothing of how fast its requests are answered; that is what makes a load *open* (Schroeder,
//! Wierman and Harchol-Balter, "Open versus closed: a cautionary tale", NSDI 2006).

use std::fmt;
use std::str::FromStr;

use serde::Serialize;

use super::{Mix, Random};

/// How much more often requests come within a burst than on average, unless told otherwise.
const DEFAULT_FACTOR: f64 = 4.0;
/// From the beginning of a burst to the next, on average and in seconds, unless told otherwise.
const DEFAULT_PERIOD_S: f64 = 2.0;

/// Streams of [`Random`] that are drawn from: changing the mix does not move the times.
mod stream {
    pub(super) const TIMES: u64 = 1;
    pub(super) const STEPS: u64 = 2;
}

/// A request that is due.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Arrival {
    /// When, in seconds since the load began.
    pub at_s: f64,
    /// Steps that it asks for.
    pub steps: u32,
    /// Its deadline in milliseconds after `at_s`, where it has one of its own.
    pub deadline_ms: Option<u32>,
}

/// How requests are spread over time.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Process {
    /// Independently of each other: exponential gaps.
    Poisson,
    /// At equal distances.
    Constant,
    /// A Poisson process that is switched on and off.
    Bursty(Burst),
}

/// An interrupted Poisson process: exponential times on and off, Poisson arrivals at `factor` times the mean rate while
/// it is on, none while it is off.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Burst {
    /// Rate within a burst over the mean rate, above 1; bursts fill `1 / factor` of the time.
    pub factor: f64,
    /// Mean time from the beginning of a burst to the next, in seconds.
    pub period_s: f64,
}

impl Process {
    /// Endless times of arrival in seconds, rising from 0, with a mean of `rate` a second.
    ///
    /// # Errors
    /// A rate that is not a finite number above 0, as a sentence.
    pub fn offsets(self, rate: f64, seed: u64) -> Result<Offsets, String> {
        if !(rate.is_finite() && rate > 0.0) {
            return Err(format!("{rate} requests a second is not a rate; it must be a number above 0"));
        }
        let mut random = Random::new(seed, stream::TIMES);
        // Begins in the middle of things: within a burst as often as at any other time.
        let burst_left_s = match self {
            Self::Bursty(burst) if random.uniform() < 1.0 / burst.factor => random.exponential(burst.on_s()),
            Self::Bursty(_) | Self::Poisson | Self::Constant => 0.0,
        };
        let now_s = match self {
            Self::Bursty(burst) if burst_left_s == 0.0 => random.exponential(burst.off_s()),
            Self::Bursty(_) | Self::Poisson | Self::Constant => 0.0,
        };
        Ok(Offsets { process: self, gap_s: 1.0 / rate, random, count: 0, now_s, burst_left_s })
    }

    /// Endless requests: times as [`Process::offsets`], steps drawn from `mix`, no deadlines of their own.
    ///
    /// # Errors
    /// As [`Process::offsets`].
    pub fn arrivals(self, rate: f64, mix: &Mix, seed: u64) -> Result<Arrivals, String> {
        let offsets = self.offsets(rate, seed)?;
        Ok(Arrivals { offsets, mix: mix.clone(), random: Random::new(seed, stream::STEPS) })
    }
}

impl Burst {
    fn on_s(self) -> f64 {
        self.period_s / self.factor
    }

    fn off_s(self) -> f64 {
        self.period_s - self.on_s()
    }
}

impl Default for Burst {
    fn default() -> Self {
        Self { factor: DEFAULT_FACTOR, period_s: DEFAULT_PERIOD_S }
    }
}

impl fmt::Display for Process {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Poisson => f.write_str("poisson"),
            Self::Constant => f.write_str("constant"),
            Self::Bursty(Burst { factor, period_s }) => write!(f, "bursty:{factor}:{period_s}"),
        }
    }
}

impl FromStr for Process {
    type Err = String;

    /// Reads `poisson`, `constant`, `bursty` or `bursty:FACTOR:PERIOD_S`.
    fn from_str(text: &str) -> Result<Self, String> {
        let parts: Vec<&str> = text.split(':').collect();
        match parts.as_slice() {
            ["poisson"] => Ok(Self::Poisson),
            ["constant"] => Ok(Self::Constant),
            ["bursty"] => Ok(Self::Bursty(Burst::default())),
            ["bursty", factor, period_s] => {
                let above = |text: &str, least: f64, what: &str| {
                    let value = text.parse::<f64>().ok().filter(|value| value.is_finite() && *value > least);
                    value.ok_or_else(|| format!("'{text}' is not a {what} above {least}"))
                };
                let (factor, period_s) = (above(factor, 1.0, "burst factor")?, above(period_s, 0.0, "period")?);
                Ok(Self::Bursty(Burst { factor, period_s }))
            }
            _ => Err(format!(
                "'{text}' is no arrival process; one of: poisson, constant, bursty, bursty:FACTOR:PERIOD_S"
            )),
        }
    }
}

/// Endless times of arrival, in seconds.
#[derive(Debug, Clone)]
pub struct Offsets {
    process: Process,
    /// Mean gap.
    gap_s: f64,
    random: Random,
    /// Arrivals so far.
    count: u64,
    /// The last arrival, or the beginning of the present burst.
    now_s: f64,
    /// What remains of the present burst.
    burst_left_s: f64,
}

impl Offsets {
    fn in_bursts(&mut self, burst: Burst) -> f64 {
        // A gap that outlasts its burst is drawn again in the next one: exponential gaps have no memory.
        loop {
            let gap_s = self.random.exponential(self.gap_s / burst.factor);
            if gap_s <= self.burst_left_s {
                self.burst_left_s -= gap_s;
                return self.now_s + gap_s;
            }
            self.now_s += self.burst_left_s + self.random.exponential(burst.off_s());
            self.burst_left_s = self.random.exponential(burst.on_s());
        }
    }
}

impl Iterator for Offsets {
    type Item = f64;

    fn next(&mut self) -> Option<f64> {
        self.now_s = match self.process {
            Process::Poisson => self.now_s + self.random.exponential(self.gap_s),
            // Multiplied, not summed up: no error accumulates.
            Process::Constant => self.count as f64 * self.gap_s,
            Process::Bursty(burst) => self.in_bursts(burst),
        };
        self.count += 1;
        Some(self.now_s)
    }
}

/// Endless requests.
#[derive(Debug, Clone)]
pub struct Arrivals {
    offsets: Offsets,
    mix: Mix,
    random: Random,
}

impl Iterator for Arrivals {
    type Item = Arrival;

    fn next(&mut self) -> Option<Arrival> {
        let at_s = self.offsets.next()?;
        Some(Arrival { at_s, steps: self.mix.draw(&mut self.random), deadline_ms: None })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PROCESSES: [Process; 3] =
        [Process::Poisson, Process::Constant, Process::Bursty(Burst { factor: 5.0, period_s: 0.5 })];

    fn within(process: Process, rate: f64, seconds: f64) -> Vec<f64> {
        process.offsets(rate, 3).unwrap().take_while(|&at_s| at_s < seconds).collect()
    }

    /// Variance over mean of the arrivals in windows of a second: 1 for a Poisson process.
    fn dispersion(offsets: &[f64], seconds: usize) -> f64 {
        let mut counts = vec![0.0; seconds];
        offsets.iter().for_each(|&at_s| counts[at_s as usize] += 1.0);
        let mean = counts.iter().sum::<f64>() / seconds as f64;
        counts.iter().map(|count| (count - mean).powi(2)).sum::<f64>() / seconds as f64 / mean
    }

    #[test]
    fn the_mean_rate_is_the_one_asked_for() {
        for process in PROCESSES {
            let offsets = within(process, 40.0, 4000.0);
            let rate = offsets.len() as f64 / 4000.0;
            assert!((rate / 40.0 - 1.0).abs() < 0.05, "{process}: {rate}");
            assert!(offsets.is_sorted() && offsets[0] >= 0.0, "{process}");
        }
    }

    #[test]
    fn processes_differ_in_how_even_they_are() {
        let [poisson, constant, bursty] = PROCESSES.map(|process| dispersion(&within(process, 40.0, 1000.0), 1000));
        assert!(constant < 0.01 && (poisson - 1.0).abs() < 0.2 && bursty > 4.0, "{constant} {poisson} {bursty}");
    }

    #[test]
    fn bursts_fill_their_share_of_the_time() {
        // Fast arrivals show when the process was on: gaps longer than 20 of theirs are times off.
        let burst = Burst { factor: 4.0, period_s: 1.0 };
        let offsets = within(Process::Bursty(burst), 1000.0, 500.0);
        let on: f64 = offsets.windows(2).map(|w| w[1] - w[0]).filter(|gap| *gap < 20.0 / 4000.0).sum();
        assert!((on / 500.0 - 0.25).abs() < 0.04, "{on}");
    }

    #[test]
    fn the_same_seed_gives_the_same_requests_and_the_mix_does_not_move_them() {
        let arrivals = |mix: &str, seed| -> Vec<Arrival> {
            Process::Poisson.arrivals(9.0, &mix.parse().unwrap(), seed).unwrap().take(50).collect()
        };
        let times = |arrivals: Vec<Arrival>| arrivals.iter().map(|arrival| arrival.at_s).collect::<Vec<_>>();
        assert_eq!(arrivals("1,2", 1), arrivals("1,2", 1));
        assert_eq!(times(arrivals("1,2", 1)), times(arrivals("8", 1)));
        assert_ne!(times(arrivals("8", 1)), times(arrivals("8", 2)));
    }

    #[test]
    fn names_are_read_back() {
        for process in PROCESSES {
            assert_eq!(process.to_string().parse(), Ok(process));
        }
        assert_eq!("bursty".parse(), Ok(Process::Bursty(Burst::default())));
        for bad in ["", "gamma", "bursty:1:1", "bursty:2:0", "bursty:2", "bursty:inf:1", "poisson:1"] {
            assert!(bad.parse::<Process>().is_err(), "{bad}");
        }
        for rate in [0.0, -1.0, f64::NAN, f64::INFINITY] {
            assert!(Process::Poisson.offsets(rate, 0).is_err());
        }
    }
}
