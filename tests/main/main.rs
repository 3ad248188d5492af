//! Everything that a client or an operator can see, over real sockets on free ports: one binary, a module per concern.

mod calls;
mod client;
mod command;
mod lifecycle;
mod observability;
mod python;
mod real;
mod refusals;
mod robustness;
mod support;
mod tidy;
