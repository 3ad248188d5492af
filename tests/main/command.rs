//! The commands that are clients, as a person runs them.

use std::process::{Command, Output};

use flowmap::domain::TimePairs;

use crate::real::{Repository, SHAPE};

/// Runs the program without holding up the server beside it.
async fn flowmap(arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_flowmap"));
    command.args(arguments);
    tokio::task::spawn_blocking(move || command.output()).await.unwrap().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

#[tokio::test]
async fn generate_makes_the_same_samples_with_and_without_a_server() {
    let repository = Repository::new();
    let server = repository.serve().await;
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).display().to_string();
    let (there, here, picture) = (path("there.npy"), path("here.npy"), path("grid.png"));
    let root = repository.root().display().to_string();
    let order = ["generate", "--class", "bag", "--class", "0", "--class", "none", "--count", "5", "--steps", "1,3"];
    let order = [&order[..], &["--seed", "9", "--guidance", "2.5", "--json"]].concat();
    let remote =
        [&order[..], &["--server", &server.address, "--npy", &there, "--out", &picture, "--progress"]].concat();
    let local = [&order[..], &["--local", "--models", &root, "--npy", &here]].concat();
    let mut told = Vec::new();
    for arguments in [remote, local] {
        let output = flowmap(&arguments).await;
        assert!(output.status.success(), "{}", text(&output.stderr));
        told.push(serde_json::from_slice::<serde_json::Value>(&output.stdout).unwrap());
    }
    for value in &told {
        assert_eq!(value["labels"], serde_json::json!([1, 0, null, 1, 0]));
        assert_eq!((&value["seed"], &value["requests"][1]["evaluations"]), (&9.into(), &15.into()));
    }
    let array = candle_core::Tensor::read_npy(&there).unwrap();
    assert_eq!(array.dims(), [&[2, 5], &SHAPE[..]].concat());
    assert_eq!(std::fs::read(&there).unwrap(), std::fs::read(&here).unwrap());
    assert!(image::open(&picture).unwrap().width() > 5 * 80);
}

