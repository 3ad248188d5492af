"""Embeddings of times and places, as flowmap defines them."""

import numpy as np


def frequencies(count: int, highest: float) -> np.ndarray:
    """`count` angular frequencies, geometric from 1 to `highest`, in float32."""
    last = max(count - 1, 1)
    return np.array([highest ** (k / last) for k in range(count)]).astype(np.float32)


def positions(rows: int, columns: int, width: int) -> np.ndarray:
    """`(rows * columns, width)`: sinusoids of the place of each patch, half of the width for each axis."""
    quarter = width // 4
    omega = 10_000.0 ** (-np.arange(quarter) / quarter)
    out = np.zeros((rows, columns, width))
    for axis, place in enumerate(np.meshgrid(np.arange(rows), np.arange(columns), indexing="ij")):
        angle = place[..., None] * omega
        out[..., 2 * axis * quarter : (2 * axis + 1) * quarter] = np.sin(angle)
        out[..., (2 * axis + 1) * quarter : (2 * axis + 2) * quarter] = np.cos(angle)
    return out.reshape(rows * columns, width).astype(np.float32)
