"""Writes a checkpoint with random weights, to measure networks of other sizes."""

import argparse
import json
from pathlib import Path

import checkpoint

DIT = {"kind": "dit", "patch": 4, "width": 192, "depth": 6, "heads": 3, "mlp_ratio": 4}
DIT |= {"frequencies": 16, "max_frequency": 16.0}

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("out", type=Path, help="folder to write")
parser.add_argument("--architecture", type=json.loads, default={}, help=f"JSON, over the default {json.dumps(DIT)}")
parser.add_argument("--shape", type=int, nargs=3, default=[1, 28, 28], help="channels, height, width")
parser.add_argument("--classes", type=int, default=10)
args = parser.parse_args()
kind = args.architecture.get("kind", "dit")
architecture = DIT | args.architecture if kind == "dit" else args.architecture
checkpoint.write(args.out, checkpoint.random(architecture, args.shape, args.classes))
