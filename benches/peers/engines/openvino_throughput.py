"""OpenVINO with the THROUGHPUT hint: the batch is cut in one part for each of its streams."""

import numpy as np

from batch import part
from engines import openvino_latency


class Engine(openvino_latency.Engine):
    def prepare(self, rows, threads):
        count = min(rows, threads)
        bounds = [rows * i // count for i in range(count + 1)]
        parts = list(zip(bounds, bounds[1:]))
        compiled = {end - start: self.compile(end - start, threads, "THROUGHPUT") for start, end in parts}
        requests = [compiled[end - start].create_infer_request() for start, end in parts]

        def forward(data):
            for request, bounds in zip(requests, parts):
                request.start_async(part(data, *bounds), share_inputs=True)
            for request in requests:
                request.wait()
            return np.concatenate([request.get_output_tensor(0).data for request in requests])

        return forward
