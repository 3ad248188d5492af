"""A few lines over `onnx.helper`, to write networks as they are read."""

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

OPSET = 21


class Graph:
    """An ONNX graph in the making. Values are names."""

    def __init__(self, name: str):
        self.name = name
        self.nodes: list[onnx.NodeProto] = []
        self.initialisers: dict[str, onnx.TensorProto] = {}
        self.inputs: list[onnx.ValueInfoProto] = []

    def input(self, name: str, dtype: int, shape: list) -> str:
        self.inputs.append(helper.make_tensor_value_info(name, dtype, shape))
        return name

    def constant(self, value, name: str | None = None) -> str:
        """A tensor that is part of the model; equal unnamed ones are kept once."""
        value = np.asarray(value)
        if name is None:
            name = f"constant_{value.dtype}_{'x'.join(map(str, value.shape))}_{hash(value.tobytes()) & 0xFFFFFFFFFFFF:x}"
        if name not in self.initialisers:
            self.initialisers[name] = numpy_helper.from_array(np.ascontiguousarray(value), name)
        return name

    def ints(self, *values: int) -> str:
        return self.constant(np.array(values, dtype=np.int64))

    def op(self, kind: str, *inputs: str, outputs: int = 1, domain: str = "", **attributes):
        """One node; the name of its output, or the names of its outputs."""
        base = f"{kind}_{len(self.nodes)}"
        names = [base] if outputs == 1 else [f"{base}_{i}" for i in range(outputs)]
        self.nodes.append(helper.make_node(kind, list(inputs), names, name=base, domain=domain, **attributes))
        return names[0] if outputs == 1 else names

    def silu(self, x: str) -> str:
        return self.op("Mul", x, self.op("Sigmoid", x))

    def split(self, x: str, parts: int, axis: int) -> list[str]:
        return self.op("Split", x, outputs=parts, axis=axis, num_outputs=parts)

    def reshape(self, x: str, *shape: int) -> str:
        return self.op("Reshape", x, self.ints(*shape))

    def transpose(self, x: str, *order: int) -> str:
        return self.op("Transpose", x, perm=list(order))

    def build(self, output: str, shape: list) -> onnx.ModelProto:
        """The model whose only output is `output`, called `velocity`."""
        self.nodes.append(helper.make_node("Identity", [output], ["velocity"]))
        out = helper.make_tensor_value_info("velocity", TensorProto.FLOAT, shape)
        graph = helper.make_graph(self.nodes, self.name, self.inputs, [out], list(self.initialisers.values()))
        opsets = [helper.make_opsetid("", OPSET), helper.make_opsetid("com.microsoft", 1)]
        model = helper.make_model(graph, opset_imports=opsets, ir_version=10)
        onnx.checker.check_model(model)
        return model
