//! Text (defaults → file → environment → flags) → validated values, all problems reported at once.
