"""EfficientNet-Lite0 with made-up weights: its tensors, and the file that PyTorch would write of them."""

import io
import pickle
import sys
import types
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from unittest import mock

import numpy as np

# Repeats, kernel, stride, expansion and channels of each stage, as the paper on EfficientNet has them.
STAGES = (
    (1, 3, 1, 1, 16),
    (2, 3, 2, 6, 24),
    (2, 5, 2, 6, 40),
    (3, 3, 2, 6, 80),
    (3, 5, 1, 6, 112),
    (4, 5, 2, 6, 192),
    (1, 3, 1, 6, 320),
)


@dataclass(frozen=True)
class Block:
    name: str
    kernel: int
    stride: int
    expanded: bool
    before: int
    hidden: int
    after: int


def blocks() -> Iterator[Block]:
    before, number = 32, 0
    for repeats, kernel, stride, expansion, after in STAGES:
        for repeat in range(repeats):
            name = f"_blocks.{number}"
            yield Block(name, kernel, 1 if repeat else stride, expansion > 1, before, before * expansion, after)
            before, number = after, number + 1


def made_up(seed: int = 0) -> dict[str, np.ndarray]:
    """Tensors by name, shaped and laid out as PyTorch has them."""
    random, found = np.random.default_rng(seed), {}

    def conv(name: str, *shape: int) -> None:
        found[f"{name}.weight"] = random.normal(0, (2 / np.prod(shape[1:])) ** 0.5, shape).astype(np.float32)

    def batch_norm(name: str, channels: int) -> None:
        for part, low, high in (("weight", 0.8, 1.2), ("bias", -0.3, 0.3), ("running_mean", -0.3, 0.3)):
            found[f"{name}.{part}"] = random.uniform(low, high, channels).astype(np.float32)
        found[f"{name}.running_var"] = random.uniform(0.5, 1.5, channels).astype(np.float32)
        found[f"{name}.num_batches_tracked"] = np.array(7)

    conv("_conv_stem", 32, 3, 3, 3)
    batch_norm("_bn0", 32)
    for block in blocks():
        if block.expanded:
            conv(f"{block.name}._expand_conv", block.hidden, block.before, 1, 1)
            batch_norm(f"{block.name}._bn0", block.hidden)
        conv(f"{block.name}._depthwise_conv", block.hidden, 1, block.kernel, block.kernel)
        batch_norm(f"{block.name}._bn1", block.hidden)
        conv(f"{block.name}._project_conv", block.after, block.hidden, 1, 1)
        batch_norm(f"{block.name}._bn2", block.after)
    conv("_conv_head", 1280, 320, 1, 1)
    batch_norm("_bn1", 1280)
    conv("_fc", 1000, 1280)
    found["_fc.bias"] = random.normal(0, 0.1, 1000).astype(np.float32)
    return found


def file_of(tensors: Mapping[str, np.ndarray], *, extra: object = None) -> bytes:
    """The state dict as PyTorch before 1.6 writes it; with `extra` in it, something that is no tensor."""
    state: OrderedDict[str, object] = OrderedDict((name, _Tensor(value)) for name, value in tensors.items())
    if extra is not None:
        state["extra"] = extra
    file = io.BytesIO()
    with mock.patch.dict(sys.modules, {"torch": _torch, "torch._utils": _torch_utils}):
        for content in (0x1950A86A20F9469CFC6C, 1001, {"protocol_version": 1001, "little_endian": True}, state):
            _Pickler(file, 2).dump(content)
    pickle.dump(list(tensors), file, 2)
    for value in tensors.values():
        file.write(value.size.to_bytes(8, "little") + value.tobytes(order="A"))
    return file.getvalue()


class _Tensor:
    def __init__(self, value: np.ndarray) -> None:
        self.value = value


class _Storage:
    def __init__(self, value: np.ndarray, key: str) -> None:
        self.value, self.key = value, key


class _Pickler(pickle.Pickler):
    def persistent_id(self, item: object) -> object:
        if isinstance(item, _Storage):
            kind = _torch.FloatStorage if item.value.dtype == np.float32 else _torch.LongStorage
            return "storage", kind, item.key, "cpu", item.value.size, None
        return None

    def reducer_override(self, item: object) -> object:
        if not isinstance(item, _Tensor):
            return NotImplemented
        strides = tuple(stride // item.value.itemsize for stride in item.value.strides)
        storage = _Storage(item.value, self.name_of[id(item)])
        return _torch_utils._rebuild_tensor_v2, (storage, 0, item.value.shape, strides, False, OrderedDict())

    def dump(self, item: object) -> None:
        self.name_of = {id(value): name for name, value in item.items()} if isinstance(item, OrderedDict) else {}
        super().dump(item)


def _module(name: str, **members: object) -> types.ModuleType:
    """A module whose members pickle finds by their names."""
    module = types.ModuleType(name)
    for member_name, member in members.items():
        member.__module__, member.__qualname__ = name, member_name  # type: ignore[attr-defined]
        setattr(module, member_name, member)
    return module


_torch = _module("torch", FloatStorage=type("", (), {}), LongStorage=type("", (), {}))
_torch_utils = _module("torch._utils", _rebuild_tensor_v2=lambda: None)
_torch_utils._rebuild_tensor_v2.__name__ = "_rebuild_tensor_v2"
