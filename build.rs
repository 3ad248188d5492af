//! Compiles `proto/` without a system `protoc`: generated code and the descriptor set that reflection serves.

use std::error::Error;
use std::path::PathBuf;

#[expect(clippy::disallowed_methods, reason = "cargo tells build scripts in no other way")]
fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo:rerun-if-changed=proto");
    let out = PathBuf::from(std::env::var_os("OUT_DIR").ok_or("OUT_DIR is not set")?);
    let mut compiler = protox::Compiler::new(["proto"])?;
    compiler.include_source_info(true).include_imports(true).open_file("flowmap/v1/generation.proto")?;
    // `compile_fds` generates code only: the descriptor set is written here, as protoc would encode it.
    std::fs::write(out.join("flowmap.v1.bin"), compiler.encode_file_descriptor_set())?;
    tonic_prost_build::configure().bytes(".flowmap.v1").compile_fds(compiler.file_descriptor_set())?;
    Ok(())
}
