//! The `flowmap` binary: parse, run, explain what went wrong.

use std::process::ExitCode;

use clap::Parser;
use flowmap::cli::{self, Cli};

/// Networks allocate and free megabytes per operation; the system's allocator gives such pages back to the kernel each
/// time and faults them in again. mimalloc keeps them for a while (`MIMALLOC_PURGE_DELAY`, read by it at start; -1 in
/// the environment keeps them for good).
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    match Cli::parse().run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{}", cli::explain(&error));
            ExitCode::from(cli::exit_code(&error))
        }
    }
}
