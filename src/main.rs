//! The `flowmap` binary: parse, run, explain what went wrong.

use std::process::ExitCode;

use clap::Parser;
use flowmap::cli::{self, Cli};

/// Networks allocate and free megabytes per operation; the system's allocator gives such pages back to the kernel each
/// time and faults them in again. mimalloc keeps them for a while (`MIMALLOC_PURGE_DELAY`, read by it at start; -1 in
/// the environment keeps them for good). Built without huge pages: they take twice the memory and save hardly any time
/// (`cargo bench --bench serve`).
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    keep_candle_off_other_cores();
    match Cli::parse().run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{}", cli::explain(&error));
            ExitCode::from(cli::exit_code(&error))
        }
    }
}

/// Here whole rows are spread over threads, each running the network by itself. candle's own pool for large
/// element-wise operations would spin on the same cores meanwhile, so it stays off unless the operator asks for it.
#[expect(unsafe_code, reason = "candle reads this setting from the environment and nowhere else")]
#[expect(clippy::disallowed_methods, reason = "the one look at the environment outside `config`: a library's setting")]
fn keep_candle_off_other_cores() {
    const SETTING: &str = "CANDLE_NUM_THREADS";
    if std::env::var_os(SETTING).is_none() {
        // SAFETY: the process has a single thread at this point, so no other reads the environment.
        unsafe { std::env::set_var(SETTING, "1") };
    }
}
