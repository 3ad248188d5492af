"""Training steps of the same network in PyTorch, eager: batches of 64, AdamW, clipping, an average of the weights.

Reads lines `objective threads seconds`, where the objective is `flow_matching` or `lmd`, and answers
`{"samples_per_second": …}`. The batch goes through the network at once, or in parts whose gradients are added up (as
flowmap does it): `--part` says in how many rows.
"""

import argparse
import copy
import json
import sys

import torch
from torch.autograd import forward_ad

import checkpoint as checkpoints
import engines
import nets
from batch import batch

BATCH = 64
# Rows of a batch with s = t, in Lagrangian map distillation.
DIAGONAL = 8


class Learner:
    def __init__(self, checkpoint: checkpoints.Checkpoint, part: int):
        torch.manual_seed(0)
        self.part = part
        self.net = nets.of(checkpoint).torch_module(checkpoint)
        self.teacher = copy.deepcopy(self.net).requires_grad_(False)
        self.parameters = list(self.net.parameters())
        self.average = [p.detach().clone() for p in self.parameters]
        self.optimiser = torch.optim.AdamW(self.parameters, lr=1e-5, betas=(0.9, 0.99), weight_decay=0, fused=True)
        self.data = torch.from_numpy(batch(checkpoint.shape, BATCH)["x"]).clamp(-1, 1)
        self.labels = torch.from_numpy(batch(checkpoint.shape, BATCH)["labels"])

    def step(self, objective) -> None:
        self.optimiser.zero_grad(set_to_none=True)
        for start in range(0, BATCH, self.part):
            rows = slice(start, start + self.part)
            objective(self.data[rows], self.labels[rows], start)
        torch.nn.utils.clip_grad_norm_(self.parameters, 1.0, foreach=True)
        self.optimiser.step()
        with torch.no_grad():
            torch._foreach_lerp_(self.average, self.parameters, 1e-3)

    def backward(self, residual) -> None:
        (residual.square().flatten(1).mean(1).sum() / BATCH).backward()

    def flow_matching(self, x1, labels, start) -> None:
        x0, t = torch.randn_like(x1), torch.rand(len(x1))
        x = torch.lerp(x0, x1, t[:, None, None, None])
        self.backward(self.net(x, t, t, labels) - (x1 - x0))

    def lmd(self, x1, labels, start) -> None:
        """Rows before DIAGONAL need no derivative in time."""
        x0 = torch.randn_like(x1)
        t = torch.rand(len(x1))
        s = t * torch.rand(len(x1))
        cut = min(max(DIAGONAL - start, 0), len(x1))
        s[:cut] = t[:cut]
        x = torch.lerp(x0, x1, s[:, None, None, None])
        for rows, diagonal in ((slice(0, cut), True), (slice(cut, None), False)):
            if not len(x[rows]):
                continue
            end, rate = self.jump(x[rows], s[rows], t[rows], labels[rows], diagonal)
            with torch.no_grad():
                velocity = self.teacher(end.detach(), t[rows], t[rows], labels[rows])
            self.backward(rate - velocity)

    def jump(self, x, s, t, labels, diagonal: bool):
        """`X_{s,t}(x)` and its derivative in `t`."""
        if diagonal:
            return x, self.net(x, t, t, labels)
        with forward_ad.dual_level():
            time = forward_ad.make_dual(t, torch.ones_like(t))
            end = x + (time - s)[:, None, None, None] * self.net(x, s, time, labels)
            return forward_ad.unpack_dual(end)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("checkpoint")
    parser.add_argument("--part", type=int, default=BATCH)
    args = parser.parse_args()
    learner = Learner(checkpoints.read(args.checkpoint), args.part)
    for line in sys.stdin:
        objective, threads, seconds = line.split()
        torch.set_num_threads(int(threads))
        step = getattr(learner, objective)
        learner.step(step)
        rate = engines.rate(lambda: learner.step(step), BATCH, float(seconds))
        print(json.dumps({"samples_per_second": rate}), flush=True)


if __name__ == "__main__":
    main()
