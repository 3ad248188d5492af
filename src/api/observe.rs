//! The life of a call as metrics show it: counted on arrival, timed to the end of its stream.

use std::sync::{Arc, OnceLock};
use std::time::Instant;

use ::metrics::{Counter, Gauge, Histogram};
use tonic::Code;

use super::status::code_name;
use crate::telemetry::metrics;

/// gRPC codes, of which `OK` is the first.
const CODES: usize = Code::Unauthenticated as usize + 1;

/// The instruments of one method. Bound once, because to look a series up by its labels costs more than to raise it.
#[derive(Debug)]
pub(super) struct Instruments {
    method: &'static str,
    in_flight: Gauge,
    duration: Histogram,
    /// Calls that ended, by code.
    ended: [OnceLock<Counter>; CODES],
}

impl Instruments {
    /// Those of `method`, of the recorder that is installed now.
    pub(super) fn of(method: &'static str) -> Arc<Self> {
        let (in_flight, duration) =
            (metrics::REQUESTS_IN_FLIGHT.gauge([method]), metrics::REQUEST_DURATION.histogram([method]));
        Arc::new(Self { method, in_flight, duration, ended: [const { OnceLock::new() }; CODES] })
    }

    fn ended(&self, code: Code) -> &Counter {
        self.ended[code as usize].get_or_init(|| metrics::REQUESTS.counter([self.method, code_name(code)]))
    }
}

/// One call. However it ends, it is counted exactly once; a call that is dropped before [`end`](Self::end) was
/// cancelled.
#[derive(Debug)]
pub(super) struct Observation {
    instruments: Arc<Instruments>,
    since: Instant,
    code: Code,
}

impl Observation {
    /// A call begins.
    pub(super) fn begin(instruments: &Arc<Instruments>) -> Self {
        instruments.in_flight.increment(1.0);
        Self { instruments: Arc::clone(instruments), since: Instant::now(), code: Code::Cancelled }
    }

    /// It ends with `code`.
    pub(super) fn end(mut self, code: Code) {
        self.code = code;
    }
}

impl Drop for Observation {
    fn drop(&mut self) {
        self.instruments.in_flight.decrement(1.0);
        self.instruments.ended(self.code).increment(1);
        self.instruments.duration.record(self.since.elapsed());
    }
}
