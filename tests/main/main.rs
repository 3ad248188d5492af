//! Everything that a client or an operator can see, over real sockets on free ports: one binary, a module per concern.

mod calls;
mod lifecycle;
mod observability;
mod refusals;
mod robustness;
mod support;
