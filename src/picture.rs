//! Pictures for people: PNG files, grids of samples with captions.
