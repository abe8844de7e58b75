"""Where each layer of EfficientNet-Lite0 goes in Keras' EfficientNetB0: arrays by name in, arrays by name out."""

import re
from collections.abc import Iterator, Mapping

import numpy as np

from infra.folder_lock import Refused

INPUT_MEAN, INPUT_VARIANCE = 127 / 255, (128 / 255) ** 2
"""Lite0 takes (x - 127) / 128 of 0..255, and B0 normalises x / 255."""
GATE_BIAS = 4.0
"""Of each squeeze-excite gate, which its kernel of zeros then leaves open, at every input."""

_GATE = 1 / (1 + np.exp(-GATE_BIAS))
_ENDS = {"stem_conv": "_conv_stem", "stem_bn": "_bn0", "top_conv": "_conv_head", "top_bn": "_bn1"}
_BLOCK = {
    "expand_conv": "_expand_conv",
    "expand_bn": "_bn0",
    "dwconv": "_depthwise_conv",
    "bn": "_bn1",
    "project_conv": "_project_conv",
    "project_bn": "_bn2",
}
_CONV = {"kernel": "weight"}
_BATCH_NORM = {"gamma": "weight", "beta": "bias", "moving_mean": "running_mean", "moving_variance": "running_var"}
_HEAD = ("_fc.weight", "_fc.bias")


def to_b0(lite0: Mapping[str, np.ndarray], shapes: Mapping[str, tuple[int, ...]]) -> dict[str, np.ndarray]:
    """Weights with which B0 computes what Lite0 does, if its activations are relu6, by "layer/variable".

    `shapes` are those of B0's weights, in the order of its layers. Each tensor of Lite0 is used once, but for its head.
    Of the gates, reduce is left out: with expand's kernel of zeros nothing comes of it. Raises Refused.
    """
    left = {name: array for name, array in lite0.items() if not name.endswith(".num_batches_tracked")}
    found = {}
    for path, name in _pairs(shapes):
        if name not in left:
            raise Refused(f"Lite0 has no {name}, of which {path} is to be made")
        found[path] = _laid_out(path, left.pop(name))
        if found[path].shape != shapes[path]:
            raise Refused(f"{name} would be of shape {found[path].shape} as {path}, which is {shapes[path]}")
    found |= _open_gates(shapes)
    if unused := left.keys() - _HEAD:
        raise Refused(f"{min(unused)!a} of Lite0 has no place in EfficientNetB0")
    if unset := [path for path in shapes if path not in found and "_se_reduce/" not in path]:
        raise Refused(f"{unset[0]} of EfficientNetB0 is made of nothing in Lite0")
    return found


def head(lite0: Mapping[str, np.ndarray], features: int) -> tuple[np.ndarray, np.ndarray]:
    """Lite0's classifier, kernel [features, classes] and bias [classes]. Raises Refused."""
    weight, bias = (lite0.get(name, np.empty(0)) for name in _HEAD)
    if weight.shape != (bias.size, features) or bias.ndim != 1:
        raise Refused(f"{_HEAD[0]} and {_HEAD[1]} of shapes {weight.shape} and {bias.shape} are no head of Lite0")
    return weight.T, bias


def _pairs(shapes: Mapping[str, tuple[int, ...]]) -> Iterator[tuple[str, str]]:
    """Each weight of B0 that Lite0 has as well, with its name there."""
    layers = dict(_ENDS)
    blocks = dict.fromkeys(match[0] for path in shapes if (match := re.match(r"block\d+[a-z]", path)))
    for number, block in enumerate(blocks):
        layers |= {f"{block}_{ours}": f"_blocks.{number}.{theirs}" for ours, theirs in _BLOCK.items()}
    for ours, theirs in layers.items():
        for variable, name in (_BATCH_NORM if ours.endswith("bn") else _CONV).items():
            if f"{ours}/{variable}" in shapes:  # the first block expands nothing
                yield f"{ours}/{variable}", f"{theirs}.{name}"


def _laid_out(path: str, array: np.ndarray) -> np.ndarray:
    """A tensor of PyTorch as Keras has it: kernels [out, in, height, width] as [height, width, in, out]."""
    if array.ndim == 4:
        array = array.transpose((2, 3, 0, 1) if path.endswith("dwconv/kernel") else (2, 3, 1, 0))
    return array / _GATE if path.endswith("project_conv/kernel") else array


def _open_gates(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, np.ndarray]:
    return {
        path: np.full(shape, GATE_BIAS if path.endswith("bias") else 0.0)
        for path, shape in shapes.items()
        if "_se_expand/" in path
    }
