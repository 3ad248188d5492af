//! The models that are part of the program, so that it serves something right after installation.

/// One embedded model: the two files of its checkpoint.
#[derive(Debug, Clone, Copy)]
pub struct Embedded {
    /// Its name.
    pub name: &'static str,
    /// Its version.
    pub version: u32,
    /// The bytes of `config.json`.
    pub config: &'static [u8],
    /// The bytes of `model.safetensors`.
    pub weights: &'static [u8],
}

/// Every embedded model.
pub const MODELS: &[Embedded] = &[
    Embedded {
        name: "checkerboard",
        version: 1,
        config: include_bytes!("../../models/checkerboard/1/config.json"),
        weights: include_bytes!("../../models/checkerboard/1/model.safetensors"),
    },
    Embedded {
        name: "fashion-mnist",
        version: 1,
        config: include_bytes!("../../models/fashion-mnist/1/config.json"),
        weights: include_bytes!("../../models/fashion-mnist/1/model.safetensors"),
    },
];
