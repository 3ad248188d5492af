"""The rows that every engine is measured on: those of `benches/forward.rs`, but for the noise."""

import numpy as np


def batch(shape: tuple[int, ...], rows: int) -> dict[str, np.ndarray]:
    """Rows at different places of different grids."""
    place = np.arange(rows, dtype=np.float32) / np.float32(rows)
    noise = np.random.default_rng(0).standard_normal((rows, *shape), dtype=np.float32)
    return {"x": noise, "s": 0.5 * place, "t": 0.5 + 0.5 * place, "labels": np.arange(rows, dtype=np.int64) % 10}


def parts(rows: int, threads: int) -> list[tuple[int, int]]:
    """Cuts a batch for threads that each take whole parts: even ones, as many for each thread, of at most 8 rows (more
    do not stay in a core's cache)."""
    count = min(rows, threads * -(-rows // (8 * threads)))
    bounds = [rows * i // count for i in range(count + 1)]
    return list(zip(bounds, bounds[1:]))


def part(rows: dict[str, np.ndarray], start: int, end: int) -> dict[str, np.ndarray]:
    """Rows `start .. end`."""
    return {name: value[start:end] for name, value in rows.items()}
