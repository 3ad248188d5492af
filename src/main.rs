//! The `flowmap` binary.
fn main() {}
