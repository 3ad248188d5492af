//! Time grids.

/// A strictly monotone sequence of at least two times in `[0, 1]`.
///
/// Increasing grids generate (noise to data), decreasing ones encode.
#[derive(Debug, Clone, PartialEq)]
pub struct TimeGrid(Vec<f64>);

impl TimeGrid {
    /// The uniform grid `i / steps`, `i = 0 … steps`. Zero steps count as one.
    pub fn uniform(steps: u32) -> Self {
        Self::uniform_from(0.0, steps)
    }

    /// `steps` equal steps from `start` to 1; a `start` outside `[0, 1)` counts as 0. Zero steps count as one.
    pub fn uniform_from(start: f64, steps: u32) -> Self {
        let steps = steps.max(1);
        let start = if (0.0..1.0).contains(&start) { start } else { 0.0 };
        let at = |i: u32| start + (1.0 - start) * f64::from(i) / f64::from(steps);
        // The end is set, not computed: an image is finished at exactly t = 1.
        Self((0..steps).map(at).chain([1.0]).collect())
    }

    /// Checks an explicit grid.
    ///
    /// # Errors
    /// What is wrong with it, as a sentence for the person who wrote it.
    pub fn new(times: Vec<f64>) -> Result<Self, String> {
        if times.len() < 2 {
            return Err(format!("needs at least 2 times, has {}", times.len()));
        }
        if let Some((i, t)) = times.iter().enumerate().find(|(_, t)| !(0.0..=1.0).contains(*t)) {
            return Err(format!("time {t} at position {i} is outside [0, 1]"));
        }
        let rising = times[1] > times[0];
        let broken = times.windows(2).position(|w| if rising { w[1] <= w[0] } else { w[1] >= w[0] });
        match broken {
            Some(i) => Err(format!("is not strictly monotone at position {}", i + 1)),
            None => Ok(Self(times)),
        }
    }

    /// The same way in fewer `steps`: uniform where this one is, else through times of this one, as even in number as
    /// possible. More steps than it has, or none, give it back.
    #[must_use]
    pub fn coarsen(&self, steps: u32) -> Self {
        let (own, steps) = (self.steps(), steps as usize);
        if steps == 0 || steps >= own {
            return self.clone();
        }
        let (first, count) = (self.0[0], u32::try_from(own).unwrap_or(u32::MAX));
        if *self == Self::uniform_from(first, count) {
            return Self::uniform_from(first, u32::try_from(steps).unwrap_or(u32::MAX));
        }
        Self((0..=steps).map(|i| self.0[(i * own + steps / 2) / steps]).collect())
    }

    /// The way of an image that has walked the times `walked`, rising, and goes on along the later times of this grid;
    /// `None` where no later time is left.
    #[must_use]
    pub fn after(&self, walked: &[f64]) -> Option<Self> {
        let last = *walked.last()?;
        let later = self.0.iter().copied().filter(|&t| t > last);
        let grid = Self::new(walked.iter().copied().chain(later).collect()).ok()?;
        (grid.steps() >= walked.len()).then_some(grid)
    }

    /// The same times the other way round.
    #[must_use]
    pub fn reversed(&self) -> Self {
        Self(self.0.iter().rev().copied().collect())
    }

    /// The times, first to last.
    pub fn times(&self) -> &[f64] {
        &self.0
    }

    /// The number of intervals.
    pub fn steps(&self) -> usize {
        self.0.len() - 1
    }

    /// Whether the grid runs from noise towards data.
    pub fn is_rising(&self) -> bool {
        self.0[1] > self.0[0]
    }

    /// The intervals `(s, t)` in order.
    pub fn intervals(&self) -> impl Iterator<Item = (f64, f64)> + '_ {
        self.0.windows(2).map(|w| (w[0], w[1]))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn uniform_grids_end_at_exactly_one() {
        for steps in 1..100 {
            let grid = TimeGrid::uniform_from(0.3, steps);
            assert_eq!(grid.steps(), steps as usize);
            assert_eq!(grid.times().last(), Some(&1.0));
        }
        assert_eq!(TimeGrid::uniform(4).times(), [0.0, 0.25, 0.5, 0.75, 1.0]);
    }

    #[test]
    fn explicit_grids_are_checked() {
        assert!(TimeGrid::new(vec![0.0, 0.4, 1.0]).is_ok());
        assert!(TimeGrid::new(vec![1.0, 0.4, 0.0]).is_ok_and(|g| !g.is_rising()));
        assert_eq!(TimeGrid::uniform(2).reversed().times(), [1.0, 0.5, 0.0]);
        for bad in [vec![], vec![0.0], vec![0.0, 0.0], vec![0.0, 0.5, 0.4], vec![0.0, 1.5], vec![0.0, f64::NAN]] {
            assert!(TimeGrid::new(bad.clone()).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn coarser_grids_keep_their_ends_and_their_kind() {
        for steps in 1..20 {
            let fine = TimeGrid::uniform_from(0.25, steps);
            let explicit = TimeGrid::new((0..=steps).map(|i| (f64::from(i) / 20.0).powi(2)).collect()).unwrap();
            for fewer in 1..=steps {
                assert_eq!(fine.coarsen(fewer), TimeGrid::uniform_from(0.25, fewer));
                let coarse = explicit.coarsen(fewer);
                assert!(TimeGrid::new(coarse.times().to_vec()).is_ok() && coarse.steps() == fewer as usize);
                assert!(coarse.times().iter().all(|t| explicit.times().contains(t)));
                assert_eq!((coarse.times()[0], coarse.times().last()), (explicit.times()[0], explicit.times().last()));
            }
        }
        assert_eq!(TimeGrid::new(vec![0.0, 0.1, 0.2, 0.9, 1.0]).unwrap().coarsen(2).times(), [0.0, 0.2, 1.0]);
    }

    #[test]
    fn a_walk_goes_on_along_the_later_times() {
        let grid = TimeGrid::uniform(4);
        assert_eq!(grid.after(&[0.0, 0.5]).unwrap().times(), [0.0, 0.5, 0.75, 1.0]);
        assert_eq!(grid.after(&[0.0, 0.25]).unwrap(), grid);
        assert_eq!(grid.after(&[0.0, 1.0]), None);
        assert_eq!(grid.after(&[]), None);
    }
}
