"""OpenVINO with the LATENCY hint: all threads work on one batch."""

import openvino

import engines
import nets


class Engine(engines.Engine):
    def __init__(self, checkpoint):
        super().__init__(checkpoint)
        self.core = openvino.Core()
        self.model = nets.of(checkpoint).onnx_model(checkpoint, "openvino").SerializeToString()

    def compile(self, rows: int, threads: int, hint: str) -> openvino.CompiledModel:
        """The network for batches of `rows` only."""
        model = self.core.read_model(self.model, b"")
        model.reshape({input.any_name: [rows, *input.partial_shape[1:]] for input in model.inputs})
        settings = {
            "PERFORMANCE_HINT": hint,
            "INFERENCE_NUM_THREADS": threads,
            "INFERENCE_PRECISION_HINT": "f32",
        }
        return self.core.compile_model(model, "CPU", settings)

    def prepare(self, rows, threads):
        request = self.compile(rows, threads, "LATENCY").create_infer_request()
        return lambda data: request.infer(data, share_inputs=True, share_outputs=True)[0]
