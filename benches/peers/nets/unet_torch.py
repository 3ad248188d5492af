"""The U-Net in PyTorch, as its users write it, in the memory layout that suits it on processors (channels last)."""

import torch
from torch import nn
from torch.nn import functional as F

from checkpoint import Checkpoint
from nets.attention_torch import attention
from nets.times import frequencies
from nets.unet import EPSILON, Block, groups, layout

HALF = 0.5**0.5


class Unet(nn.Module):
    def __init__(self, checkpoint: Checkpoint):
        super().__init__()
        a, (planes, height, width) = checkpoint.architecture, checkpoint.shape
        condition = 4 * a["channels"]
        omega = frequencies(a["frequencies"], a["max_frequency"])
        self.register_buffer("frequencies", torch.from_numpy(omega), persistent=False)
        self.map_label = nn.Embedding(checkpoint.classes + 1, 4 * a["frequencies"])
        self.map_layer0 = nn.Linear(4 * a["frequencies"], condition)
        self.map_layer1 = nn.Linear(condition, condition)
        self.encoder, self.decoder = layout(checkpoint)
        self.first, self.end = f"{height}x{width}_conv", f"{height}x{width}_aux"
        last = self.decoder[-1].outputs
        self.enc, self.dec = nn.ModuleDict(), nn.ModuleDict()
        self.enc[self.first] = nn.Conv2d(planes, a["channels"], 3, padding=1)
        for block in self.encoder + self.decoder:
            part, name = block.name.split(".")
            getattr(self, part)[name] = Residual(block, condition)
        self.dec[f"{self.end}_norm"] = nn.GroupNorm(groups(last), last, EPSILON)
        self.dec[f"{self.end}_conv"] = nn.Conv2d(last, planes, 3, padding=1)
        state = self.state_dict()
        self.load_state_dict({name: fitted(weight, state[name]) for name, weight in checkpoint.weights.items()})
        self.to(memory_format=torch.channels_last)

    def embed(self, time: torch.Tensor) -> torch.Tensor:
        angle = time[:, None] * self.frequencies
        return torch.cat([angle.cos(), angle.sin()], 1)

    def forward(self, x, s, t, labels):
        condition = torch.cat([self.embed(s), self.embed(t - s)], 1) + self.map_label(labels)
        condition = F.silu(self.map_layer1(F.silu(self.map_layer0(condition))))
        h = self.enc[self.first](x.contiguous(memory_format=torch.channels_last))
        skips = [h]
        for block in self.encoder:
            h = self.enc[block.name.split(".")[1]](h, condition)
            skips.append(h)
        for block in self.decoder:
            if block.joins:
                h = torch.cat([h, skips.pop()], 1)
            h = self.dec[block.name.split(".")[1]](h, condition)
        return self.dec[f"{self.end}_conv"](F.silu(self.dec[f"{self.end}_norm"](h))).contiguous()


def fitted(weight, like: torch.Tensor) -> torch.Tensor:
    """A weight of flowmap in PyTorch's layout."""
    weight = torch.from_numpy(weight)
    if weight.ndim == 4:
        return weight.permute(3, 2, 0, 1).contiguous()
    if weight.ndim == 2 and like.ndim == 4:
        return weight.T[:, :, None, None].contiguous()
    # Linear layers are turned; the table of classes is not.
    return weight if weight.ndim == 1 or weight.shape == like.shape != weight.T.shape else weight.T.contiguous()


class Residual(nn.Module):
    def __init__(self, block: Block, condition: int):
        super().__init__()
        inputs, wide = block.inputs, block.outputs
        self.resample = block.resample
        self.norm0 = nn.GroupNorm(groups(inputs), inputs, EPSILON)
        self.conv0 = nn.Conv2d(inputs, wide, 3, padding=1)
        self.affine = nn.Linear(condition, wide)
        self.norm1 = nn.GroupNorm(groups(wide), wide, EPSILON)
        self.conv1 = nn.Conv2d(wide, wide, 3, padding=1)
        self.skip = nn.Conv2d(inputs, wide, 1) if block.changes else None
        if block.attends:
            self.norm2 = nn.GroupNorm(groups(wide), wide, EPSILON)
            self.qkv = nn.Linear(wide, 3 * wide)
            self.proj = nn.Linear(wide, wide)

    def resampled(self, x):
        if self.resample == "down":
            return F.avg_pool2d(x, 2)
        return F.interpolate(x, scale_factor=2, mode="nearest") if self.resample == "up" else x

    def skipped(self, x):
        if self.skip is None:
            return x
        if self.resample == "up":
            return self.resampled(self.skip(x))
        return self.skip(self.resampled(x))

    def forward(self, x, condition):
        h = self.conv0(self.resampled(F.silu(self.norm0(x)))) + self.affine(condition)[:, :, None, None]
        h = self.conv1(F.silu(self.norm1(h)))
        x = (self.skipped(x) + h) * HALF
        return self.attend(x) if hasattr(self, "qkv") else x

    def attend(self, x):
        q, k, v = self.qkv(self.norm2(x).flatten(2).transpose(1, 2))[:, None].chunk(3, -1)
        h = self.proj(attention(q, k, v)[:, 0])
        return (x + h.transpose(1, 2).reshape(x.shape)) * HALF
