//! The only map from errors to a gRPC status.
//!
//! A client learns what it can act on: every wrong field (`BadRequest`), when to come back (`RetryInfo`), for what it was
//! refused (`ErrorInfo`), and the name of its request (`RequestInfo`) to quote to an operator. What only an operator or we can mend stays in the log: such
//! a status carries no path and no internal name.

use std::collections::HashMap;
use std::time::Duration;

use tonic::metadata::{MetadataMap, MetadataValue};
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt};

use crate::error::{Error, Violation};

/// When to try a server again that is stopping: by then its replacement has taken over.
const UNAVAILABLE_RETRY: Duration = Duration::from_secs(1);
/// Violations told at a time. Details travel in trailers, and common clients refuse more than 8 KiB of these.
const MAX_VIOLATIONS: usize = 16;
/// Violations spelt out in the message, which travels twice more; the details have the rest.
const MAX_TOLD_IN_MESSAGE: usize = 4;
/// Characters of a violation's description, for the same reason.
const MAX_DESCRIPTION_CHARS: usize = 160;
/// Characters of any other message, for the same reason: it travels twice.
const MAX_MESSAGE_CHARS: usize = 1500;
/// Where gRPC clients that retry by themselves look for the delay, in milliseconds.
const PUSHBACK_HEADER: &str = "grpc-retry-pushback-ms";

/// Who it is that gives the reasons below.
pub(super) const REASON_DOMAIN: &str = "flowmap";
/// The images could not be finished by their deadline: a longer one may be met.
pub(super) const DEADLINE_INFEASIBLE: &str = "DEADLINE_INFEASIBLE";
/// There is no room for more images or requests.
pub(super) const QUEUE_FULL: &str = "QUEUE_FULL";
/// The client took too long to read.
pub(super) const CLIENT_STALLED: &str = "CLIENT_STALLED";
/// Beside [`DEADLINE_INFEASIBLE`]: how long the images would take, in milliseconds.
pub(super) const PREDICTED_WAIT: &str = "predicted_wait_ms";

/// The status that tells a client of `error`.
pub(super) fn status(error: &Error, request_id: &str) -> Status {
    let mut details = ErrorDetails::new();
    details.set_request_info(request_id, "");
    let mut metadata = MetadataMap::new();
    if let Error::Invalid(violations) = error {
        for violation in violations.iter().take(MAX_VIOLATIONS) {
            details.add_bad_request_violation(&violation.field, clip(&violation.description, MAX_DESCRIPTION_CHARS));
        }
    }
    if let Some((reason, facts)) = reason(error) {
        details.set_error_info(reason, REASON_DOMAIN, facts);
    }
    if let Some(delay) = retry_after(error) {
        details.set_retry_info(Some(delay));
        metadata.insert(PUSHBACK_HEADER, MetadataValue::from(millis(delay)));
    }
    Status::with_error_details_and_metadata(code(error), message(error), details, metadata)
}

/// The code alone.
pub(super) fn code(error: &Error) -> Code {
    match error {
        Error::Invalid(_) => Code::InvalidArgument,
        Error::NotFound(_) => Code::NotFound,
        Error::Overloaded { .. } | Error::Stalled => Code::ResourceExhausted,
        Error::DeadlineExceeded => Code::DeadlineExceeded,
        Error::Cancelled => Code::Cancelled,
        Error::Unavailable(_) => Code::Unavailable,
        Error::File { .. } | Error::Config(_) | Error::Compute(_) => Code::Internal,
    }
}

/// The code as gRPC spells it, for logs and metrics.
pub(super) fn code_name(code: Code) -> &'static str {
    match code {
        Code::Ok => "OK",
        Code::Cancelled => "CANCELLED",
        Code::InvalidArgument => "INVALID_ARGUMENT",
        Code::DeadlineExceeded => "DEADLINE_EXCEEDED",
        Code::NotFound => "NOT_FOUND",
        Code::ResourceExhausted => "RESOURCE_EXHAUSTED",
        // tonic's own, for a message beyond its limit.
        Code::OutOfRange => "OUT_OF_RANGE",
        Code::Unavailable => "UNAVAILABLE",
        // The map above makes no other code, and tonic says this of what does not decode.
        _ => "INTERNAL",
    }
}

