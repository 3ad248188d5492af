//! The `flowmap` binary.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;
#[derive(clap::Parser)]
struct A {
    #[command(subcommand)]
    c: C,
}
#[derive(clap::Subcommand)]
enum C {
    Train(flowmap::cli::train::Args),
}
fn main() {
    let a: A = clap::Parser::parse();
    let C::Train(t) = a.c;
    if let Err(e) = flowmap::cli::train::main(&t) {
        eprintln!("{e}");
        std::process::exit(1)
    }
}
