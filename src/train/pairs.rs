//! The times `(s, t)` of a batch's rows.

use crate::domain::TimePairs;

/// A distribution of time pairs, stratified over the rows of a batch: which rows lie on the diagonal is fixed, so that
/// whole micro-batches do.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Pairs {
    /// `s = t`, uniform.
    Diagonal,
    /// `s <= t`.
    Triangle {
        /// Fraction of rows with `s = t`, uniform.
        diagonal: f64,
        /// Fraction of the others with `s = 0` and `t` uniform; the rest is uniform on the triangle.
        from_noise: f64,
    },
    /// `s <= t <= s + width`.
    Window {
        /// Fraction of rows with `s = t`.
        diagonal: f64,
        /// Longest jump.
        width: f64,
    },
    /// All of `[0, 1]²`, uniform.
    Square {
        /// Fraction of rows with `s = t`.
        diagonal: f64,
    },
    /// `t = 1`, `s` uniform.
    End,
    /// `t = s + 2^{-k}`, `s` a multiple of it, every `k` as often.
    Dyadic {
        /// Fraction of rows with `s = t`, uniform.
        diagonal: f64,
        /// Smallest `k`: the longest jump.
        coarsest: u32,
        /// Largest `k`.
        finest: u32,
    },
}

impl Pairs {
    /// The times of `row` of `rows`, from uniform numbers in (0, 1).
    pub(super) fn draw(self, row: usize, rows: usize, mut random: impl FnMut() -> f64) -> (f64, f64) {
        let (a, b) = (random(), random());
        if (row as f64) < self.diagonal() * rows as f64 {
            return (a, a);
        }
        match self {
            Self::Diagonal => (a, a),
            Self::Triangle { from_noise, .. } => match random() < from_noise {
                true => (0.0, a),
                false => (a.min(b), a.max(b)),
            },
            Self::Window { width, .. } => {
                let length = a * width;
                let start = b * (1.0 - length);
                (start, start + length)
            }
            Self::Square { .. } => (a, b),
            Self::End => (a, 1.0),
            Self::Dyadic { coarsest, finest, .. } => {
                let levels = f64::from(finest - coarsest + 1);
                let length = 2f64.powf(-(f64::from(coarsest) + (a * levels).floor()));
                let start = (b / length).floor() * length;
                (start, start + length)
            }
        }
    }

    /// The fraction of rows with `s = t`: the first of a batch.
    fn diagonal(self) -> f64 {
        match self {
            Self::Diagonal => 1.0,
            Self::End => 0.0,
            Self::Triangle { diagonal, .. }
            | Self::Window { diagonal, .. }
            | Self::Square { diagonal }
            | Self::Dyadic { diagonal, .. } => diagonal,
        }
    }

    /// The pairs at which a network trained on this distribution may be asked.
    pub(super) fn legal(self) -> TimePairs {
        match self {
            Self::Diagonal => TimePairs::Diagonal,
            Self::Triangle { .. } => TimePairs::Triangle,
            Self::Square { .. } => TimePairs::Square,
            Self::End => TimePairs::End,
            Self::Window { width, .. } if width >= 1.0 => TimePairs::Triangle,
            Self::Dyadic { coarsest: 0, finest, .. } => TimePairs::Dyadic { levels: finest },
            // Between stages: long jumps are not known yet.
            Self::Window { .. } | Self::Dyadic { .. } => TimePairs::Diagonal,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::flow::noise::Stream;

    #[test]
    fn the_triangle_has_its_diagonal_its_edge_and_an_even_rest() {
        let pairs = Pairs::Triangle { diagonal: 0.25, from_noise: 0.5 };
        let drawn: Vec<_> = (0..4000)
            .map(|row| {
                let mut stream = Stream::new(3, u32::try_from(row).unwrap(), 9);
                pairs.draw(row, 4000, || stream.uniform())
            })
            .collect();
        assert!(drawn.iter().all(|(s, t)| s <= t));
        assert!(drawn[..1000].iter().all(|(s, t)| s == t) && drawn[1000..].iter().all(|(s, t)| s < t));
        let edge = drawn[1000..].iter().filter(|(s, _)| *s == 0.0).count();
        assert!((1400..1600).contains(&edge), "{edge}");
        // A uniform point of the triangle has E[t - s] = 1/3.
        let inside: Vec<f64> = drawn[1000..].iter().filter(|(s, _)| *s > 0.0).map(|(s, t)| t - s).collect();
        let mean = inside.iter().sum::<f64>() / inside.len() as f64;
        assert!((mean - 1.0 / 3.0).abs() < 0.02, "{mean}");
    }
}
