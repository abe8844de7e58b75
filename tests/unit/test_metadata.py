"""What a file says beside its pixels decides nothing but which way up the picture is."""

import struct

import numpy as np
import pytest
from pictures import encoded, picture
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from catdog.data.images import decode, encode


def stored(content: bytes) -> bytes:
    return encode(decode(content), 256)[0]


def test_the_same_pixels_are_stored_as_the_same_bytes_whatever_the_file_says_beside_them() -> None:
    image, palette, text = picture(1), picture(1).convert("P"), PngInfo()
    text.add_text("Comment", "by a camera")
    assert stored(encoded(image, comment=b"by a camera")) == stored(encoded(image))
    assert stored(encoded(image, dpi=(300, 300), icc_profile=bytes(200))) == stored(encoded(image))
    assert stored(encoded(palette, "GIF", comment=b"by a camera")) == stored(encoded(palette, "GIF"))
    assert stored(encoded(image, "PNG", pnginfo=text)) == stored(encoded(image, "PNG"))


def exif(*entries: bytes) -> bytes:
    """EXIF of one directory, big-endian; each entry has 12 bytes: tag, type, count, value."""
    return b"Exif\0\0MM\0*\0\0\0\x08" + struct.pack(">H", len(entries)) + b"".join(entries) + bytes(4)


def number(tag: int, value: int) -> bytes:
    return struct.pack(">HHIHH", tag, 3, 1, value, 0)


def text(tag: int) -> bytes:
    return struct.pack(">HHI4s", tag, 2, 4, b"abc\0")


TURNED = number(0x0112, 6)


# Pillow reads the EXIF of a JPEG, in search of a resolution, as soon as it opens it, unless the header gives one.
FILES = pytest.mark.parametrize(
    ("kind", "options"),
    [("JPEG", {"quality": 95}), ("JPEG", {"quality": 95, "dpi": (72, 72)}), ("PNG", {}), ("WEBP", {"lossless": True})],
    ids=["JPEG", "JPEG with a resolution", "PNG", "WebP"],
)


@FILES
@pytest.mark.parametrize(
    "content",
    [
        exif(TURNED),
        exif(text(0x0100), TURNED),
        exif(TURNED, struct.pack(">HHII", 0x8825, 4, 1, 0xFFFF0000)),
        exif(struct.pack(">HHII", 0x010F, 99, 1, 0), TURNED),
    ],
    ids=["sound", "a text for a number", "a directory beyond the end", "a type that there is not"],
)
def test_odd_exif_beside_the_orientation_does_not_keep_a_picture_from_being_upright(
    kind: str, options: dict[str, object], content: bytes
) -> None:
    image = picture(2)
    found = decode(encoded(image.transpose(Image.Transpose.ROTATE_90), kind, exif=content, **options))
    assert found.size == image.size
    assert np.abs(np.asarray(found, int) - np.asarray(image, int)).mean() < 4


@FILES
@pytest.mark.parametrize(
    "content",
    [exif(text(0x0112)), exif(number(0x0112, 9)), b"Exif\0\0" + b"\xff" * 50, b"Exif\0\0MM\0*"],
    ids=["a text", "a number that means nothing", "garbage", "cut short"],
)
def test_a_picture_whose_exif_tells_no_orientation_is_taken_as_it_lies(
    kind: str, options: dict[str, object], content: bytes
) -> None:
    found = decode(encoded(picture(2), kind, exif=content, **options))
    assert found.size == picture(2).size
    assert np.abs(np.asarray(found, int) - np.asarray(picture(2), int)).mean() < 4
