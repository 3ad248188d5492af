"""Runtimes for a checkpoint's network, each in a process of its own.

`python -m engines NAME CHECKPOINT` loads the network and then reads lines `rows threads seconds` from standard input.
It answers each by one line of JSON, `{"images_per_second": …}`: how many images it took through the network in that
time. What must be made once for a number of rows or threads is made and warmed up outside of that time.
"""

import json
import sys
import time

import numpy as np

import checkpoint as checkpoints
from batch import batch


class Engine:
    """A runtime. `prepare` gives a function that takes rows through the network and returns the velocities."""

    def __init__(self, checkpoint: checkpoints.Checkpoint):
        self.checkpoint = checkpoint

    def prepare(self, rows: int, threads: int):
        raise NotImplementedError


def rate(forward, images: int, seconds: float) -> float:
    """Images a second over `seconds`."""
    start, forwards = time.perf_counter(), 0
    while (elapsed := time.perf_counter() - start) < seconds:
        forward()
        forwards += 1
    return forwards * images / elapsed


def serve(engine: Engine) -> None:
    """Answers the lines of standard input until it ends."""
    prepared = {}
    for line in sys.stdin:
        rows, threads, seconds = (convert(word) for convert, word in zip((int, int, float), line.split()))
        data = batch(engine.checkpoint.shape, rows)
        if (rows, threads) not in prepared:
            prepared[rows, threads] = engine.prepare(rows, threads)
            assert np.isfinite(prepared[rows, threads](data)).all()
        forward = prepared[rows, threads]
        forward(data)
        print(json.dumps({"images_per_second": rate(lambda: forward(data), rows, seconds)}), flush=True)
