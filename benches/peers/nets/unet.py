"""The U-Net: "SongUNet" of EDM (arXiv 2206.00364) in its DDPM++ configuration."""

from dataclasses import dataclass

import numpy as np
import onnx
from onnx import TensorProto

from checkpoint import Checkpoint
from graph import Graph
from nets.times import frequencies

EPSILON = 1e-6


@dataclass
class Block:
    """A residual block and what it does to the resolution: "keep", "down" or "up"."""

    name: str
    inputs: int
    outputs: int
    resample: str = "keep"
    attends: bool = False
    # Whether an activation of the encoder is joined to its input.
    joins: bool = False

    @property
    def changes(self) -> bool:
        return self.inputs != self.outputs or self.resample != "keep"


def layout(checkpoint: Checkpoint) -> tuple[list[Block], list[Block]]:
    """The blocks of the encoder and of the decoder, in their order."""
    a, (_, height, width) = checkpoint.architecture, checkpoint.shape
    widths = [a["channels"] * multiplier for multiplier in a["multipliers"]]
    encoder, decoder, skips, now = [], [], [a["channels"]], a["channels"]

    def name(part: str, level: int, block: str) -> str:
        return f"{part}.{height >> level}x{width >> level}_{block}"

    def attends(level: int) -> bool:
        return height >> level in a["attention"]

    for level, wide in enumerate(widths):
        if level > 0:
            encoder.append(Block(name("enc", level, "down"), now, now, "down"))
            skips.append(now)
        for index in range(a["blocks"]):
            encoder.append(Block(name("enc", level, f"block{index}"), now, wide, attends=attends(level)))
            now = wide
            skips.append(now)
    for level, wide in reversed(list(enumerate(widths))):
        if level == len(widths) - 1:
            decoder.append(Block(name("dec", level, "in0"), now, now, attends=True))
            decoder.append(Block(name("dec", level, "in1"), now, now))
        else:
            decoder.append(Block(name("dec", level, "up"), now, now, "up"))
        for index in range(a["blocks"] + 1):
            last = index == a["blocks"] and attends(level)
            block = name("dec", level, f"block{index}")
            decoder.append(Block(block, now + skips.pop(), wide, attends=last, joins=True))
            now = wide
    return encoder, decoder


