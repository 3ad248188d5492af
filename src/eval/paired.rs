//! Paired distance: two samplers from the same noise and class, sample by sample. Far less noisy than a distance
//! between distributions, and zero only where the two make the very same samples.

/// `√(mean over blocks of |a - b|²)`, where a block is `width` numbers: 1 gives the root-mean-square difference of a
/// number, the length of a point that of a point. The sets are of one length.
pub fn root_mean_square(a: &[f32], b: &[f32], width: usize) -> f64 {
    let sum: f64 = a.iter().zip(b).map(|(a, b)| (f64::from(*a) - f64::from(*b)).powi(2)).sum();
    (sum * width as f64 / a.len() as f64).sqrt()
}

/// The median over blocks of `|a - b|`: what a few samples that ended elsewhere do not move.
pub fn median(a: &[f32], b: &[f32], width: usize) -> f64 {
    let blocks = a.chunks_exact(width).zip(b.chunks_exact(width));
    let mut distances: Vec<f64> = blocks.map(|(a, b)| root_mean_square(a, b, width)).collect();
    distances.sort_unstable_by(f64::total_cmp);
    let middle = distances.len() / 2;
    match distances.as_slice() {
        [] => 0.0,
        all if all.len() % 2 == 0 => 0.5 * (all[middle - 1] + all[middle]),
        all => all[middle],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn distances_are_those_of_numbers_or_of_points() {
        let (a, b) = ([0.0, 0.0, 1.0, 1.0], [3.0, 4.0, 1.0, 1.0]);
        assert_eq!(root_mean_square(&a, &b, 1), 2.5);
        assert_eq!(root_mean_square(&a, &b, 2), 12.5f64.sqrt());
        assert_eq!((median(&a, &b, 2), median(&a, &b, 1), median(&a[..2], &b[..2], 2)), (2.5, 1.5, 5.0));
    }
}
