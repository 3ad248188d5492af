"""Attention in PyTorch."""

import torch
from torch.autograd import forward_ad
from torch.nn import functional as F


def attention(q, k, v):
    """`softmax(q kᵀ / √d) v`: fused, but for inputs with tangents, for which the fused one has no derivative."""
    if forward_ad.unpack_dual(q).tangent is None:
        return F.scaled_dot_product_attention(q, k, v)
    return softmax(q @ k.transpose(-2, -1) * q.shape[-1] ** -0.5) @ v


def softmax(x):
    """With its tangent written out: that of `torch.softmax` cannot be differentiated once more."""
    primal, tangent = forward_ad.unpack_dual(x)
    y = torch.softmax(primal, -1)
    along = y * tangent
    return forward_ad.make_dual(y, along - y * along.sum(-1, keepdim=True))
