//! The life of a call as metrics show it: counted on arrival, timed to the end of its stream.

use std::time::Instant;

use tonic::Code;

use super::status::code_name;
use crate::telemetry::metrics;

/// One call. However it ends, it is counted exactly once; a call that is dropped before [`end`](Self::end) was
/// cancelled.
#[derive(Debug)]
pub(super) struct Observation {
    method: &'static str,
    since: Instant,
    code: Code,
}

impl Observation {
    /// A call of `method` begins.
    pub(super) fn begin(method: &'static str) -> Self {
        metrics::REQUESTS_IN_FLIGHT.gauge([method]).increment(1.0);
        Self { method, since: Instant::now(), code: Code::Cancelled }
    }

    /// It ends with `code`.
    pub(super) fn end(mut self, code: Code) {
        self.code = code;
    }
}

impl Drop for Observation {
    fn drop(&mut self) {
        metrics::REQUESTS_IN_FLIGHT.gauge([self.method]).decrement(1.0);
        metrics::REQUESTS.counter([self.method, code_name(self.code)]).increment(1);
        metrics::REQUEST_DURATION.histogram([self.method]).record(self.since.elapsed());
    }
}
