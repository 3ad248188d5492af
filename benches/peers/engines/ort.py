"""ONNX Runtime, with all its graph optimisations; its own threads inside operators."""

import onnxruntime as ort

import engines
import nets


def session(model: bytes, threads: int, rows: int | None = None) -> ort.InferenceSession:
    """A session on `threads` threads, for batches of `rows` only if that is given."""
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_ALL
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    if rows is not None:
        options.add_free_dimension_override_by_name("B", rows)
    return ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])


class Engine(engines.Engine):
    def __init__(self, checkpoint):
        super().__init__(checkpoint)
        self.model = nets.of(checkpoint).onnx_model(checkpoint, "ort").SerializeToString()

    def prepare(self, rows, threads):
        run = session(self.model, threads, rows).run
        return lambda data: run(None, data)[0]
