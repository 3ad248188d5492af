//! Servers under one policy behind a balancer, event by event in virtual time.
//!
//! Events are arrivals and the ends of forwards; at the same instant forwards end first. A device that is free is asked
//! for its next forward at once, and so is one of the free ones of a server that a request comes to. Everything is a
//! pure function of the scenario and the arrivals.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};
use std::time::Duration;

use super::balancer::{Picker, View};
use super::noise::Noise;
use super::policy::{End, Ended, Kind, Policy, Request};
use super::scenario::Scenario;
use crate::load::{Arrival, Ending, Outcome, Random};

/// Streams of [`Random`] that are drawn from; those of the servers' own measurements lie above.
mod stream {
    pub(super) const NOISE: u64 = 11;
    pub(super) const BALANCER: u64 = 12;
}

/// Arrivals between two calls of `progress`.
const PROGRESS_EVERY: usize = 1024;

/// Runs `arrivals`, which must rise, through servers under the policy `kind`, until the last has its answer; tells
/// `progress` how many more have come. One outcome for each, in their order.
pub fn run(
    scenario: &Scenario,
    kind: Kind,
    arrivals: impl Iterator<Item = Arrival>,
    progress: &dyn Fn(usize),
) -> Vec<Outcome> {
    let mut cluster = Cluster::new(scenario, kind);
    let mut told = 0;
    for arrival in arrivals {
        let at = Duration::try_from_secs_f64(arrival.at_s).unwrap_or_default();
        cluster.run_until(at);
        cluster.arrive(&arrival, at);
        if cluster.outcomes.len() - told == PROGRESS_EVERY {
            progress(PROGRESS_EVERY);
            told += PROGRESS_EVERY;
        }
    }
    cluster.run_until(Duration::MAX);
    progress(cluster.outcomes.len() - told);
    cluster.outcomes
}

/// When a device's work is done, its server, the device, and how long it took.
type Completion = Reverse<(Duration, usize, usize, Duration)>;

struct Cluster<'a> {
    scenario: &'a Scenario,
    servers: Vec<Server>,
    views: Vec<View>,
    completions: BinaryHeap<Completion>,
    picker: Picker,
    noise: Noise,
    outcomes: Vec<Outcome>,
    /// Requests that ended in the event at hand.
    ended: Vec<Ended>,
}

struct Server {
    policy: Box<dyn Policy>,
    /// Its free devices, the one that has been so for longest first.
    free: VecDeque<usize>,
}

impl<'a> Cluster<'a> {
    fn new(scenario: &'a Scenario, kind: Kind) -> Self {
        let random = |stream| Random::new(scenario.seed, stream);
        let server = |number: usize| Server {
            policy: kind.server(scenario, scenario.seed.wrapping_add(number as u64)),
            free: (0..scenario.devices).collect(),
        };
        Self {
            servers: (0..scenario.servers).map(server).collect(),
            views: vec![View::default(); scenario.servers],
            completions: BinaryHeap::new(),
            picker: Picker::new(scenario.balancer, random(stream::BALANCER)),
            noise: Noise::new(scenario.noise, random(stream::NOISE)),
            outcomes: Vec::new(),
            ended: Vec::new(),
            scenario,
        }
    }

    /// Ends every forward that ends by `time`.
    fn run_until(&mut self, time: Duration) {
        while self.completions.peek().is_some_and(|Reverse((at, ..))| *at <= time) {
            let Some(Reverse((now, server, device, elapsed))) = self.completions.pop() else { return };
            self.servers[server].policy.complete(device, elapsed, now, &mut self.ended);
            self.servers[server].free.push_back(device);
            self.start(server, device, now);
            self.settle(server, now);
        }
    }

    fn arrive(&mut self, arrival: &Arrival, now: Duration) {
        let own = arrival.deadline_ms.map(|ms| Duration::from_millis(ms.into()));
        let slo = own.unwrap_or_else(|| self.scenario.slo.of(arrival.steps));
        let request = Request {
            number: self.outcomes.len(),
            steps: arrival.steps,
            min_steps: self.scenario.min_steps.min(arrival.steps),
            deadline: now + slo,
        };
        // Of a request that has not ended the ending is not looked at.
        let open = Outcome::unanswered(arrival.at_s, arrival.steps, Ending::Failed);
        self.outcomes.push(Outcome { deadline_s: Some(slo.as_secs_f32()), ..open });
        let server = self.picker.pick(&self.views, now);
        self.views[server].open += 1;
        self.servers[server].policy.arrive(request, now, &mut self.ended);
        if let Some(&device) = self.servers[server].free.front() {
            self.start(server, device, now);
        }
        self.settle(server, now);
    }

    /// Gives a free device its next work, if there is any.
    fn start(&mut self, server: usize, device: usize, now: Duration) {
        let Server { policy, free } = &mut self.servers[server];
        let Some(work) = policy.next(device, now, &mut self.ended) else { return };
        free.retain(|&other| other != device);
        let elapsed = (self.scenario.forward(work.rows) * work.forwards).mul_f64(self.noise.factor());
        self.completions.push(Reverse((now + elapsed, server, device, elapsed)));
    }

    /// Writes down what ended, and what the balancer gets to know.
    fn settle(&mut self, server: usize, now: Duration) {
        for Ended { number, end } in self.ended.drain(..) {
            self.views[server].open -= 1;
            let open = self.outcomes[number];
            self.outcomes[number] = match end {
                End::Answered(steps) => answered(open, steps, now),
                End::Refused => Outcome { ending: Ending::Refused, ..open },
                End::Expired => Outcome { ending: Ending::Late, ..open },
            };
        }
        if self.picker.asks_for_waits() && self.servers.len() > 1 {
            self.views[server].free_at = self.servers[server].policy.free_at(now);
        }
    }
}

fn answered(open: Outcome, steps: u32, now: Duration) -> Outcome {
    #[expect(clippy::cast_possible_truncation, reason = "a latency needs no more than seven digits")]
    let latency_s = (now.as_secs_f64() - open.at_s) as f32;
    Outcome {
        images: 1,
        full_images: u32::from(steps >= open.steps_asked),
        steps_used: steps,
        first_image_s: Some(latency_s),
        ..Outcome::answered(open.at_s, open.steps_asked, latency_s, open.deadline_s)
    }
}
