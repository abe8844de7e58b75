"""`tf.train.Example` messages, written and read without TensorFlow, so that worker processes start at once.

The wire format is Protocol Buffers' (https://protobuf.dev/programming-guides/encoding): a varint key of field number
and wire type before each field. An Example holds Features, which maps names to lists of bytes or integers.
"""

import functools
from collections.abc import Iterator

Value = bytes | int

_VARINT, _LENGTH = 0, 2
_BYTES_LIST, _INT64_LIST = 1, 3


def encode_example(features: dict[str, Value]) -> bytes:
    """A serialized Example with one value for each name."""
    return _field(1, b"".join(_entry(name, value) for name, value in features.items()))


def decode_example(message: bytes) -> dict[str, Value]:
    """The first value of each feature of a serialized Example; raises ValueError on anything else."""
    result: dict[str, Value] = {}
    for _, features in _fields(message):
        for _, entry in _fields(_message(features)):
            name, feature = _only(dict(_fields(_message(entry))), 1, 2)
            ((kind, values),) = _fields(_message(feature))
            if kind not in (_BYTES_LIST, _INT64_LIST):
                raise ValueError(f"a feature of kind {kind}")
            (value,) = _only(dict(reversed([*_fields(_message(values))])), 1)
            if kind == _INT64_LIST and isinstance(value, bytes):
                value = _varint(value, 0)[0]  # integers are packed into one field
            result[_message(name).decode()] = value
    return result


def holds_int(message: bytes, name: str, value: int) -> bool:
    """Whether a serialized Example has this integer under a name; raises ValueError for what is no Example.

    One that `encode_example` made is not taken apart, for that takes as long as reading it.
    """
    return _entry(name, value) in message or decode_example(message).get(name) == value


@functools.lru_cache(16)
def _entry(name: str, value: Value) -> bytes:
    return _field(1, _field(1, name.encode()) + _field(2, _feature(value)))


def _only(fields: dict[int, Value], *numbers: int) -> list[Value]:
    if fields.keys() != set(numbers):
        raise ValueError(f"fields {sorted(fields)} where {sorted(numbers)} must be")
    return [fields[number] for number in numbers]


def _feature(value: Value) -> bytes:
    if isinstance(value, bytes):
        return _field(_BYTES_LIST, _field(1, value))
    return _field(_INT64_LIST, _field(1, _to_varint(value)))


def _field(number: int, content: bytes) -> bytes:
    return _to_varint(number << 3 | _LENGTH) + _to_varint(len(content)) + content


def _to_varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def _varint(message: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        if at >= len(message):
            raise ValueError("the message is cut short")
        byte = message[at]
        value |= (byte & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if byte < 0x80:
            return value, at
        if shift > 63:
            raise ValueError("a number of more than 64 bits")


def _fields(message: bytes) -> Iterator[tuple[int, Value]]:
    at = 0
    while at < len(message):
        key, at = _varint(message, at)
        value, at = _varint(message, at)
        if key & 7 == _VARINT:
            yield key >> 3, value
        elif key & 7 == _LENGTH and at + value <= len(message):
            yield key >> 3, message[at : at + value]
            at += value
        else:
            raise ValueError("not an Example")


def _message(value: Value) -> bytes:
    if not isinstance(value, bytes):
        raise ValueError("not an Example")
    return value
