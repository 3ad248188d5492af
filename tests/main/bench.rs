//! `flowmap bench` as a person runs it: every request that was due is accounted for.

use std::process::{Command, Output};

use flowmap::engine::scripted::Verdict;
use serde_json::Value;

use crate::support::{Server, Setup, model};

async fn bench(server: &Server, arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_flowmap"));
    command.args(["bench", "--server", &server.grpc, "--warmup-seconds", "0"]).args(arguments);
    tokio::task::spawn_blocking(move || command.output()).await.unwrap().unwrap()
}

/// The measurements that a run has written.
async fn measured(server: &Server, arguments: &[&str]) -> (Vec<Value>, String) {
    let folder = tempfile::tempdir().unwrap();
    let (json, plot) = (folder.path().join("run.json"), folder.path().join("run.svg"));
    let files = ["--json", json.to_str().unwrap(), "--plot", plot.to_str().unwrap()];
    let output = bench(server, &[arguments, &files].concat()).await;
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(std::fs::read_to_string(plot).unwrap().starts_with("<svg"));
    let value: Value = serde_json::from_str(&std::fs::read_to_string(json).unwrap()).unwrap();
    (value["results"].as_array().unwrap().clone(), String::from_utf8(output.stdout).unwrap())
}

fn count(result: &Value, what: &str) -> u64 {
    result[what].as_u64().unwrap_or_else(|| panic!("{what} is not in {result}"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_request_that_was_due_is_accounted_for() {
    let server = Setup::new().model(model("bench")).start().await;
    let order = ["--rate", "60,200", "--seconds", "1", "--mix", "1:0.5,4:0.5", "--count", "2", "--seed", "5"];
    let (results, table) = measured(&server, &order).await;
    assert_eq!(results.len(), 2);
    for (result, rate) in results.iter().zip([60, 200]) {
        let ends = ["in_time", "late", "refused", "failed", "not_sent"].map(|end| count(result, end));
        assert_eq!(ends.iter().sum::<u64>(), count(result, "due"));
        assert!((rate / 2..rate * 2).contains(&count(result, "due")) && ends[0] == count(result, "due"), "{result}");
        let classes = result["classes"].as_array().unwrap();
        assert_eq!(classes.iter().map(|class| count(class, "due")).sum::<u64>(), count(result, "due"));
        assert_eq!(result["full_steps_percent"], 100.0);
    }
    assert!(table.contains("| 60/s |") && table.contains("| · 4 steps asked |"), "{table}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_closed_loop_has_as_many_requests_open_as_it_has_clients() {
    let script = |_: &flowmap::engine::Batch| {
        std::thread::sleep(std::time::Duration::from_millis(2));
        Verdict::Proceed
    };
    let server = Setup::new().model(model("bench-closed")).script(script).start().await;
    let (results, _) = measured(&server, &["--concurrency", "3", "--seconds", "0.5", "--mix", "2"]).await;
    assert!(count(&results[0], "in_time") > 3 && count(&results[0], "failed") == 0, "{}", results[0]);
    let most = server.record.batches().iter().map(|batch| batch.rows.len()).max();
    assert!(most.is_some_and(|most| most <= 3), "{most:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_failure_is_counted_and_told() {
    let mut first = true;
    // The probe before the measurement must pass.
    let script = move |_: &flowmap::engine::Batch| match std::mem::take(&mut first) {
        true => Verdict::Proceed,
        false => Verdict::FailRow(0),
    };
    let server = Setup::new().model(model("bench-failing")).script(script).start().await;
    let folder = tempfile::tempdir().unwrap();
    let json = folder.path().join("run.json");
    let output =
        bench(&server, &["--rate", "40", "--seconds", "0.5", "--mix", "1", "--json", json.to_str().unwrap()]).await;
    assert!(String::from_utf8_lossy(&output.stderr).contains("the first request that failed: "), "{output:?}");
    let value: Value = serde_json::from_str(&std::fs::read_to_string(json).unwrap()).unwrap();
    let result = &value["results"][0];
    assert!(count(result, "failed") > 0, "{result}");
    assert_eq!(count(result, "failed") + count(result, "in_time"), count(result, "due"));
}

#[tokio::test]
async fn what_makes_no_load_is_explained() {
    let server = Setup::new().model(model("bench-wrong")).start().await;
    for (arguments, why) in [
        (&[][..], "name a load"),
        (&["--rate", "0"], "--rate"),
        (&["--rate", "1", "--seconds", "0"], "--seconds"),
        (&["--concurrency", "0"], "--concurrency"),
        (&["--rate", "1", "--class", "9"], "has 3 classes"),
        (&["--rate", "1", "--mix", "1:0"], "--mix"),
        (&["--rate", "1", "--priority", "urgent"], "none of: low, normal, high"),
        (&["--load", "1000", "--capacity", "1e5", "--seconds", "10", "--mix", "1"], "fewer seconds"),
    ] {
        let output = bench(&server, arguments).await;
        let told = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.code() == Some(2) && told.contains(why), "{arguments:?}: {told}");
    }
    let refused = bench(&server, &["--rate", "1", "--count", "5000"]).await;
    assert!(String::from_utf8_lossy(&refused.stderr).contains("count: is 5000"), "{refused:?}");
}
