//! What a call brings besides its message: when it came, how long its client waits, on whose account it is, and fresh
//! random numbers for the fields that the client left to the server. With these as arguments, parsing is a pure function.

use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::http::HeaderMap;

use super::settings::Settings;
use crate::error::{Error, Result};

/// The header in which gRPC clients send their timeout. tonic's own handling of it bounds only the wait for the first
/// response, not the stream, so that it is read here.
const TIMEOUT_HEADER: &str = "grpc-timeout";

/// The header that names the tenant on whose account a request is: set by the client, or by the proxy that knows it.
pub(super) const TENANT_HEADER: &str = "flowmap-tenant";

/// Longest name of a tenant, in characters.
const MAX_TENANT_CHARS: usize = 64;

/// tonic answers CANCELLED when that time is over, where the protocol wants DEADLINE_EXCEEDED: this is before it.
const AHEAD_OF_TONIC: Duration = Duration::from_millis(2);

/// The circumstances of a call.
#[derive(Debug, Clone)]
pub(super) struct Arrival {
    /// When it came.
    pub(super) at: Instant,
    /// How long its client waits.
    pub(super) timeout: Option<Duration>,
    /// On whose account; empty where nobody says.
    pub(super) tenant: Arc<str>,
    /// A seed, should the request bring none.
    pub(super) seed: u64,
    /// A name, should the request bring none.
    pub(super) id: u64,
}

impl Arrival {
    /// A call that comes now.
    ///
    /// # Errors
    /// [`Error::Invalid`] when the header of the timeout or the tenant is malformed.
    pub(super) fn now(headers: &HeaderMap) -> Result<Self> {
        let timeout = headers.get(TIMEOUT_HEADER).map(|value| {
            value.to_str().ok().and_then(parse_timeout).ok_or_else(|| {
                Error::invalid(TIMEOUT_HEADER, "is not 1 to 8 digits and one of the units H, M, S, m, u, n")
            })
        });
        let (timeout, tenant) = (timeout.transpose()?, tenant(headers)?);
        Ok(Self { at: Instant::now(), timeout, tenant, seed: random(), id: random() })
    }

    /// When an answer must have begun, whether or not the message has come by then.
    pub(super) fn answer_until(&self, settings: &Settings) -> Instant {
        let own = self.timeout.map(|timeout| timeout.saturating_sub(AHEAD_OF_TONIC));
        self.at + own.map_or(settings.limits.max_deadline, |own| own.min(settings.limits.max_deadline))
    }

    /// The name of a request that brings none.
    pub(super) fn name(&self) -> String {
        format!("{:016x}", self.id)
    }
}

fn tenant(headers: &HeaderMap) -> Result<Arc<str>> {
    let Some(value) = headers.get(TENANT_HEADER) else { return Ok("".into()) };
    let is_name =
        |name: &&str| name.len() <= MAX_TENANT_CHARS && name.bytes().all(|byte| (b' '..=b'~').contains(&byte));
    let name = value.to_str().ok().filter(is_name);
    name.map(Into::into).ok_or_else(|| {
        Error::invalid(TENANT_HEADER, format!("is not at most {MAX_TENANT_CHARS} printable ASCII characters"))
    })
}

/// A random number, from the keys that the standard library draws for its hash maps: unpredictable enough to tell
/// requests apart and to vary images, and not used for secrets.
fn random() -> u64 {
    RandomState::new().hash_one(0_u8)
}

/// `TimeoutValue TimeoutUnit` of the gRPC specification over HTTP/2.
fn parse_timeout(text: &str) -> Option<Duration> {
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    if digits.is_empty() || digits.len() > 8 || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let value: u64 = digits.parse().ok()?;
    Some(match unit {
        "H" => Duration::from_secs(value * 3600),
        "M" => Duration::from_secs(value * 60),
        "S" => Duration::from_secs(value),
        "m" => Duration::from_millis(value),
        "u" => Duration::from_micros(value),
        "n" => Duration::from_nanos(value),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn timeouts_follow_the_specification() {
        let ms = Duration::from_millis;
        for (text, want) in [
            ("1S", Some(ms(1000))),
            ("250m", Some(ms(250))),
            ("2M", Some(ms(120_000))),
            ("99999999H", Some(Duration::from_secs(99_999_999 * 3600))),
            ("0n", Some(ms(0))),
            ("100000000S", None),
            ("1", None),
            ("S", None),
            ("", None),
            ("-1S", None),
            ("+1S", None),
            ("1é", None),
            ("1s", None),
        ] {
            assert_eq!(parse_timeout(text), want, "{text}");
        }
    }

    #[test]
    fn a_malformed_timeout_is_named() {
        let mut headers = HeaderMap::new();
        assert!(Arrival::now(&headers).is_ok_and(|arrival| arrival.timeout.is_none()));
        headers.insert(TIMEOUT_HEADER, "soon".parse().unwrap());
        let Err(Error::Invalid(violations)) = Arrival::now(&headers) else { panic!("accepted") };
        assert_eq!(violations[0].field, "grpc-timeout");
    }

    #[test]
    fn a_tenant_is_a_short_name_or_nobody() {
        let value = |name: &str| axum::http::HeaderValue::from_bytes(name.as_bytes()).unwrap();
        let named = |name: &str| {
            let headers = HeaderMap::from_iter([(TENANT_HEADER.parse().unwrap(), value(name))]);
            Arrival::now(&headers).map(|arrival| arrival.tenant.to_string())
        };
        assert_eq!(&*Arrival::now(&HeaderMap::new()).unwrap().tenant, "");
        for good in ["a", "team one", &"x".repeat(64)] {
            assert_eq!(named(good).unwrap(), good);
        }
        for bad in ["\t", "é", &"x".repeat(65)] {
            let Err(Error::Invalid(violations)) = named(bad) else { panic!("{bad} was accepted") };
            assert_eq!(violations[0].field, "flowmap-tenant");
        }
    }

    #[test]
    fn fresh_numbers_differ() {
        assert_ne!(random(), random());
    }

    proptest! {
        #[test]
        fn no_header_panics(text in ".*") {
            let _ = parse_timeout(&text);
        }
    }
}
