"""Writes a model repository for Triton from a checkpoint of flowmap."""

import shutil
from pathlib import Path

import checkpoint as checkpoints
import nets

HERE = Path(__file__).resolve().parent

CONFIG = """name: "flowmap"
backend: "python"
max_batch_size: {batch}
input [
  {{ name: "steps" data_type: TYPE_INT32 dims: [ 1 ] }},
  {{ name: "label" data_type: TYPE_INT64 dims: [ 1 ] }},
  {{ name: "seed" data_type: TYPE_UINT64 dims: [ 1 ] }}
]
output [ {{ name: "image" data_type: TYPE_UINT8 dims: [ {dims} ] }} ]
dynamic_batching {{ max_queue_delay_microseconds: {delay_us} }}
instance_group [ {{ kind: KIND_CPU count: {instances} }} ]
parameters {{ key: "threads" value {{ string_value: "{threads}" }} }}
parameters {{ key: "network" value {{ string_value: "{network}" }} }}
parameters {{ key: "shape" value {{ string_value: "{shape}" }} }}
parameters {{ key: "range" value {{ string_value: "{range}" }} }}
parameters {{ key: "noise_scale" value {{ string_value: "{noise_scale}" }} }}
"""


def write(folder: Path, checkpoint: checkpoints.Checkpoint, instances: int, threads: int, batch: int, delay_us: int):
    """The repository: one model, `instances` processes with `threads` threads each."""
    model = folder / "flowmap"
    shutil.rmtree(model, ignore_errors=True)
    shutil.copytree(HERE / "model", model, ignore=shutil.ignore_patterns("__pycache__"))
    network = model / "1" / "network.onnx"
    network.write_bytes(nets.of(checkpoint).onnx_model(checkpoint, "ort").SerializeToString())
    config = CONFIG.format(
        batch=batch,
        dims=", ".join(map(str, checkpoint.shape)),
        delay_us=delay_us,
        instances=instances,
        threads=threads,
        network=network.resolve(),
        shape=list(checkpoint.shape),
        range=checkpoint.config["data"]["range"],
        noise_scale=checkpoint.config["noise_scale"],
    )
    (model / "config.pbtxt").write_text(config)