#[tokio::test]
async fn generate_explains_what_was_wrong() {
    let repository = Repository::new();
    let server = repository.serve().await;
    let at = |more: &[&'static str]| [&["generate", "--server", &server.address], more].concat();
    let refused = flowmap(&at(&["--count", "4000", "--guidance", "99"])).await;
    assert_eq!(refused.status.code(), Some(1));
    let told = text(&refused.stderr);
    assert!(told.contains("\n         count: is 4000") && told.contains("\n         guidance: is 99"), "{told}");
    let unknown = flowmap(&at(&["--class", "shoe"])).await;
    assert_eq!(unknown.status.code(), Some(2));
    assert!(text(&unknown.stderr).contains("one of: 0 Boot, 1 Bag, 2 Coat"), "{}", text(&unknown.stderr));
    let missing = flowmap(&at(&["--model", "other"])).await;
    assert!(text(&missing.stderr).contains("loaded are: small@1"), "{}", text(&missing.stderr));
    let nobody = flowmap(&["generate", "--server", "127.0.0.1:1"]).await;
    assert_eq!(nobody.status.code(), Some(1));
    assert!(text(&nobody.stderr).contains("--local"), "{}", text(&nobody.stderr));
}

#[tokio::test]
async fn inspect_tells_and_prints_the_recipe() {
    let dir = Repository::new();
    let folder = dir.checkpoint().display().to_string();
    let told = flowmap(&["inspect", &folder, "--tensors"]).await;
    assert!(told.status.success() && text(&told.stdout).contains("small@1"), "{}", text(&told.stdout));
    assert_eq!(text(&flowmap(&["inspect", &folder, "--recipe"]).await.stdout), "seed = 3\n");
}

#[tokio::test]
async fn generate_without_a_server_refuses_what_the_model_does_not_take() {
    let repository = Repository::with(TimePairs::Diagonal);
    let root = repository.root().display().to_string();
    let order = ["generate", "--local", "--models", &root, "--sampler", "flow-map", "--guidance", "9"];
    let refused = flowmap(&order).await;
    assert_eq!(refused.status.code(), Some(2));
    let told = text(&refused.stderr);
    assert!(
        told.contains("--sampler flow-map: small@1: flow-map needs (0, 0.25), but this model is a velocity"),
        "{told}"
    );
    assert!(told.contains("--guidance 9: small@1 takes scale 0 to 4"), "{told}");
}

#[tokio::test]
async fn every_beginning_is_the_same_with_and_without_a_server() {
    let repository = Repository::with(TimePairs::Square);
    let server = repository.serve().await;
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).display().to_string();
    let [one, two, there, here, receipts] = ["1.png", "2.png", "there.npy", "here.npy", "r.json"].map(path);
    for (file, shade) in [(&one, 40), (&two, 200)] {
        image::RgbImage::from_fn(20, 16, |x, _| image::Rgb([shade, x as u8 * 9, 77])).save(file).unwrap();
    }
    let root = repository.root().display().to_string();
    for more in [
        &["--image", &one, "--strength", "0.5", "--sampler", "gamma:0.5"][..],
        &["--image", &one, "--encode"],
        &["--image", &one, "--interpolate", &two],
    ] {
        let order = ["generate", "--class", "bag", "--count", "3", "--steps", "2", "--seed", "9"];
        let order = [&order[..], more].concat();
        let remote = ["--server", &server.address, "--npy", &there, "--receipts", &receipts];
        for backend in [&remote[..], &["--local", "--models", &root, "--npy", &here]] {
            let output = flowmap(&[&order[..], backend].concat()).await;
            assert!(output.status.success(), "{more:?}: {}", text(&output.stderr));
        }
        assert_eq!(std::fs::read(&there).unwrap(), std::fs::read(&here).unwrap(), "{more:?}");
        if more.contains(&"--strength") {
            let again = |picture| ["reproduce", &receipts, "--models", &root, "--image", picture].map(String::from);
            for (picture, succeeds) in [(one.as_str(), true), (&two, false)] {
                let output = flowmap(&again(picture).each_ref().map(String::as_str)).await;
                assert_eq!(output.status.success(), succeeds, "{}", text(&output.stderr));
            }
        }
    }
    let adaptive =
        ["generate", "--local", "--models", &root, "--ode", "1e-4", "--count", "2", "--npy", &here, "--json"];
    let told: serde_json::Value = serde_json::from_slice(&flowmap(&adaptive).await.stdout).unwrap();
    assert_eq!(told["requests"][0]["sampler"], "dopri5");
    assert!(told["requests"][0]["evaluations"].as_u64().unwrap() >= 14);
}

#[tokio::test]
async fn images_are_made_again_and_continued_from_their_receipts() {
    let repository = Repository::new();
    let server = repository.serve().await;
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).display().to_string();
    let (first, further, again, sheet) = (path("first.json"), path("further.json"), path("again"), path("a.png"));
    let root = repository.root().display().to_string();
    let generate = async |more: &[&str]| {
        let order = [&["generate", "--server", &server.address, "--out", &sheet, "--tenant", "me"], more].concat();
        let output = flowmap(&order).await;
        assert!(output.status.success(), "{}", text(&output.stderr));
        text(&output.stdout)
    };
    let told = generate(&["--steps", "1,3", "--seed", "9", "--guidance", "2.5", "--receipts", &first]).await;
    assert!(told.contains("first.json written"), "{told}");
    generate(&["--continue", &first, "--steps", "6", "--min-steps", "2", "--receipts", &further]).await;
    for receipts in [&first, &further] {
        let output = flowmap(&["reproduce", receipts, "--models", &root, "--out", &again]).await;
        let told = text(&output.stdout);
        assert!(output.status.success() && told.lines().count() == 6, "{told}{}", text(&output.stderr));
        assert!(told.lines().all(|line| line.ends_with(": same bytes")), "{told}");
    }
    assert!(image::open(folder.path().join("again/image-0005.png")).is_ok());
    let receipts = std::fs::read_to_string(&further).unwrap();
    std::fs::write(&further, receipts.replacen("\"seed\": 9", "\"seed\": 10", 1)).unwrap();
    let output = flowmap(&["reproduce", &further, "--models", &root]).await;
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stdout).lines().next().unwrap().contains(": different, BLAKE3 "), "{}", text(&output.stdout));
    assert!(text(&output.stderr).contains("1 of 6 images came out different"), "{}", text(&output.stderr));
}
