"""TensorFlow's record format: payloads framed by their length and checksums, written and read with no TensorFlow."""

import os
import struct
from collections.abc import Iterable
from pathlib import Path
from typing import BinaryIO

import google_crc32c
import numpy as np

HEADER = 12
"""Bytes before a payload: its length in 8 bytes and that length's checksum in 4."""
FOOTER = 4
"""Bytes after a payload: its checksum."""

_LENGTH = struct.Struct("<Q")


def write_records(path: Path, payloads: Iterable[bytes]) -> None:
    """A TFRecord file of the payloads, in their order."""
    with open(path, "wb") as file:
        for payload in payloads:
            length = _LENGTH.pack(len(payload))
            file.write(length + _masked_crc32c(length) + payload + _masked_crc32c(payload))


def record_index(file: BinaryIO) -> np.ndarray:
    """Offset and length of each payload in an open TFRecord file, int64 [records, 2]; checks no checksum.

    Raises ValueError that names the file when it ends in the middle of a record.
    """
    size = os.fstat(file.fileno()).st_size
    spans: list[tuple[int, int]] = []
    at = 0
    while at < size:
        file.seek(at)
        header = file.read(HEADER)
        length = _LENGTH.unpack_from(header)[0] if len(header) == HEADER else size
        if at + HEADER + length + FOOTER > size:
            raise ValueError(f"{file.name}: record {len(spans)} runs past the end of the file")
        spans.append((at + HEADER, length))
        at += HEADER + length + FOOTER
    return np.array(spans, np.int64).reshape(-1, 2)


def checked_payload(file: BinaryIO, offset: int, length: int) -> bytes:
    """The payload that the index places at `offset`; raises ValueError unless its frame and its checksums are right."""
    spans = (HEADER, offset - HEADER), (length, offset), (FOOTER, offset + length)
    header, payload, footer = (os.pread(file.fileno(), size, at) for size, at in spans)  # no copy of the payload
    expected = _LENGTH.pack(length)
    if (header, footer) != (expected + _masked_crc32c(expected), _masked_crc32c(payload)):
        raise ValueError("its checksum does not match its bytes")
    return payload


def _masked_crc32c(content: bytes) -> bytes:
    """The CRC-32C rotated and offset, as it stands in the file, 4 bytes."""
    crc = google_crc32c.value(content)
    return struct.pack("<I", (((crc >> 15) | (crc << 17)) + 0xA282EAD8) & 0xFFFFFFFF)