fn message(error: &Error) -> String {
    match error {
        Error::Invalid(violations) => summary(violations),
        Error::File { .. } | Error::Config(_) | Error::Compute(_) => {
            "the server failed; its log has the cause under this request's id".into()
        }
        told => clip(&told.to_string(), MAX_MESSAGE_CHARS),
    }
}

fn summary(violations: &[Violation]) -> String {
    let told = violations.iter().take(MAX_TOLD_IN_MESSAGE);
    let lines: Vec<String> =
        told.map(|v| format!("{}: {}", v.field, clip(&v.description, MAX_DESCRIPTION_CHARS))).collect();
    let more = violations.len().saturating_sub(MAX_TOLD_IN_MESSAGE);
    let rest = if more > 0 { format!("; and {more} more") } else { String::new() };
    format!("invalid request: {}{rest}", lines.join("; "))
}

fn retry_after(error: &Error) -> Option<Duration> {
    match error {
        Error::Overloaded { retry_after, .. } => Some(*retry_after),
        Error::Unavailable(_) => Some(UNAVAILABLE_RETRY),
        _ => None,
    }
}

/// Why resources were refused, for programs.
fn reason(error: &Error) -> Option<(&'static str, HashMap<String, String>)> {
    match error {
        Error::Overloaded { predicted: Some(wait), .. } => {
            Some((DEADLINE_INFEASIBLE, HashMap::from([(PREDICTED_WAIT.into(), millis(*wait).to_string())])))
        }
        Error::Overloaded { predicted: None, .. } => Some((QUEUE_FULL, HashMap::new())),
        Error::Stalled => Some((CLIENT_STALLED, HashMap::new())),
        _ => None,
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

fn clip(text: &str, most: usize) -> String {
    match text.char_indices().nth(most) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_violation_is_a_field_of_bad_request() {
        let error = Error::Invalid(vec![Violation::new("count", "is 0"), Violation::new("labels[3]", "is 12")]);
        let status = status(&error, "r1");
        assert_eq!(status.code(), Code::InvalidArgument);
        let bad = status.get_details_bad_request().unwrap().field_violations;
        let told: Vec<_> = bad.iter().map(|v| (v.field.as_str(), v.description.as_str())).collect();
        assert_eq!(told, [("count", "is 0"), ("labels[3]", "is 12")]);
        assert_eq!(status.get_details_request_info().unwrap().request_id, "r1");
    }

    #[test]
    fn details_fit_into_trailers() {
        let long = || Violation::new("labels[1000]", "x".repeat(10_000));
        let violations = std::iter::repeat_with(long).take(1000).collect();
        for error in [Error::Invalid(violations), Error::NotFound("x".repeat(10_000))] {
            let status = status(&error, "r1");
            let on_the_wire = status.details().len().div_ceil(3) * 4 + status.message().len();
            assert!(on_the_wire < 7 * 1024, "{on_the_wire}");
            assert!(status.message().ends_with("and 996 more") || status.message().ends_with("x…"));
        }
    }

    #[test]
    fn refusals_say_when_to_come_back() {
        for (predicted, reason) in [(None, "QUEUE_FULL"), (Some(Duration::from_millis(90)), "DEADLINE_INFEASIBLE")] {
            let error = Error::Overloaded { retry_after: Duration::from_millis(40), predicted };
            let status = status(&error, "r1");
            assert_eq!(status.code(), Code::ResourceExhausted);
            assert_eq!(status.get_details_retry_info().unwrap().retry_delay, Some(Duration::from_millis(40)));
            assert_eq!(status.metadata().get(PUSHBACK_HEADER).unwrap(), "40");
            let info = status.get_details_error_info().unwrap();
            assert_eq!((info.reason.as_str(), info.domain.as_str()), (reason, "flowmap"));
            let told = info.metadata.get("predicted_wait_ms").map(String::as_str);
            assert_eq!(told, predicted.map(|_| "90"));
        }
    }

    #[test]
    fn internal_causes_stay_inside() {
        for error in [
            Error::file("/srv/models/a/1", "bad header"),
            Error::Compute("CUDA_ERROR_ILLEGAL_ADDRESS".into()),
            Error::Config(vec!["models.repository".into()]),
        ] {
            let status = status(&error, "r1");
            assert_eq!(status.code(), Code::Internal);
            for secret in ["srv", "CUDA", "repository"] {
                assert!(!status.message().contains(secret), "{}", status.message());
            }
        }
    }
}
