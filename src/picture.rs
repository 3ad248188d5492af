//! Pictures for people: PNG files, grids of samples with captions, densities of points, charts.
//!
//! A leaf: it takes bytes and gives bytes, and knows no other room but `error`.

pub mod density;
pub mod grid;
pub mod plot;
pub mod png;

mod canvas;

pub use density::Density;
pub use grid::Grid;
pub use plot::{Axis, Chart, Series};

/// Values in `range` as bytes: the ends map to 0 and 255, values beyond them are clamped, halves round away from zero
/// and NaN is 0.
pub fn to_u8(values: &[f32], range: [f32; 2]) -> Vec<u8> {
    let [low, high] = range;
    let scale = 255.0 / (high - low);
    values.iter().map(|value| byte((value - low) * scale)).collect()
}

/// Bytes as values in `range`, the way back from [`to_u8`]: 0 and 255 are the ends.
pub fn to_values(bytes: &[u8], range: [f32; 2]) -> Vec<f32> {
    let [low, high] = range;
    bytes.iter().map(|&byte| low + f32::from(byte) / 255.0 * (high - low)).collect()
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "the cast saturates and maps NaN to 0")]
fn byte(value: f32) -> u8 {
    // What `round` says of these values, in instructions that every processor has for many numbers at a time.
    let whole = value as u8;
    whole.saturating_add(u8::from(value - f32::from(whole) >= 0.5))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_survive_the_way_to_values_and_back() {
        let bytes: Vec<u8> = (0..=255).collect();
        let values: Vec<f32> = bytes.iter().map(|&p| f32::from(p) / 127.5 - 1.0).collect();
        assert_eq!(to_u8(&values, [-1.0, 1.0]), bytes);
        for range in [[-1.0, 1.0], [0.0, 255.0], [-2.0, 5.0]] {
            let values = to_values(&bytes, range);
            assert_eq!((values[0], values[255], to_u8(&values, range)), (range[0], range[1], bytes.clone()));
        }
    }

    #[test]
    fn rounding_is_exact_beside_the_halves() {
        for half in (-1..=256).map(|whole| whole as f32 + 0.5) {
            for value in [half.next_down(), half, half.next_up()] {
                assert_eq!(byte(value), value.round() as u8, "{value}");
            }
        }
    }

    #[test]
    fn values_are_clamped_and_rounded() {
        let values = [-2.0, 1.5, 0.5, f32::NAN, f32::INFINITY, f32::NEG_INFINITY];
        assert_eq!(to_u8(&values, [0.0, 1.0]), [0, 255, 128, 0, 255, 0]);
        assert_eq!(to_u8(&[0.5, 1.5, 2.49], [0.0, 255.0]), [1, 2, 2]);
    }
}
