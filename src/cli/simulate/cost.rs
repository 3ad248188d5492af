//! What forwards cost, as an argument or from the metrics of a running server.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::str::FromStr;
use std::time::Duration;

use crate::error::{Error, Result};
use crate::scheduler::cost::Line;

/// The metric with a server's own estimate, and its parts.
const METRIC: &str = "flowmap_step_cost_seconds";
const PARTS: [&str; 2] = ["base", "per_row"];

/// Longest wait for a server, and most bytes of its metrics.
const PATIENCE: Duration = Duration::from_secs(5);
const MAX_BYTES: u64 = 16 << 20;

/// `A,B` for `A + B·n` milliseconds.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct CostMs(f64, f64);

impl CostMs {
    /// In seconds.
    pub(super) fn line(self) -> Line {
        Line { base: 1e-3 * self.0, per_row: 1e-3 * self.1 }
    }
}

impl FromStr for CostMs {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let number = |text: &str| text.trim().parse::<f64>().ok().filter(|ms| (0.0..=1e6).contains(ms));
        let parts = text.split_once(',').and_then(|(base, per_row)| Some((number(base)?, number(per_row)?)));
        let (base, per_row) =
            parts.ok_or_else(|| format!("'{text}' is not two numbers of milliseconds, as in 4,0.25"))?;
        if base + per_row > 0.0 { Ok(Self(base, per_row)) } else { Err("a forward takes some time".into()) }
    }
}

/// The cost that the server at `url` has measured, of its only model or of `model`; of several devices their mean.
///
/// # Errors
/// [`Error::Unavailable`] where the server does not answer, [`Error::Config`] where the address is none or the model is
/// not there or not said.
pub(super) fn of_server(url: &str, model: Option<&str>) -> Result<Line> {
    let wrong = |why: String| Error::Config(vec![format!("--from {url}: {why}")]);
    let host = url.strip_prefix("http://").unwrap_or(url).split('/').next().unwrap_or_default();
    if url.starts_with("https://") || !host.contains(':') {
        return Err(wrong("must be like http://127.0.0.1:9090".into()));
    }
    let text = metrics(host).map_err(|e| Error::Unavailable(format!("the metrics of {host} cannot be had: {e}")))?;
    of_metrics(&text, model).map_err(wrong)
}

