"""OpenVINO with the THROUGHPUT hint: the batch is cut in parts, which its streams take in turn."""

import numpy as np

from batch import part, parts
from engines import openvino_latency


class Engine(openvino_latency.Engine):
    def prepare(self, rows, threads):
        cuts = parts(rows, threads)
        compiled = {size: self.compile(size, threads, "THROUGHPUT") for size in {end - start for start, end in cuts}}
        requests = [compiled[end - start].create_infer_request() for start, end in cuts]

        def forward(data):
            for request, cut in zip(requests, cuts):
                request.start_async(part(data, *cut), share_inputs=True)
            for request in requests:
                request.wait()
            return np.concatenate([request.get_output_tensor(0).data for request in requests])

        return forward
