//! How many steps requests ask for: `1:0.4,2:0.3,4:0.2,8:0.1`.

use std::fmt;
use std::str::FromStr;

use super::Random;

/// Most parts of a mix.
const MAX_PARTS: usize = 64;

/// Numbers of steps and the share of requests that ask for each.
#[derive(Debug, Clone, PartialEq)]
pub struct Mix {
    parts: Vec<Part>,
}

/// The requests that ask for the same number of steps.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Part {
    /// Steps, at least 1.
    pub steps: u32,
    /// Share of the requests; those of a mix add up to 1.
    pub share: f64,
}

impl Mix {
    /// Every request asks for the same.
    pub fn fixed(steps: u32) -> Self {
        Self { parts: vec![Part { steps: steps.max(1), share: 1.0 }] }
    }

    /// A mix of `(steps, weight)`; only the ratios of the weights count.
    ///
    /// # Errors
    /// What is wrong with it, as a sentence for the person who wrote it.
    pub fn new(weighted: &[(u32, f64)]) -> Result<Self, String> {
        if weighted.is_empty() || weighted.len() > MAX_PARTS {
            return Err(format!("has {} parts; 1 to {MAX_PARTS} are possible", weighted.len()));
        }
        for (i, &(steps, weight)) in weighted.iter().enumerate() {
            if steps == 0 {
                return Err("asks for 0 steps; a request has at least 1".into());
            }
            if !(weight.is_finite() && weight >= 0.0) {
                return Err(format!("gives {steps} steps the weight {weight}, which is not a number from 0 on"));
            }
            if weighted[..i].iter().any(|&(earlier, _)| earlier == steps) {
                return Err(format!("names {steps} steps twice"));
            }
        }
        let total: f64 = weighted.iter().map(|&(_, weight)| weight).sum();
        if !(total.is_finite() && total > 0.0) {
            return Err("has weights that add up to nothing; at least one must be above 0".into());
        }
        let parts = weighted.iter().filter(|&&(_, weight)| weight > 0.0);
        Ok(Self { parts: parts.map(|&(steps, weight)| Part { steps, share: weight / total }).collect() })
    }

    /// The parts, in the order in which they were given.
    pub fn parts(&self) -> &[Part] {
        &self.parts
    }

    /// Steps of an average request.
    pub fn mean(&self) -> f64 {
        self.parts.iter().map(|part| f64::from(part.steps) * part.share).sum()
    }

    /// The steps of the next request.
    pub fn draw(&self, random: &mut Random) -> u32 {
        let mut left = random.uniform();
        for part in &self.parts {
            left -= part.share;
            if left < 0.0 {
                return part.steps;
            }
        }
        // Shares add up to 1 only within rounding.
        self.parts.last().map_or(1, |part| part.steps)
    }
}

impl fmt::Display for Mix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, Part { steps, share }) in self.parts.iter().enumerate() {
            let comma = if i == 0 { "" } else { "," };
            // Six digits hide the rounding of the division that made shares of weights.
            write!(f, "{comma}{steps}:{}", (share * 1e6).round() / 1e6)?;
        }
        Ok(())
    }
}

impl FromStr for Mix {
    type Err = String;

    /// Reads `STEPS:WEIGHT,…`; a part without a weight has the weight 1.
    fn from_str(text: &str) -> Result<Self, String> {
        let part = |part: &str| {
            let (steps, weight) = part.split_once(':').unwrap_or((part, "1"));
            let steps = steps.trim().parse::<u32>().map_err(|_| format!("'{steps}' is not a number of steps"))?;
            let weight = weight.trim().parse::<f64>().map_err(|_| format!("'{weight}' is not a weight"))?;
            Ok((steps, weight))
        };
        let parts: Result<Vec<_>, String> = text.split(',').map(part).collect();
        parts.and_then(|parts| Self::new(&parts)).map_err(|why| format!("{why}; a mix is like 1:0.4,2:0.3,4:0.2,8:0.1"))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn weights_become_shares() {
        let mix: Mix = "1:4, 2:3,4:2,8:1,16:0".parse().unwrap();
        assert_eq!(mix.to_string(), "1:0.4,2:0.3,4:0.2,8:0.1");
        assert!((mix.mean() - 2.6).abs() < 1e-12);
        assert_eq!("4".parse(), Ok(Mix::fixed(4)));
        assert_eq!("1,3".parse::<Mix>().unwrap().to_string(), "1:0.5,3:0.5");
    }

    #[test]
    fn what_is_no_mix_is_explained() {
        for (text, why) in [
            ("", "'' is not a number of steps"),
            ("0:1", "at least 1"),
            ("1:0.5,1:0.5", "names 1 steps twice"),
            ("1:x", "'x' is not a weight"),
            ("1:-1", "weight -1"),
            ("1:nan", "weight NaN"),
            ("1:0", "add up to nothing"),
            ("1:1e308,2:1e308", "add up to nothing"),
        ] {
            let told = text.parse::<Mix>().unwrap_err();
            assert!(told.contains(why) && told.contains("a mix is like"), "{text}: {told}");
        }
        assert!(Mix::new(&[]).is_err());
    }

    #[test]
    fn draws_follow_the_shares() {
        let mix: Mix = "1:0.4,2:0.3,8:0.3".parse().unwrap();
        let draw = |seed| {
            let mut random = Random::new(seed, 0);
            (0..50_000).map(|_| mix.draw(&mut random)).collect::<Vec<_>>()
        };
        let drawn = draw(5);
        for part in mix.parts() {
            let share = drawn.iter().filter(|&&steps| steps == part.steps).count() as f64 / 50_000.0;
            assert!((share - part.share).abs() < 0.01, "{part:?} {share}");
        }
        assert_eq!(drawn, draw(5));
    }

    proptest! {
        #[test]
        fn any_text_is_read_or_explained(text in "[0-9:,.e-]{0,24}") {
            if let Ok(mix) = text.parse::<Mix>() {
                let total: f64 = mix.parts().iter().map(|part| part.share).sum();
                prop_assert!((total - 1.0).abs() < 1e-9);
            }
        }
    }
}
