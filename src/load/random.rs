//! Random numbers for loads: SplitMix64 (Steele, Lea and Flood, "Fast splittable pseudorandom number generators",
//! OOPSLA 2014). Eight bytes of state, equal on every platform, good enough for when a request comes.

/// Increment of the state: 2⁶⁴ divided by the golden ratio, made odd.
const GOLDEN: u64 = 0x9E37_79B9_7F4A_7C15;

/// An endless sequence of random numbers, a pure function of its seed and stream.
#[derive(Debug, Clone)]
pub struct Random(u64);

impl Random {
    /// The sequence `stream` under `seed`: what is drawn from one stream does not move another.
    pub fn new(seed: u64, stream: u64) -> Self {
        Self(mixed(seed ^ mixed(stream.wrapping_add(GOLDEN))))
    }

    /// The next 64 random bits.
    pub fn next_u64(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(GOLDEN);
        mixed(self.0)
    }

    /// The next uniform number in the open interval (0, 1).
    pub fn uniform(&mut self) -> f64 {
        let bits = self.next_u64() >> 12;
        (bits as f64 + 0.5) / (1u64 << 52) as f64
    }

    /// The next exponential number with this mean; 0 for a mean of 0.
    pub fn exponential(&mut self, mean: f64) -> f64 {
        // The logarithm of libm is the same on every platform.
        -mean * libm::log(self.uniform())
    }
}

fn mixed(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_split_mix_64() {
        // The reference implementation's first outputs from a state of 0.
        let mut random = Random(0);
        assert_eq!([random.next_u64(), random.next_u64()], [0xE220_A839_7B1D_CDAF, 0x6E78_9E6A_A1B9_65F4]);
    }

    #[test]
    fn streams_differ_and_repeat() {
        let first = |seed, stream| Random::new(seed, stream).next_u64();
        assert_eq!(first(3, 1), first(3, 1));
        assert!(first(3, 1) != first(3, 2) && first(3, 1) != first(4, 1));
    }

    #[test]
    fn means_are_as_asked() {
        let mut random = Random::new(1, 0);
        let n = 100_000;
        let mean = |draw: &mut dyn FnMut() -> f64| (0..n).map(|_| draw()).sum::<f64>() / f64::from(n);
        assert!((mean(&mut || random.uniform()) - 0.5).abs() < 0.005);
        assert!((mean(&mut || random.exponential(3.0)) - 3.0).abs() < 0.05);
    }
}
