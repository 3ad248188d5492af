"""Checks that flowmap and the networks of this folder compute the same images from the same weights.

flowmap makes images from a seed in four steps, unguided; every engine makes them from the same noise along the same
time grid, so that each step compares another pair of times.
"""

import argparse
import subprocess
import sys
import tempfile
from importlib import import_module
from pathlib import Path

import numpy as np

import checkpoint as checkpoints
from noise import noise
from forward import ENGINES
from processes import ROOT

SEED, IMAGES, STEPS = 7, 8, 4


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--flowmap", type=Path, default=ROOT / "target/release/flowmap", help="the binary")
    parser.add_argument("--engines", nargs="+", choices=ENGINES, default=ENGINES)
    parser.add_argument("--tolerance", type=float, default=3e-5, help="largest difference, per pixel")
    args = parser.parse_args()
    checkpoint = checkpoints.read(args.checkpoint)
    expected = flowmap_images(args.flowmap, args.checkpoint.resolve())
    worst = 0.0
    for name in args.engines:
        forward = import_module(f"engines.{name}").Engine(checkpoint).prepare(IMAGES, 2)
        difference = float(np.abs(images(forward, checkpoint) - expected).max())
        worst = max(worst, difference)
        print(f"{name}: largest difference to flowmap {difference:.1e}, of images up to {np.abs(expected).max():.2f}")
    if not worst <= args.tolerance:
        sys.exit(f"more than {args.tolerance:.0e}: these are not the same networks")


def flowmap_images(binary: Path, folder: Path) -> np.ndarray:
    """Images `0 .. IMAGES` of the seed, each of its class."""
    with tempfile.TemporaryDirectory() as place:
        version = Path(place) / "models" / "peer" / "1"
        version.parent.mkdir(parents=True)
        version.symlink_to(folder, target_is_directory=True)
        out = Path(place) / "images.npy"
        wishes = ["--steps", STEPS, "--guidance", 1, "--seed", SEED, "--count", IMAGES, "--npy", out]
        command = [binary, "generate", "--local", "--models", version.parent.parent, "--model", "peer@1", *wishes]
        subprocess.run(list(map(str, command)), check=True, stdout=subprocess.DEVNULL)
        return np.load(out)


def images(forward, checkpoint: checkpoints.Checkpoint) -> np.ndarray:
    """The same by an engine."""
    x = noise(SEED, IMAGES, checkpoint.shape) * np.float32(checkpoint.config["noise_scale"])
    labels = np.arange(IMAGES, dtype=np.int64) % max(checkpoint.classes, 1)
    grid = np.linspace(0, 1, STEPS + 1, dtype=np.float32)
    for start, end in zip(grid, grid[1:]):
        s, t = (np.full(IMAGES, time, np.float32) for time in (start, end))
        x = x + (end - start) * forward({"x": x, "s": s, "t": t, "labels": labels})
    return x


if __name__ == "__main__":
    main()
