"""ONNX Runtime as a server's author may use it: the batch is cut in one part for each thread, and each part goes
through a session with one thread."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np

from batch import part
from engines import ort


class Engine(ort.Engine):
    def prepare(self, rows, threads):
        threads = min(rows, threads)
        bounds = [rows * i // threads for i in range(threads + 1)]
        parts = list(zip(bounds, bounds[1:]))
        sessions = {end - start: ort.session(self.model, 1, end - start) for start, end in parts}
        if threads == 1:
            return lambda data: sessions[rows].run(None, data)[0]
        pool = ThreadPoolExecutor(threads - 1)

        def run(bounds, data):
            return sessions[bounds[1] - bounds[0]].run(None, part(data, *bounds))[0]

        def forward(data):
            others = [pool.submit(run, bounds, data) for bounds in parts[1:]]
            return np.concatenate([run(parts[0], data), *(other.result() for other in others)])

        return forward
