//! Compiles `proto/` without a system `protoc`.

use std::path::PathBuf;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo:rerun-if-changed=proto");
    let descriptors = protox::compile(["proto/flowmap/v1/generation.proto"], ["proto"])?;
    let out = PathBuf::from(std::env::var_os("OUT_DIR").ok_or("OUT_DIR is not set")?);
    tonic_prost_build::configure()
        .bytes(".flowmap.v1")
        .file_descriptor_set_path(out.join("flowmap.v1.bin"))
        .compile_fds(descriptors)?;
    Ok(())
}
