"""flowmap's checkpoints, read and (with random weights, for networks of other sizes) written."""

import json
import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file, save_file


@dataclass
class Checkpoint:
    """The contents of a checkpoint's folder: `config.json`, and the weights in float32 by name."""

    config: dict
    weights: dict[str, np.ndarray]

    @property
    def architecture(self) -> dict:
        return self.config["architecture"]

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of one sample, `[channels, height, width]`."""
        return tuple(self.config["data"]["shape"])

    @property
    def classes(self) -> int:
        """How many classes there are; this number is also the label of the null class."""
        return len(self.config["data"]["classes"])


def read(folder: str | Path) -> Checkpoint:
    """The checkpoint of `folder`."""
    folder = Path(folder)
    config = json.loads((folder / "config.json").read_text())
    weights = load_file(folder / "model.safetensors")
    return Checkpoint(config, {name: np.ascontiguousarray(w, dtype=np.float32) for name, w in weights.items()})


def write(folder: str | Path, checkpoint: Checkpoint) -> None:
    """Writes a checkpoint such that flowmap loads it."""
    from blake3 import blake3

    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / "model.safetensors"
    save_file(checkpoint.weights, file)
    parameters = sum(math.prod(w.shape) for w in checkpoint.weights.values())
    record = {"parameters": parameters, "blake3": blake3(file.read_bytes()).hexdigest()}
    (folder / "config.json").write_text(json.dumps({**checkpoint.config, "weights": record}, indent=2) + "\n")


def random(architecture: dict, shape: list[int], classes: int, seed: int = 0) -> Checkpoint:
    """A flow map with random weights: no image comes out of it, but every layer does its work."""
    import nets

    config = {
        "schema_version": 1,
        "description": "Random weights, for measurements",
        "architecture": architecture,
        "data": {
            "name": "none",
            "shape": list(shape),
            "range": [-1.0, 1.0],
            "classes": [str(number) for number in range(classes)],
        },
        "noise_scale": 1.0,
        "time_convention": "noise_0_data_1",
        "guidance": {"kind": "two_call", "max": 8.0},
        "time_pairs": "triangle",
        "training": {"objective": "lmd", "steps": 0, "samples": 0, "ema_decay": 0.0, "recipe": "", "teacher": None},
    }
    generator = np.random.default_rng(seed)
    empty = Checkpoint(config, {})

    def draw(name: str, shape: tuple[int, ...]) -> np.ndarray:
        if len(shape) == 1:
            # Of a norm or a bias.
            return (name.endswith(".weight") + 0.02 * generator.standard_normal(shape)).astype(np.float32)
        spread = 0.02 if name == "classes" else 1 / math.sqrt(math.prod(shape[:-1]))
        return (spread * generator.standard_normal(shape)).astype(np.float32)

    shapes = nets.of(empty).shapes(empty)
    return Checkpoint(config, {name: draw(name, shape) for name, shape in shapes.items()})
