"""The patch transformer in PyTorch, as its users write it: `nn.Linear`, `layer_norm`, fused attention."""

import torch
from torch import nn
from torch.nn import functional as F

from checkpoint import Checkpoint
from nets.attention_torch import attention
from nets.times import frequencies, positions

EPSILON = 1e-6


class Dit(nn.Module):
    def __init__(self, checkpoint: Checkpoint):
        super().__init__()
        a, width = checkpoint.architecture, checkpoint.architecture["width"]
        self.channels, *sides = checkpoint.shape
        self.patch, self.heads = a["patch"], a["heads"]
        self.rows, self.columns = (side // self.patch for side in sides)
        self.register_buffer("frequencies", torch.from_numpy(frequencies(a["frequencies"], a["max_frequency"])))
        self.register_buffer("positions", torch.from_numpy(positions(self.rows, self.columns, width)))
        elements = self.channels * self.patch**2
        self.times = nn.ModuleDict(
            {"hidden": nn.Linear(4 * a["frequencies"], width), "output": nn.Linear(width, width)}
        )
        self.classes = nn.Parameter(torch.empty(checkpoint.classes + 1, width))
        self.input = nn.Linear(elements, width)
        self.blocks = nn.ModuleList(Block(width, self.heads, a["mlp_ratio"]) for _ in range(a["depth"]))
        self.final_modulation = nn.Linear(width, 2 * width)
        self.output = nn.Linear(width, elements)
        # nn.Linear keeps its weights (outputs, inputs).
        turned = {
            name: torch.from_numpy(weight.T.copy() if name.endswith(".weight") else weight)
            for name, weight in checkpoint.weights.items()
        }
        missing, unexpected = self.load_state_dict(turned, strict=False)
        assert not unexpected and set(missing) <= {"frequencies", "positions"}, (missing, unexpected)

    def embed(self, time: torch.Tensor) -> torch.Tensor:
        angle = time[:, None] * self.frequencies
        return torch.cat([angle.cos(), angle.sin()], 1)

    def forward(self, x, s, t, labels):
        times = torch.cat([self.embed(s), self.embed(t - s)], 1)
        times = self.times["output"](F.silu(self.times["hidden"](times)))
        condition = F.silu(times + self.classes[labels])
        h = self.input(self.split(x)) + self.positions
        for block in self.blocks:
            h = block(h, condition)
        shift, scale = self.final_modulation(condition).chunk(2, 1)
        return self.join(self.output(modulated(h, shift, scale)))

    def split(self, x):
        p, shape = self.patch, (len(x), self.channels, self.rows, self.patch, self.columns, self.patch)
        return x.reshape(shape).permute(0, 2, 4, 1, 3, 5).reshape(len(x), -1, self.channels * p * p)

    def join(self, x):
        shape = (len(x), self.rows, self.columns, self.channels, self.patch, self.patch)
        x = x.reshape(shape).permute(0, 3, 1, 4, 2, 5)
        return x.reshape(len(x), self.channels, self.rows * self.patch, self.columns * self.patch)


class Block(nn.Module):
    def __init__(self, width: int, heads: int, ratio: int):
        super().__init__()
        self.heads = heads
        self.modulation = nn.Linear(width, 6 * width)
        self.qkv = nn.Linear(width, 3 * width)
        self.projection = nn.Linear(width, width)
        self.expand = nn.Linear(width, ratio * width)
        self.contract = nn.Linear(ratio * width, width)

    def forward(self, x, condition):
        shift_a, scale_a, gate_a, shift_m, scale_m, gate_m = self.modulation(condition).chunk(6, 1)
        h = self.projection(self.attention(modulated(x, shift_a, scale_a)))
        x = torch.addcmul(x, gate_a[:, None], h)
        h = self.contract(F.silu(self.expand(modulated(x, shift_m, scale_m))))
        return torch.addcmul(x, gate_m[:, None], h)

    def attention(self, h):
        batch, tokens, width = h.shape
        qkv = self.qkv(h).reshape(batch, tokens, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        h = attention(*qkv.unbind(0))
        return h.transpose(1, 2).reshape(batch, tokens, width)


def modulated(x, shift, scale):
    return torch.addcmul(shift[:, None], F.layer_norm(x, x.shape[-1:], eps=EPSILON), 1 + scale[:, None])
