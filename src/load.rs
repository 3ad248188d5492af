//! Load: when requests come and what they ask for, and what became of them.
//!
//! A leaf that a load generator and a simulator share, so that both put the same questions and count the same way.
//! Everything is pure: the same seed gives the same requests on every platform.

pub mod arrivals;
pub mod markdown;
pub mod mix;
pub mod outcome;
pub mod random;
pub mod summary;
pub mod trace;

pub use arrivals::{Arrival, Arrivals, Burst, Process};
pub use mix::Mix;
pub use outcome::{Ending, Outcome};
pub use random::Random;
pub use summary::{Measures, Summary};
pub use trace::Trace;
