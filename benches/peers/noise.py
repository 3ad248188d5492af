"""flowmap's noise, version 1 (`src/flow/noise.rs`): Philox4x32-10, then Box and Muller."""

import numpy as np


def noise(seed: int, images: int, shape: tuple[int, ...]) -> np.ndarray:
    """Standard normal noise of images `0 .. images` under `seed`, `(images, *shape)` in float32."""
    elements = int(np.prod(shape))
    blocks = -(-elements // 4)
    counter = np.zeros((4, images, blocks), dtype=np.uint64)
    counter[0], counter[2] = np.arange(blocks), np.arange(images)[:, None]
    u = (philox(counter, seed & 0xFFFFFFFF, seed >> 32).astype(np.float64) + 0.5) / 2.0**32
    radius, angle = np.sqrt(-2 * np.log(u[0::2])), 2 * np.pi * u[1::2]
    normals = np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=1).reshape(4, images, blocks)
    return np.moveaxis(normals, 0, -1).reshape(images, -1)[:, :elements].reshape(images, *shape).astype(np.float32)


def philox(counter: np.ndarray, key0: int, key1: int) -> np.ndarray:
    """Philox4x32-10 of counters `(4, …)`, 32-bit words kept in 64 bits."""
    low = np.uint64(0xFFFFFFFF)
    x = counter
    for _ in range(10):
        first, second = x[0] * np.uint64(0xD2511F53), x[2] * np.uint64(0xCD9E8D57)
        high = np.uint64(32)
        x = np.stack(
            [
                (second >> high) ^ x[1] ^ np.uint64(key0),
                second & low,
                (first >> high) ^ x[3] ^ np.uint64(key1),
                first & low,
            ]
        )
        key0, key1 = (key0 + 0x9E3779B9) & 0xFFFFFFFF, (key1 + 0xBB67AE85) & 0xFFFFFFFF
    return x
