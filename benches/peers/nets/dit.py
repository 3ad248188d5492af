"""The patch transformer (DiT, arXiv 2212.09748)."""

import numpy as np
import onnx
from onnx import TensorProto

from checkpoint import Checkpoint
from graph import Graph
from nets.times import frequencies, positions

EPSILON = 1e-6


def shapes(checkpoint: Checkpoint) -> dict[str, tuple[int, ...]]:
    a = checkpoint.architecture
    width, patch = a["width"], a["patch"]
    elements = checkpoint.shape[0] * patch * patch
    linears = {
        "input": (elements, width),
        "times.hidden": (4 * a["frequencies"], width),
        "times.output": (width, width),
        "final_modulation": (width, 2 * width),
        "output": (width, elements),
    }
    for block in range(a["depth"]):
        linears |= {
            f"blocks.{block}.modulation": (width, 6 * width),
            f"blocks.{block}.qkv": (width, 3 * width),
            f"blocks.{block}.projection": (width, width),
            f"blocks.{block}.expand": (width, a["mlp_ratio"] * width),
            f"blocks.{block}.contract": (a["mlp_ratio"] * width, width),
        }
    out = {"classes": (checkpoint.classes + 1, width)}
    for name, (inputs, outputs) in linears.items():
        out |= {f"{name}.weight": (inputs, outputs), f"{name}.bias": (outputs,)}
    return out


def onnx_model(checkpoint: Checkpoint, target: str) -> onnx.ModelProto:
    return _Onnx(checkpoint, target).model()


class _Onnx:
    """The graph, written for speed: one product gives the modulations of all blocks, whose `1 +` is folded into their
    biases. ONNX Runtime gets its own fused attention; it fuses the rest itself (SiLU, products with their biases).
    OpenVINO makes one kernel of the attention that is written out.
    """

    def __init__(self, checkpoint: Checkpoint, target: str):
        self.a, self.w, self.target = checkpoint.architecture, checkpoint.weights, target
        self.channels, height, width = checkpoint.shape
        self.patch, self.width, self.depth = self.a["patch"], self.a["width"], self.a["depth"]
        self.rows, self.columns = height // self.patch, width // self.patch
        self.tokens = self.rows * self.columns
        self.g = Graph("dit")

    def model(self) -> onnx.ModelProto:
        g, shape = self.g, ["B", self.channels, self.rows * self.patch, self.columns * self.patch]
        x = g.input("x", TensorProto.FLOAT, shape)
        s, t = (g.input(name, TensorProto.FLOAT, ["B"]) for name in ("s", "t"))
        labels = g.input("labels", TensorProto.INT64, ["B"])
        modulations = self.modulations(self.condition(s, t, labels))
        place = g.constant(positions(self.rows, self.columns, self.width)[None], "positions")
        h = g.op("Add", self.linear("input", self.split(x)), place)
        for block in range(self.depth):
            h = self.block(f"blocks.{block}", h, modulations[6 * block : 6 * block + 6])
        shift, scale = modulations[-2:]
        return g.build(self.join(self.linear("output", self.modulated(h, shift, scale))), shape)

    def constants(self, name: str) -> tuple[str, str]:
        """Weight and bias of a layer."""
        weight, bias = (self.g.constant(self.w[f"{name}.{part}"], f"{name}.{part}") for part in ("weight", "bias"))
        return weight, bias

    def linear(self, name: str, x: str) -> str:
        weight, bias = self.constants(name)
        return self.g.op("Add", self.g.op("MatMul", x, weight), bias)

    def condition(self, s: str, t: str, labels: str) -> str:
        g = self.g
        omega = g.constant(frequencies(self.a["frequencies"], self.a["max_frequency"])[None, :], "frequencies")
        parts = []
        for time in (s, g.op("Sub", t, s)):
            angle = g.op("Mul", g.reshape(time, -1, 1), omega)
            parts += [g.op("Cos", angle), g.op("Sin", angle)]
        times = self.linear("times.output", g.silu(self.linear("times.hidden", g.op("Concat", *parts, axis=1))))
        return g.silu(g.op("Add", times, g.op("Gather", g.constant(self.w["classes"], "classes"), labels)))

    def modulations(self, condition: str) -> list[str]:
        """`(B, 1, width)` each: shift, scale + 1, gate, shift, scale + 1, gate for each block; shift, scale + 1."""
        g, last = self.g, 6 * self.depth
        names = [f"blocks.{block}.modulation" for block in range(self.depth)] + ["final_modulation"]
        weight = np.concatenate([self.w[f"{name}.weight"] for name in names], axis=1)
        bias = np.concatenate([self.w[f"{name}.bias"] for name in names]).reshape(-1, self.width)
        bias[[*range(1, last, 6), *range(4, last, 6), last + 1]] += 1
        constants = g.constant(weight, "modulations.weight"), g.constant(bias.ravel(), "modulations.bias")
        all = g.op("Gemm", condition, *constants)
        return g.split(g.reshape(all, -1, len(bias), self.width), len(bias), axis=1)

    def split(self, x: str) -> str:
        g, p = self.g, self.patch
        x = g.reshape(x, -1, self.channels, self.rows, p, self.columns, p)
        return g.reshape(g.transpose(x, 0, 2, 4, 1, 3, 5), -1, self.tokens, self.channels * p * p)

    def join(self, x: str) -> str:
        g, p = self.g, self.patch
        x = g.transpose(g.reshape(x, -1, self.rows, self.columns, self.channels, p, p), 0, 3, 1, 4, 2, 5)
        return g.reshape(x, -1, self.channels, self.rows * p, self.columns * p)

    def modulated(self, x: str, shift: str, scale: str) -> str:
        g = self.g
        ones = g.constant(np.ones(self.width, np.float32), "ones")
        h = g.op("LayerNormalization", x, ones, axis=-1, epsilon=EPSILON)
        return g.op("Add", g.op("Mul", h, scale), shift)

    def block(self, name: str, x: str, modulation: list[str]) -> str:
        g = self.g
        shift_a, scale_a, gate_a, shift_m, scale_m, gate_m = modulation
        h = self.attention(f"{name}.qkv", self.modulated(x, shift_a, scale_a))
        x = g.op("Add", x, g.op("Mul", self.linear(f"{name}.projection", h), gate_a))
        h = g.silu(self.linear(f"{name}.expand", self.modulated(x, shift_m, scale_m)))
        return g.op("Add", x, g.op("Mul", self.linear(f"{name}.contract", h), gate_m))

    def attention(self, name: str, h: str) -> str:
        g, heads = self.g, self.a["heads"]
        if self.target == "ort":
            return g.op("Attention", h, *self.constants(name), domain="com.microsoft", num_heads=heads)
        each = self.width // heads
        qkv = g.transpose(g.reshape(self.linear(name, h), -1, self.tokens, 3, heads, each), 2, 0, 3, 1, 4)
        q, k, v = (g.op("Squeeze", part, g.ints(0)) for part in g.split(qkv, 3, axis=0))
        q = g.op("Mul", q, g.constant(np.float32(each**-0.5)))
        weights = g.op("Softmax", g.op("MatMul", q, g.transpose(k, 0, 1, 3, 2)), axis=-1)
        return g.reshape(g.transpose(g.op("MatMul", weights, v), 0, 2, 1, 3), -1, self.tokens, self.width)


def torch_module(checkpoint: Checkpoint):
    from nets import dit_torch

    return dit_torch.Dit(checkpoint)
