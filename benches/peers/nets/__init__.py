"""The networks of flowmap, written for ONNX and for PyTorch; one file for each kind of architecture.

Each file offers

- `shapes(checkpoint)`: the shapes of the weights by name;
- `onnx_model(checkpoint, target)`: the network as an ONNX model with the checkpoint's weights, its batch dynamic;
  `target` is the runtime that it shall run well on, `"ort"` or `"openvino"`;
- `torch_module(checkpoint)`: the network as a PyTorch module with the checkpoint's weights.

All take `x (B, C, H, W)`, `s (B)`, `t (B)` in float32 and `labels (B)` in int64, and give the average velocity
`v_{s,t}(x)`, from which a jump is `x + (t - s) v`.
"""

from importlib import import_module

KINDS = ("dit", "unet")


def of(checkpoint):
    """The file for this checkpoint's architecture."""
    kind = checkpoint.architecture["kind"]
    if kind not in KINDS:
        raise SystemExit(f"architecture {kind!r} is none of {', '.join(KINDS)}")
    return import_module(f"nets.{kind}")
