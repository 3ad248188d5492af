//! The mathematics of flow maps, after Boffi, Albergo, Vanden-Eijnden, "Flow map matching", arXiv 2406.07507.
//!
//! Convention everywhere: `t = 0` is noise, `t = 1` is data; the interpolant is linear, `I_t = (1 - t) x₀ + t x₁`; a
//! flow map is written `X_{s,t}(x) = x + (t - s) v_{s,t}(x)` and its diagonal `v_{t,t} = b_t` is the velocity field.
//! `s` and `t` are vectors with one entry per row, so rows at different places of different grids share a batch.

pub mod adaptive;
pub mod dual;
pub mod gaussian;
pub mod guidance;
pub mod interpolant;
pub mod map;
pub mod noise;
pub mod sampler;

pub use dual::Dual;
pub use gaussian::GaussianFlow;
pub use interpolant::Interpolant;
pub use map::FlowMap;
