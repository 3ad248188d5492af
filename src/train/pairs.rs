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
}

impl Pairs {
    /// The times of `row` of `rows`, from uniform numbers in (0, 1).
    pub(super) fn draw(self, row: usize, rows: usize, mut random: impl FnMut() -> f64) -> (f64, f64) {
        let (a, b) = (random(), random());
        match self {
            Self::Diagonal => (a, a),
            Self::Triangle { diagonal, from_noise } => {
                let place = row as f64 / rows as f64;
                if place < diagonal {
                    (a, a)
                } else if random() < from_noise {
                    (0.0, a)
                } else {
                    (a.min(b), a.max(b))
                }
            }
        }
    }

    /// The pairs at which a network trained on this distribution may be asked.
    pub(super) fn legal(self) -> TimePairs {
        match self {
            Self::Diagonal => TimePairs::Diagonal,
            Self::Triangle { .. } => TimePairs::Triangle,
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
