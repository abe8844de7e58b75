import pytest
import tensorflow as tf

from catdog.data.example import Value, decode_example, encode_example

FEATURES: dict[str, Value] = {
    "image/encoded": bytes(range(256)) * 300,
    "image/filename": "größer/猫.jpg".encode(),
    "empty": b"",
    "zero": 0,
    "label": 1,
    "width": 127,
    "height": 128,
    "large": 2**62 + 5,
}


def test_tensorflow_reads_what_is_encoded() -> None:
    parsed = tf.train.Example.FromString(encode_example(FEATURES))
    found = {
        name: (list(feature.bytes_list.value) or list(feature.int64_list.value))[0]
        for name, feature in parsed.features.feature.items()
    }
    assert found == FEATURES


def test_the_parser_of_tf_data_reads_what_is_encoded() -> None:
    spec = {
        name: tf.io.FixedLenFeature([], tf.string if isinstance(v, bytes) else tf.int64) for name, v in FEATURES.items()
    }
    parsed = tf.io.parse_single_example(encode_example(FEATURES), spec)
    assert {name: value.numpy() for name, value in parsed.items()} == FEATURES


def test_what_tensorflow_encodes_is_decoded() -> None:
    message = tf.train.Example()
    for name, value in FEATURES.items():
        kind = message.features.feature[name]
        (kind.bytes_list if isinstance(value, bytes) else kind.int64_list).value.append(value)
    assert decode_example(message.SerializeToString()) == FEATURES


def test_encoding_and_decoding_give_the_same_back() -> None:
    assert decode_example(encode_example(FEATURES)) == FEATURES


def test_the_first_of_several_values_is_decoded() -> None:
    message = tf.train.Example()
    message.features.feature["numbers"].int64_list.value.extend([7, 8])
    message.features.feature["texts"].bytes_list.value.extend([b"a", b"b"])
    assert decode_example(message.SerializeToString()) == {"numbers": 7, "texts": b"a"}


def test_every_message_cut_short_or_with_a_flipped_bit_is_decoded_or_refused_with_a_value_error() -> None:
    message = encode_example({"a": b"xyz", "b": 300})
    broken = [message[:length] for length in range(1, len(message))]
    for at in range(len(message)):
        broken += [message[:at] + bytes([message[at] ^ 1 << bit]) + message[at + 1 :] for bit in range(8)]
    refused = 0
    for text in broken:
        try:
            decode_example(text)
        except ValueError:
            refused += 1
    assert refused > len(broken) // 2


def test_floats_and_empty_lists_are_refused() -> None:
    message = tf.train.Example()
    message.features.feature["f"].float_list.value.append(1.0)
    with pytest.raises(ValueError, match="kind 2"):
        decode_example(message.SerializeToString())
    message = tf.train.Example()
    message.features.feature["f"].int64_list.value.extend([])
    with pytest.raises(ValueError):  # noqa: PT011
        decode_example(message.SerializeToString())


@pytest.mark.parametrize(
    "message",
    [
        b"no example",
        b"\x12" + encode_example(FEATURES)[1:],
        b"\x8a\x00" + encode_example(FEATURES)[1:],
        encode_example(FEATURES) + b"\x08\x01",
        encode_example({"a": b"x" * 90}).replace(b"Zx", b"\xdf\xd1\xff\xd8\xff\xe0\x00"),
    ],
    ids=["text", "another field", "a longer key", "a number beside", "a length beyond"],
)
def test_what_tensorflows_parser_might_not_survive_is_refused(message: bytes) -> None:
    with pytest.raises(ValueError):  # noqa: PT011
        decode_example(message)
