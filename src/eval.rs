//! Evaluation: how far a flow map is from its teacher, from the data, and from the best that the measure can say.
//!
//! One table: a row for each sampler and number of steps, all from the same noise and classes, and the floors, which
//! are the same measures on exact samples. The statistics ([`histogram`], [`sliced`], [`frechet`], [`kid`], [`paired`],
//! [`nearest`]) are pure
//! functions of numbers; a [`Protocol`](protocol::Protocol) says which of them a data set gets; [`run`] makes the
//! samples; [`report`] is the result, as JSON and as Markdown. A report is a pure function of the two checkpoints, the
//! data, the number of samples and the seed: the number of threads does not matter.

pub mod compare;
pub mod features;
pub mod frechet;
pub mod generate;
pub mod histogram;
pub mod images;
pub mod kid;
pub mod nearest;
pub mod paired;
pub mod points;
pub mod protocol;
pub mod record;
pub mod report;
pub mod residuals;
pub mod run;
pub mod sliced;
pub mod subject;
pub mod timing;
pub mod tune;

mod chart;

pub use report::Report;
pub use run::{Options, Reached, evaluate};

#[cfg(test)]
mod tests;
