//! How requests are spread over servers, by what a balancer before them can know.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use serde::Serialize;

use crate::load::Random;

/// A rule for the next request's server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Balancer {
    /// By turns.
    RoundRobin,
    /// Any.
    Random,
    /// The one with fewer open requests of two that are drawn (Mitzenmacher, "The power of two choices in randomized
    /// load balancing", IEEE TPDS 12, 2001).
    TwoChoices,
    /// The one that expects to be free first, by what it said when something last happened there.
    LeastWait,
}

/// What a balancer knows of a server.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct View {
    /// Requests without an answer yet.
    pub(super) open: usize,
    /// When it expected to finish a new request.
    pub(super) free_at: Duration,
}

/// A balancer at work.
#[derive(Debug)]
pub(super) struct Picker {
    balancer: Balancer,
    random: Random,
    turn: usize,
}

impl Balancer {
    /// Every rule.
    pub const ALL: [Self; 4] = [Self::RoundRobin, Self::Random, Self::TwoChoices, Self::LeastWait];
}

impl Picker {
    pub(super) fn new(balancer: Balancer, random: Random) -> Self {
        Self { balancer, random, turn: 0 }
    }

    /// Whether [`View::free_at`] is looked at.
    pub(super) fn asks_for_waits(&self) -> bool {
        self.balancer == Balancer::LeastWait
    }

    /// The server of the next request.
    pub(super) fn pick(&mut self, servers: &[View], now: Duration) -> usize {
        let count = servers.len().max(1);
        self.turn = (self.turn + 1) % count;
        match self.balancer {
            Balancer::RoundRobin => self.turn,
            Balancer::Random => self.any(count),
            Balancer::TwoChoices if count == 1 => 0,
            Balancer::TwoChoices => {
                let first = self.any(count);
                // Another one: the draw skips the first.
                let second = (first + 1 + self.any(count - 1)) % count;
                if servers[second].open < servers[first].open { second } else { first }
            }
            Balancer::LeastWait => {
                // Servers that are free take turns.
                let order = (self.turn..count).chain(0..self.turn);
                order.min_by_key(|&server| servers[server].free_at.max(now)).unwrap_or(0)
            }
        }
    }

    #[expect(clippy::cast_possible_truncation, reason = "the remainder is below a usize")]
    fn any(&mut self, count: usize) -> usize {
        (self.random.next_u64() % count as u64) as usize
    }
}

impl fmt::Display for Balancer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::RoundRobin => "round-robin",
            Self::Random => "random",
            Self::TwoChoices => "two-choices",
            Self::LeastWait => "least-wait",
        })
    }
}

impl FromStr for Balancer {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let found = Self::ALL.into_iter().find(|balancer| balancer.to_string() == text);
        let all = Self::ALL.map(|balancer| balancer.to_string()).join(", ");
        found.ok_or_else(|| format!("'{text}' is no balancer; one of: {all}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn picks(balancer: Balancer, servers: &[View]) -> Vec<usize> {
        let mut picker = Picker::new(balancer, Random::new(1, 0));
        (0..4000).map(|_| picker.pick(servers, Duration::from_millis(5))).collect()
    }

    fn share(picks: &[usize], server: usize) -> f64 {
        picks.iter().filter(|&&pick| pick == server).count() as f64 / picks.len() as f64
    }

    #[test]
    fn each_looks_at_what_it_says() {
        let view = |open, ms| View { open, free_at: Duration::from_millis(ms) };
        // The first is the fullest, the last is free at once, though not emptier than the second.
        let servers = [view(9, 9), view(1, 8), view(1, 2), view(2, 9)];
        for blind in [Balancer::RoundRobin, Balancer::Random] {
            assert!((share(&picks(blind, &servers), 0) - 0.25).abs() < 0.03, "{blind}");
        }
        let two = picks(Balancer::TwoChoices, &servers);
        assert_eq!(share(&two, 0), 0.0);
        assert!(share(&two, 3) > 0.1 && share(&two, 3) < share(&two, 1));
        assert_eq!(share(&picks(Balancer::LeastWait, &servers), 2), 1.0);
        // Being free since long is no merit.
        let free = [view(0, 1), view(0, 4)];
        assert_eq!(share(&picks(Balancer::LeastWait, &free), 0), 0.5);
        for balancer in Balancer::ALL {
            assert_eq!(share(&picks(balancer, &[view(7, 7)]), 0), 1.0);
            assert_eq!(balancer.to_string().parse(), Ok(balancer));
        }
    }
}
