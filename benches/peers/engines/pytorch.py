"""PyTorch, eager."""

import torch

import engines
import nets


class Engine(engines.Engine):
    def __init__(self, checkpoint):
        super().__init__(checkpoint)
        self.module = nets.of(checkpoint).torch_module(checkpoint).eval()

    def prepare(self, rows, threads):
        def forward(data):
            torch.set_num_threads(threads)
            with torch.inference_mode():
                return self.module(*(torch.from_numpy(data[name]) for name in ("x", "s", "t", "labels"))).numpy()

        return forward
