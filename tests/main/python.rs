//! The Python example against a real network. Opt-in, since it needs an interpreter with packages:
//! `FLOWMAP_PYTHON=python3 cargo test python`.

use std::ffi::OsString;
use std::path::Path;
use std::process::{Command, Output};

use candle_core::Tensor;
use flowmap::picture::to_u8;

use crate::real::{CLASSES, Repository, SHAPE};

/// Packages of `examples/python/requirements.txt`.
const IMPORTS: &str = "import grpc, grpc_status, grpc_tools, numpy, PIL";
/// How the script lays out its picture: pixels per pixel, and the margin on the left.
const SCALE: usize = 3;
const MARGIN: usize = 70;

async fn python(interpreter: &OsString, arguments: &[&str]) -> std::io::Result<Output> {
    let mut command = Command::new(interpreter);
    command.args(arguments);
    tokio::task::spawn_blocking(move || command.output()).await.unwrap()
}

/// The interpreter to use, or why there is none.
async fn interpreter() -> Result<OsString, String> {
    #[expect(clippy::disallowed_methods, reason = "a test has no configuration")]
    let named = std::env::var_os("FLOWMAP_PYTHON").ok_or("FLOWMAP_PYTHON does not name an interpreter")?;
    match python(&named, &["-c", IMPORTS]).await {
        Err(e) => Err(format!("{named:?} cannot be run: {e}")),
        Ok(output) if !output.status.success() => Err(String::from_utf8_lossy(&output.stderr).into_owned()),
        Ok(_) => Ok(named),
    }
}

#[tokio::test]
async fn the_python_example_gets_what_the_library_makes() {
    let interpreter = match interpreter().await {
        Ok(interpreter) => interpreter,
        Err(why) => return eprintln!("skipped: {why}"),
    };
    let repository = Repository::new();
    let server = repository.serve().await;
    let address = server.address.trim_start_matches("http://");
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/python/generate.py").display().to_string();
    let folder = tempfile::tempdir().unwrap();
    let [npy, png] = ["a.npy", "a.png"].map(|name| folder.path().join(name).display().to_string());
    let base = [script.as_str(), "--server", address, "--seed", "9"];
    let good = [&base[..], &["--steps", "1,4", "--npy", &npy, "--out", &png]].concat();
    let good = [&good[..], &["--min-steps", "2", "--deadline-ms", "60000", "--previews"]].concat();
    let output = python(&interpreter, &good).await.unwrap();
    let told = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && told.contains("4 steps: 3 images, 12 evaluations"), "{told}");

    let rows = [1, 4].map(|steps| repository.samples(9, steps, &[0, 1, 2]));
    let array = Tensor::read_npy(&npy).unwrap();
    assert_eq!(array.dims(), [&[2, CLASSES.len()], &SHAPE[..]].concat());
    assert_eq!(array.flatten_all().unwrap().to_vec1::<f32>().unwrap(), rows.concat().concat());
    let picture = image::open(&png).unwrap().into_rgb8();
    let [_, height, width] = SHAPE;
    for (y, row) in rows.iter().enumerate() {
        for (x, sample) in row.iter().enumerate() {
            let [left, top] = [MARGIN + x * width * SCALE, y * height * SCALE].map(|side| side as u32);
            let corner = [0, 1, 2].map(|channel| sample[channel * height * width]);
            assert_eq!(picture.get_pixel(left, top).0, *to_u8(&corner, [-2.0, 2.0]));
        }
    }

    let bad = [&base[..], &["--steps", "4", "--guidance", "99"]].concat();
    let output = python(&interpreter, &bad).await.unwrap();
    let told = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1));
    assert!(told.starts_with("INVALID_ARGUMENT: ") && told.contains("\n  guidance: is 99"), "{told}");
}