/// One GET, to which the server closes the connection.
fn metrics(host: &str) -> std::io::Result<String> {
    let other = std::io::Error::other::<String>;
    let address = host.to_socket_addrs()?.next().ok_or_else(|| other("the name has no address".into()))?;
    let mut stream = TcpStream::connect_timeout(&address, PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    // Of HTTP/1.0, so that the answer does not come in chunks; in one piece, as servers like it.
    stream.write_all(format!("GET /metrics HTTP/1.0\r\nHost: {host}\r\nConnection: close\r\n\r\n").as_bytes())?;
    let mut text = String::new();
    stream.take(MAX_BYTES).read_to_string(&mut text)?;
    let (head, body) = text.split_once("\r\n\r\n").ok_or_else(|| other("the answer is no HTTP".into()))?;
    let status = head.lines().next().unwrap_or_default();
    if status.split_whitespace().nth(1) != Some("200") {
        return Err(other(format!("the answer is '{status}'")));
    }
    Ok(body.to_owned())
}

/// Finds the cost in metrics in Prometheus' text format.
fn of_metrics(text: &str, model: Option<&str>) -> Result<Line, String> {
    let mut models: BTreeMap<String, [Vec<f64>; 2]> = BTreeMap::new();
    for line in text.lines() {
        let Some((labels, value)) = line.strip_prefix(METRIC).and_then(|rest| rest.rsplit_once(' ')) else { continue };
        let (Some(name), Some(part), Ok(value)) = (label(labels, "model"), label(labels, "part"), value.parse()) else {
            continue;
        };
        if let Some(part) = PARTS.iter().position(|&known| known == part) {
            models.entry(name.to_owned()).or_default()[part].push(value);
        }
    }
    let names = || models.keys().cloned().collect::<Vec<_>>().join(", ");
    let found = match model {
        Some(name) => models.get(name).ok_or_else(|| format!("has no model {name}; one of: {}", names()))?,
        None if models.len() > 1 => return Err(format!("has several models; name one by --model: {}", names())),
        None => models.values().next().ok_or_else(|| format!("has no metric {METRIC}"))?,
    };
    let mean = |values: &Vec<f64>| values.iter().sum::<f64>() / values.len().max(1) as f64;
    let line = Line { base: mean(&found[0]), per_row: mean(&found[1]) };
    let measured = line.base.is_finite() && line.per_row.is_finite() && line.base + line.per_row > 0.0;
    if measured { Ok(line) } else { Err("has not measured its forwards yet".into()) }
}

/// The value of a label in `{name="value",…}`.
fn label<'a>(labels: &'a str, name: &str) -> Option<&'a str> {
    let inside = labels.trim().strip_prefix('{')?.strip_suffix('}')?;
    inside.split(',').find_map(|pair| pair.trim().strip_prefix(name)?.strip_prefix("=\"")?.strip_suffix('"'))
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    const TEXT: &str = "# HELP flowmap_step_cost_seconds Estimated cost.
flowmap_step_cost_seconds{model=\"a@1\",device=\"cuda:0\",part=\"base\"} 0.002
flowmap_step_cost_seconds{model=\"a@1\",device=\"cuda:1\",part=\"base\"} 0.004
flowmap_step_cost_seconds{model=\"a@1\",device=\"cuda:0\",part=\"per_row\"} 1e-3
flowmap_step_cost_ratio{model=\"a@1\",device=\"cuda:0\",quantile=\"0.5\"} 1
";

    #[test]
    fn two_numbers_are_a_cost() {
        assert_eq!("4,0.25".parse::<CostMs>().unwrap().line(), Line { base: 4e-3, per_row: 0.25e-3 });
        for bad in ["", "4", "4,", "-1,1", "0,0", "nan,1", "1,2,3"] {
            assert!(bad.parse::<CostMs>().is_err(), "{bad}");
        }
    }

    #[test]
    fn a_cost_is_found_among_metrics() {
        let line = of_metrics(TEXT, None).unwrap();
        assert!((line.base - 3e-3).abs() < 1e-12 && (line.per_row - 1e-3).abs() < 1e-12, "{line:?}");
        assert!(of_metrics(TEXT, Some("b@1")).unwrap_err().contains("one of: a@1"));
        let two = format!("{TEXT}{}", TEXT.replace("a@1", "b@1"));
        assert!(of_metrics(&two, None).unwrap_err().contains("a@1, b@1"));
        assert_eq!(of_metrics(&two, Some("b@1")), Ok(line));
        assert!(of_metrics("up 1\n", None).unwrap_err().contains("no metric"));
        let unmeasured = TEXT.replace("0.002", "0").replace("0.004", "0").replace("1e-3", "0");
        assert!(of_metrics(&unmeasured, None).unwrap_err().contains("not measured"));
    }

    #[test]
    fn a_server_is_asked() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let host = listener.local_addr().unwrap().to_string();
        let answers = std::thread::spawn(move || {
            for head in ["200 OK", "503 Service Unavailable"] {
                let (mut stream, _) = listener.accept().unwrap();
                let read = stream.read(&mut [0; 1024]).unwrap();
                assert!(read > 0);
                write!(stream, "HTTP/1.0 {head}\r\ncontent-type: text/plain\r\n\r\n{TEXT}").unwrap();
            }
        });
        assert_eq!(of_server(&format!("http://{host}"), None).unwrap(), of_metrics(TEXT, None).unwrap());
        assert!(of_server(&format!("http://{host}/metrics"), None).unwrap_err().to_string().contains("503"));
        answers.join().unwrap();
        assert!(matches!(of_server("https://localhost:1", None), Err(Error::Config(_))));
    }
}
