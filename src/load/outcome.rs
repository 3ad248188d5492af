//! What became of a request.

use serde::Serialize;

/// How a request ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Ending {
    /// Every image came, and before the deadline where there was one.
    InTime,
    /// Every image came but the last one after the deadline, or the server gave the request up at its deadline.
    Late,
    /// The server was too full to take it.
    Refused,
    /// Anything else went wrong.
    Failed,
    /// The load generator had as many open requests as it may have, and did not send it.
    NotSent,
}

/// One request and what became of it: small, so that millions fit into memory.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Outcome {
    /// When it was due, in seconds since the measurement began.
    pub at_s: f64,
    /// Steps that it asked for: its class in a [`Summary`](super::Summary).
    pub steps_asked: u32,
    /// How it ended.
    pub ending: Ending,
    /// Seconds from when it was due to its last image; none where they did not all come.
    pub latency_s: Option<f32>,
    /// Its deadline in seconds, if it had one.
    pub deadline_s: Option<f32>,
    /// Images that came.
    pub images: u32,
    /// Those of them with all the steps that were asked for.
    pub full_images: u32,
    /// Steps of all images together.
    pub steps_used: u32,
    /// Seconds from when it was due to its first image.
    pub first_image_s: Option<f32>,
    /// Seconds from when it was due to its first preview.
    pub first_preview_s: Option<f32>,
}

impl Outcome {
    /// A request of which nothing came.
    pub fn unanswered(at_s: f64, steps_asked: u32, ending: Ending) -> Self {
        Self {
            at_s,
            steps_asked,
            ending,
            latency_s: None,
            deadline_s: None,
            images: 0,
            full_images: 0,
            steps_used: 0,
            first_image_s: None,
            first_preview_s: None,
        }
    }

    /// A request whose images all came after `latency_s`: late where that is after its deadline.
    pub fn answered(at_s: f64, steps_asked: u32, latency_s: f32, deadline_s: Option<f32>) -> Self {
        let late = deadline_s.is_some_and(|deadline_s| latency_s > deadline_s);
        let ending = if late { Ending::Late } else { Ending::InTime };
        Self { latency_s: Some(latency_s), deadline_s, ..Self::unanswered(at_s, steps_asked, ending) }
    }

    /// Seconds by which the last image missed the deadline.
    pub fn lateness_s(&self) -> Option<f32> {
        let (latency_s, deadline_s) = (self.latency_s?, self.deadline_s?);
        (latency_s > deadline_s).then_some(latency_s - deadline_s)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_deadline_decides_what_is_late() {
        let ends = |deadline_s| Outcome::answered(0.0, 4, 0.2, deadline_s);
        assert_eq!((ends(None).ending, ends(None).lateness_s()), (Ending::InTime, None));
        assert_eq!((ends(Some(0.2)).ending, ends(Some(0.2)).lateness_s()), (Ending::InTime, None));
        assert_eq!(ends(Some(0.15)).ending, Ending::Late);
        assert!((ends(Some(0.15)).lateness_s().unwrap() - 0.05).abs() < 1e-6);
        assert_eq!(Outcome::unanswered(1.0, 4, Ending::Late).lateness_s(), None);
    }

    #[test]
    fn millions_fit_into_memory() {
        assert!(size_of::<Outcome>() <= 72);
    }
}
