"""ONNX Runtime as a server's author may use it: the batch is cut in parts, which threads take in turn through sessions
that have one thread."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np

from batch import part, parts
from engines import ort


class Engine(ort.Engine):
    def prepare(self, rows, threads):
        cuts = parts(rows, threads)
        sessions = {end - start: ort.session(self.model, 1, end - start) for start, end in cuts}
        pool = ThreadPoolExecutor(threads)

        def forward(data):
            def run(cut):
                return sessions[cut[1] - cut[0]].run(None, part(data, *cut))[0]

            return np.concatenate(list(pool.map(run, cuts) if threads > 1 else map(run, cuts)))

        return forward
