//! What is simulated: servers, what their forwards cost, and what requests want.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use serde::Serialize;

use super::Balancer;
use crate::scheduler::Limits;
use crate::scheduler::cost::Line;

/// A cluster of equal servers, and what its clients want.
#[derive(Debug, Clone)]
pub struct Scenario {
    /// What a forward costs, in seconds.
    pub cost: Line,
    /// Standard deviation of the logarithm of what a forward takes over what it costs; 0 for exactly that.
    pub noise: f64,
    /// Bounds and policy of every server; the baselines look at the rows only.
    pub limits: Limits,
    /// Servers, at least 1.
    pub servers: usize,
    /// Devices of each server, at least 1.
    pub devices: usize,
    /// How requests are spread over the servers.
    pub balancer: Balancer,
    /// Within what requests want to be answered, where they do not say themselves.
    pub slo: Slo,
    /// The fewest steps that requests allow; those that ask for fewer allow what they ask for.
    pub min_steps: u32,
    /// Of the noise and the balancer.
    pub seed: u64,
}

impl Scenario {
    /// What a forward of `rows` rows costs.
    pub fn forward(&self, rows: usize) -> Duration {
        let seconds = self.cost.base + self.cost.per_row * rows as f64;
        Duration::try_from_secs_f64(seconds).unwrap_or(Duration::MAX)
    }

    /// Requests a second that the cluster can do with full forwards, where requests take `mean_steps` on average.
    pub fn capacity(&self, mean_steps: f64) -> f64 {
        let rows = self.limits.max_rows as f64;
        let rows_per_s = rows / (self.cost.base + self.cost.per_row * rows);
        (self.servers * self.devices) as f64 * rows_per_s / mean_steps.max(1.0)
    }
}

/// Within what requests want to be answered, by the steps that they ask for: `100` or `100,4:200,8:400` in
/// milliseconds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Slo {
    /// Those without a time of their own, in milliseconds.
    pub default_ms: u32,
    /// By steps, in milliseconds.
    pub by_steps_ms: BTreeMap<u32, u32>,
}

impl Slo {
    /// The same for all.
    pub fn all(default_ms: u32) -> Self {
        Self { default_ms, by_steps_ms: BTreeMap::new() }
    }

    /// Of a request for `steps` steps.
    pub fn of(&self, steps: u32) -> Duration {
        Duration::from_millis(self.by_steps_ms.get(&steps).copied().unwrap_or(self.default_ms).into())
    }
}

impl fmt::Display for Slo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.default_ms)?;
        self.by_steps_ms.iter().try_for_each(|(steps, ms)| write!(f, ",{steps}:{ms}"))
    }
}

impl FromStr for Slo {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let whole = |text: &str| {
            let value = text.trim().parse::<u32>().ok().filter(|&n| n > 0);
            value.ok_or_else(|| format!("'{text}' is not a whole number above 0; write 100 or 100,4:200,8:400"))
        };
        let mut parts = text.split(',');
        let mut slo = Self::all(whole(parts.next().unwrap_or_default())?);
        for part in parts {
            let (steps, ms) = part.split_once(':').ok_or_else(|| format!("'{part}' is not like 8:400"))?;
            if slo.by_steps_ms.insert(whole(steps)?, whole(ms)?).is_some() {
                return Err(format!("names {steps} steps twice"));
            }
        }
        Ok(slo)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::simulate::tests::reference;

    #[test]
    fn capacity_is_full_forwards() {
        let scenario = Scenario { servers: 3, devices: 2, ..reference() };
        assert_eq!(scenario.forward(32), Duration::from_millis(12));
        // 6 devices, 32 rows in 12 ms, 2.6 steps.
        assert!((scenario.capacity(2.6) - 6.0 * 32.0 / 0.012 / 2.6).abs() < 1e-6);
    }

    #[test]
    fn times_are_given_for_all_or_by_steps() {
        let slo: Slo = "100,8:400,4:200".parse().unwrap();
        let ms = |steps| slo.of(steps).as_millis();
        assert_eq!((ms(1), ms(4), ms(8)), (100, 200, 400));
        assert_eq!(slo.to_string(), "100,4:200,8:400");
        for bad in ["", "0", "x", "100,8", "100,8:0", "8:100", "1,2:3,2:4"] {
            assert!(bad.parse::<Slo>().is_err(), "{bad}");
        }
    }
}