def groups(channels: int) -> int:
    """Of a group norm."""
    return next((count for count in range(min(32, channels // 4), 0, -1) if channels % count == 0), 1)


def shapes(checkpoint: Checkpoint) -> dict[str, tuple[int, ...]]:
    a, (planes, height, width) = checkpoint.architecture, checkpoint.shape
    embedding, condition = 4 * a["frequencies"], 4 * a["channels"]
    encoder, decoder = layout(checkpoint)
    last = decoder[-1].outputs
    first, end = f"enc.{height}x{width}_conv", f"dec.{height}x{width}_aux"
    layers = {"map_layer0": (embedding, condition), "map_layer1": (condition, condition)}
    layers |= {first: (3, 3, planes, a["channels"]), f"{end}_conv": (3, 3, last, planes), f"{end}_norm": (last,)}
    for block in encoder + decoder:
        wide = block.outputs
        parts = {
            "norm0": (block.inputs,),
            "conv0": (3, 3, block.inputs, wide),
            "affine": (condition, wide),
            "norm1": (wide,),
            "conv1": (3, 3, wide, wide),
        }
        if block.changes:
            parts["skip"] = (block.inputs, wide)
        if block.attends:
            parts |= {"norm2": (wide,), "qkv": (wide, 3 * wide), "proj": (wide, wide)}
        layers |= {f"{block.name}.{part}": shape for part, shape in parts.items()}
    out = {"map_label.weight": (checkpoint.classes + 1, embedding)}
    for name, shape in layers.items():
        out |= {f"{name}.weight": shape, f"{name}.bias": shape[-1:]}
    return out


def onnx_model(checkpoint: Checkpoint, target: str) -> onnx.ModelProto:
    return _Onnx(checkpoint, target).model()


class _Onnx:
    """The graph, written for speed: one product gives what all blocks add to their activations, to which the biases of
    the convolutions before are folded; the factor of a residual sum is folded into the layers before it where there
    are any. Group norms are written in the way for which each runtime has a kernel.
    """

    def __init__(self, checkpoint: Checkpoint, target: str):
        self.checkpoint, self.a, self.w, self.target = checkpoint, checkpoint.architecture, checkpoint.weights, target
        self.half = np.float32(0.5**0.5)
        self.g = Graph("unet")

    def model(self) -> onnx.ModelProto:
        g, (planes, height, width) = self.g, self.checkpoint.shape
        shape = ["B", planes, height, width]
        x = g.input("x", TensorProto.FLOAT, shape)
        s, t = (g.input(name, TensorProto.FLOAT, ["B"]) for name in ("s", "t"))
        labels = g.input("labels", TensorProto.INT64, ["B"])
        encoder, decoder = layout(self.checkpoint)
        shifts = self.shifts(self.condition(s, t, labels), encoder + decoder)
        h = self.conv3x3(f"enc.{height}x{width}_conv", x)
        skips = [h]
        for block in encoder:
            h = self.block(block, h, shifts[block.name])
            skips.append(h)
        for block in decoder:
            if block.joins:
                h = g.op("Concat", h, skips.pop(), axis=1)
            h = self.block(block, h, shifts[block.name])
        end = f"dec.{height}x{width}_aux"
        return g.build(self.conv3x3(f"{end}_conv", g.silu(self.norm(f"{end}_norm", h))), shape)

    def weight(self, name: str) -> str:
        return self.g.constant(self.w[name], name)

    def condition(self, s: str, t: str, labels: str) -> str:
        g = self.g
        omega = g.constant(frequencies(self.a["frequencies"], self.a["max_frequency"])[None, :], "frequencies")
        parts = []
        for time in (s, g.op("Sub", t, s)):
            angle = g.op("Mul", g.reshape(time, -1, 1), omega)
            parts += [g.op("Cos", angle), g.op("Sin", angle)]
        h = g.op("Add", g.op("Concat", *parts, axis=1), g.op("Gather", self.weight("map_label.weight"), labels))
        for layer in ("map_layer0", "map_layer1"):
            h = g.silu(g.op("Gemm", h, self.weight(f"{layer}.weight"), self.weight(f"{layer}.bias")))
        return h

    def shifts(self, condition: str, blocks: list[Block]) -> dict[str, str]:
        """`(B, C, 1, 1)` for each block: what is added after its first convolution, that one's bias included."""
        g = self.g
        weight = np.concatenate([self.w[f"{block.name}.affine.weight"] for block in blocks], axis=1)
        biases = [self.w[f"{block.name}.affine.bias"] + self.w[f"{block.name}.conv0.bias"] for block in blocks]
        bias = g.constant(np.concatenate(biases), "affine.bias")
        all = g.op("Gemm", condition, g.constant(weight, "affine.weight"), bias)
        sizes = g.ints(*(block.outputs for block in blocks))
        parts = g.op("Split", g.reshape(all, -1, weight.shape[1], 1, 1), sizes, outputs=len(blocks), axis=1)
        return dict(zip((block.name for block in blocks), parts))

    def conv3x3(self, name: str, x: str, scale: float = 1.0, bias: bool = True) -> str:
        weight = (scale * self.w[f"{name}.weight"]).transpose(3, 2, 0, 1)
        inputs = [x, self.g.constant(weight, f"{name}.weight")]
        if bias:
            inputs.append(self.g.constant(scale * self.w[f"{name}.bias"], f"{name}.bias"))
        return self.g.op("Conv", *inputs, kernel_shape=[3, 3], pads=[1, 1, 1, 1])

    def conv1x1(self, name: str, x: str, scale: float) -> str:
        weight = (scale * self.w[f"{name}.weight"]).T[:, :, None, None]
        bias = self.g.constant(scale * self.w[f"{name}.bias"], f"{name}.bias")
        return self.g.op("Conv", x, self.g.constant(weight, f"{name}.weight"), bias, kernel_shape=[1, 1])

    def norm(self, name: str, x: str) -> str:
        g, channels = self.g, len(self.w[f"{name}.weight"])
        count = groups(channels)
        if self.target == "openvino":
            weights = self.weight(f"{name}.weight"), self.weight(f"{name}.bias")
            return g.op("GroupNormalization", x, *weights, num_groups=count, epsilon=EPSILON)
        grouped = g.op("Reshape", x, g.ints(0, count, -1))
        ones, zeros = (g.constant(np.full(count, value, np.float32)) for value in (1, 0))
        h = g.op("InstanceNormalization", grouped, ones, zeros, epsilon=EPSILON)
        h = g.op("Reshape", h, g.op("Shape", x))
        weight, bias = (
            g.constant(self.w[f"{name}.{part}"][:, None, None], f"{name}.{part}") for part in ("weight", "bias")
        )
        return g.op("Add", g.op("Mul", h, weight), bias)

    def resampled(self, block: Block, x: str) -> str:
        g = self.g
        if block.resample == "down":
            return g.op("AveragePool", x, kernel_shape=[2, 2], strides=[2, 2])
        if block.resample == "up":
            scales = g.constant(np.array([1, 1, 2, 2], np.float32))
            modes = {"coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}
            return g.op("Resize", x, "", scales, mode="nearest", **modes)
        return x

    def block(self, block: Block, x: str, shift: str) -> str:
        g, name = self.g, block.name
        h = self.resampled(block, g.silu(self.norm(f"{name}.norm0", x)))
        h = g.op("Add", self.conv3x3(f"{name}.conv0", h, bias=False), shift)
        h = self.conv3x3(f"{name}.conv1", g.silu(self.norm(f"{name}.norm1", h)), self.half)
        x = g.op("Add", h, self.skipped(block, x))
        if block.attends:
            x = self.attention(block, x)
        return x

    def skipped(self, block: Block, x: str) -> str:
        """The branch past the convolutions, over √2. A product comes before a repetition of pixels."""
        skip = f"{block.name}.skip"
        if not block.changes:
            return self.g.op("Mul", x, self.g.constant(self.half))
        if block.resample == "up":
            return self.resampled(block, self.conv1x1(skip, x, self.half))
        return self.conv1x1(skip, self.resampled(block, x), self.half)

    def attention(self, block: Block, x: str) -> str:
        g, name, wide = self.g, block.name, block.outputs
        height, width = (int(side) for side in name.split("_")[0].split(".")[1].split("x"))
        h = g.transpose(g.op("Reshape", self.norm(f"{name}.norm2", x), g.ints(0, wide, height * width)), 0, 2, 1)
        weight, bias = self.weight(f"{name}.qkv.weight"), self.weight(f"{name}.qkv.bias")
        if self.target == "ort":
            h = g.op("Attention", h, weight, bias, domain="com.microsoft", num_heads=1)
        else:
            q, k, v = g.split(g.op("Add", g.op("MatMul", h, weight), bias), 3, axis=2)
            q = g.op("Mul", q, g.constant(np.float32(wide**-0.5)))
            h = g.op("MatMul", g.op("Softmax", g.op("MatMul", q, g.transpose(k, 0, 2, 1)), axis=-1), v)
        out = self.half * self.w[f"{name}.proj.weight"], self.half * self.w[f"{name}.proj.bias"]
        weight, bias = (g.constant(w, f"{name}.proj.{part}") for w, part in zip(out, ("weight", "bias")))
        h = g.transpose(g.op("Add", g.op("MatMul", h, weight), bias), 0, 2, 1)
        h = g.op("Reshape", h, g.ints(0, wide, height, width))
        return g.op("Add", h, g.op("Mul", x, g.constant(self.half)))


def torch_module(checkpoint: Checkpoint):
    from nets import unet_torch

    return unet_torch.Unet(checkpoint)
