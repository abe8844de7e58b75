"""`tf.train.Example` messages, written and read without TensorFlow, so that worker processes start at once.

The wire format is Protocol Buffers' (https://protobuf.dev/programming-guides/encoding): a varint key of field number
and wire type before each field. An Example holds Features, which maps names to lists of bytes or integers.
"""

from collections.abc import Iterator

Value = bytes | int

_VARINT, _LENGTH = 0, 2
_BYTES_LIST, _INT64_LIST = 1, 3


def encode_example(features: dict[str, Value]) -> bytes:
    """A serialized Example with one value for each name."""
    return _field(1, b"".join(_entry(name, value) for name, value in features.items()))


def decode_example(message: bytes) -> dict[str, Value]:
    """The first value of each feature of a serialized Example; raises ValueError on anything else.

    It is as strict as whoever relies on it needs: TensorFlow's own parser ends its process at some lengths that are none.
    """
    result: dict[str, Value] = {}
    for features in _all(memoryview(message), 1):
        for entry in _all(features, 1):
            (first, name), (second, feature) = _fields(entry)
            ((kind, values),) = _fields(_message(feature))
            if (first, second) != (1, 2) or kind not in (_BYTES_LIST, _INT64_LIST):
                raise ValueError(f"fields {first} and {second} where 1 and 2 must be, with a feature of kind {kind}")
            value = _bytes(values) if kind == _BYTES_LIST else _integers(values)
            result[bytes(_message(name)).decode()] = value
    return result


def _entry(name: str, value: Value) -> bytes:
    return _field(1, _field(1, name.encode()) + _field(2, _feature(value)))


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


def _varint(message: memoryview, at: int) -> tuple[int, int]:
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


def _fields(message: memoryview) -> Iterator[tuple[int, memoryview | int]]:
    at, end = 0, len(message)
    while at < end:
        key = message[at]  # of one byte, as all fields of an Example have it
        value, at = _varint(message, at + 1)
        if key & 0x87 == _VARINT:
            yield key >> 3, value
        elif key & 0x87 == _LENGTH and at + value <= end:
            yield key >> 3, message[at : at + value]
            at += value
        else:
            raise ValueError("not an Example")


def _all(message: memoryview | int, number: int) -> Iterator[memoryview]:
    """The messages in the fields of this number, of which there may be no other."""
    for found, content in _fields(_message(message)):
        if found != number:
            raise ValueError(f"field {found} where {number} must be")
        yield _message(content)


def _bytes(values: memoryview | int) -> bytes:
    """The first one of a BytesList."""
    found = [*_all(values, 1)]
    if not found:
        raise ValueError("a list without a value")
    return bytes(found[0])


def _integers(values: memoryview | int) -> int:
    """The first one of an Int64List, whose integers may each be a field, or be packed into one."""
    found: list[int] = []
    for number, value in _fields(_message(values)):
        if number != 1:
            raise ValueError(f"field {number} where 1 must be")
        if isinstance(value, int):
            found.append(value)
            continue
        at = 0
        while at < len(value):
            each, at = _varint(value, at)
            found.append(each)
    if not found:
        raise ValueError("a list without a value")
    return found[0]


def _message(value: memoryview | int) -> memoryview:
    if isinstance(value, int):
        raise ValueError("not an Example")
    return value
