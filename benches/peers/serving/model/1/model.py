"""The flow map as a model of Triton's Python backend: the whole walk of a batch's rows inside one call.

Triton forms the batch from what waits. Its rows may ask for different numbers of steps: each is walked along its own
time grid, answered as soon as it is done, and takes part in no further forward.
"""

import json

import numpy as np
import onnxruntime as ort
import triton_python_backend_utils as pb


class TritonPythonModel:
    def initialize(self, args):
        parameters = json.loads(args["model_config"])["parameters"]
        value = {name: parameter["string_value"] for name, parameter in parameters.items()}
        self.shape = tuple(json.loads(value["shape"]))
        self.scale = np.float32(value["noise_scale"])
        self.low, self.high = json.loads(value["range"])
        options = ort.SessionOptions()
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_ALL
        options.intra_op_num_threads = int(value["threads"])
        options.inter_op_num_threads = 1
        self.run = ort.InferenceSession(value["network"], options, providers=["CPUExecutionProvider"]).run
        for rows in (1, 2, 4, 8, 16, 32):
            times = np.zeros(rows, np.float32)
            self.velocity(np.zeros((rows, *self.shape), np.float32), times, times, np.zeros(rows, np.int64))

    def velocity(self, x, s, t, labels):
        return self.run(None, {"x": x, "s": s, "t": t, "labels": labels})[0]

    def execute(self, requests):
        def asked(name):
            tensors = [pb.get_input_tensor_by_name(request, name) for request in requests]
            return np.array([tensor.as_numpy().item() for tensor in tensors])

        senders = [request.get_response_sender() for request in requests]
        steps, labels, seeds = asked("steps"), asked("label"), asked("seed")
        x = np.stack([self.noise(seed) for seed in seeds])
        rows, step = np.arange(len(requests)), 0
        while len(rows):
            s, t = ((step + ahead) / steps[rows] for ahead in (0, 1))
            s, t = s.astype(np.float32), t.astype(np.float32)
            x += (t - s)[:, None, None, None] * self.velocity(x, s, t, labels[rows])
            step += 1
            done = steps[rows] == step
            if done.any():
                for row, image in zip(rows[done], self.bytes(x[done])):
                    response = pb.InferenceResponse([pb.Tensor("image", image[None])])
                    senders[row].send(response, flags=pb.TRITONSERVER_RESPONSE_COMPLETE_FINAL)
                rows, x = rows[~done], x[~done]
        # All answers are sent.
        return None

    def noise(self, seed):
        return self.scale * np.random.Generator(np.random.Philox(int(seed))).standard_normal(self.shape, np.float32)

    def bytes(self, x):
        return np.clip(np.rint((x - self.low) * (255 / (self.high - self.low))), 0, 255).astype(np.uint8)
