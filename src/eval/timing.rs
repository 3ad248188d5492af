//! What an evaluation of a network costs here, so that quality can be set against time.

use std::time::Instant;

use candle_core::Tensor;
use serde::Serialize;

use super::generate::Beginnings;
use crate::error::Result;
use crate::flow::{Dual, FlowMap};
use crate::model::Workers;

/// Rows of a timed forward.
const BATCH: usize = 8;
/// Timed forwards of a network, whose median counts, after one that does not.
const FORWARDS: usize = 15;
/// Times of the timed forwards: of a jump that is neither short nor long.
const TIMES: [f32; 2] = [0.25, 0.75];
/// Where Linux tells the processor's name.
const CPU_INFO: &str = "/proc/cpuinfo";

/// Milliseconds of an evaluation of one sample, as one thread makes them in batches.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Timing {
    /// The processor, as far as it tells its name.
    pub machine: String,
    /// Samples of a forward.
    pub batch: usize,
    /// Of the model, for one sample: the median of some forwards, over the batch.
    pub model_ms: f64,
    /// Of the teacher.
    pub teacher_ms: f64,
}

impl Timing {
    /// Times both networks on one thread.
    ///
    /// # Errors
    /// [`Error::Compute`](crate::error::Error::Compute) where the arithmetic fails.
    pub fn measure(
        model: &dyn FlowMap,
        teacher: &dyn FlowMap,
        beginnings: &Beginnings,
        workers: &Workers,
    ) -> Result<Self> {
        let times =
            workers.map(0..1, |_| Ok([milliseconds(model, beginnings)?, milliseconds(teacher, beginnings)?]))?;
        let [model_ms, teacher_ms] = times.first().copied().unwrap_or_default();
        Ok(Self { machine: machine(), batch: BATCH, model_ms, teacher_ms })
    }

    /// What the report says of it.
    pub(super) fn meaning(&self) -> String {
        let Self { machine, batch, model_ms, teacher_ms } = self;
        format!(
            "the network evaluations of one sample on one thread of {machine}, in batches of {batch}: {model_ms:.4} ms \
             an evaluation of the model, {teacher_ms:.4} ms of the teacher, each the median of {FORWARDS} forwards"
        )
    }
}

fn milliseconds(net: &dyn FlowMap, beginnings: &Beginnings) -> Result<f64> {
    let (x, labels) = beginnings.rows(0, BATCH)?;
    let [s, t] = TIMES.map(|time| Tensor::full(time, BATCH, x.device()));
    let [x, s, t] = [x, s?, t?].map(|tensor| Dual::constant(&tensor));
    let forward = || -> Result<f64> {
        let begun = Instant::now();
        std::hint::black_box(net.velocity(&x, &s, &t, &labels)?);
        Ok(begun.elapsed().as_secs_f64())
    };
    forward()?;
    let mut seconds = (0..FORWARDS).map(|_| forward()).collect::<Result<Vec<_>>>()?;
    seconds.sort_unstable_by(f64::total_cmp);
    Ok(1e3 * seconds[FORWARDS / 2] / BATCH as f64)
}

/// The processor's name, or at least its kind.
fn machine() -> String {
    let told = std::fs::read_to_string(CPU_INFO).unwrap_or_default();
    let name = told.lines().find(|line| line.starts_with("model name")).and_then(|line| line.split_once(": "));
    name.map_or_else(|| format!("an {} processor", std::env::consts::ARCH), |(_, name)| name.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::flow::GaussianFlow;

    #[test]
    fn both_networks_have_a_time() {
        let flow = GaussianFlow { noise: 1.0, mean: 0.0, data: 0.5 };
        let beginnings = Beginnings { seed: 1, shape: vec![2], noise_scale: 1.0, classes: 0 };
        let timing = Timing::measure(&flow, &flow, &beginnings, &Workers::new(1).unwrap()).unwrap();
        assert!(timing.model_ms > 0.0 && timing.teacher_ms > 0.0 && !timing.machine.is_empty());
        assert!(timing.meaning().contains("batches of 8"));
    }
}
