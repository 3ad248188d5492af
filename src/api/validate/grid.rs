//! The time grid of a request: `steps` or `time_grid`, beginning where the initial states are.

use super::{DEFAULT_STEPS, Reader};
use crate::domain::TimeGrid;

/// Where noise is.
const NOISE_TIME: f64 = 0.0;

impl Reader<'_> {
    /// The grid that every image walks.
    pub(super) fn grid(&mut self) -> TimeGrid {
        let explicit = self.request.time_grid.as_ref();
        if explicit.is_some() && self.request.steps.is_some() {
            self.reject("steps", "excludes time_grid: give one of them");
        }
        match explicit {
            Some(grid) => self.explicit_grid(&grid.times),
            None => self.uniform_grid(),
        }
    }

    fn uniform_grid(&mut self) -> TimeGrid {
        let steps = self.request.steps.unwrap_or(DEFAULT_STEPS);
        let start = self.start();
        let steps_fit = (1..=self.limits.max_steps).contains(&steps);
        if !steps_fit {
            self.reject("steps", format!("is {steps}, must be 1 to {}", self.limits.max_steps));
        }
        if !(0.0..1.0).contains(&start) {
            let description = format!("is {start}, must be in [0, 1): the uniform grid runs from here to 1");
            self.reject("initial_state.time", description);
        }
        let grid = TimeGrid::uniform_from(start, if steps_fit { steps } else { 1 });
        // Numbers have an end: equal steps from just below 1 meet.
        if TimeGrid::new(grid.times().to_vec()).is_err() {
            self.reject("initial_state.time", format!("is {start}, too close to 1 for {steps} steps"));
            return TimeGrid::uniform(1);
        }
        grid
    }

    fn explicit_grid(&mut self, times: &[f64]) -> TimeGrid {
        let Some(grid) = self.bounded_grid("time_grid.times", times) else { return TimeGrid::uniform(1) };
        self.begins_at_start(&grid);
        grid
    }

    /// The grid of these times, if it is one and not too long.
    pub(super) fn bounded_grid(&mut self, field: &str, times: &[f64]) -> Option<TimeGrid> {
        let steps = times.len().saturating_sub(1);
        if steps > self.limits.max_steps as usize {
            self.reject(field, format!("has {steps} steps, the most is {}", self.limits.max_steps));
            return None;
        }
        TimeGrid::new(times.to_vec()).map_err(|problem| self.reject(field, problem)).ok()
    }

    fn begins_at_start(&mut self, grid: &TimeGrid) {
        let (first, start) = (grid.times()[0], self.start());
        // Both are the client's own numbers, not results of arithmetic: it can repeat one exactly.
        if first == start {
            return;
        }
        let description = match self.request.initial_state {
            None => format!("begins at {first}, but noise is at 0; send initial_state to begin elsewhere"),
            Some(_) => format!("begins at {first}, but initial_state.time is {start}"),
        };
        self.reject("time_grid.times[0]", description);
    }

    /// The time at which every image begins.
    pub(super) fn start(&self) -> f64 {
        self.request.initial_state.as_ref().map_or(NOISE_TIME, |state| state.time)
    }
}
