import io
import struct
import subprocess
import sys
import warnings
import zlib

import numpy as np
import pytest
from pictures import encoded, picture
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from catdog.data import images
from catdog.data.images import Unreadable, decode, encode

RED, GREEN, BLUE, YELLOW = (255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 0)


def quarters(mode: str = "RGB") -> Image.Image:
    """48 x 32: red and green above, blue and yellow below."""
    image = Image.new("RGB", (48, 32), RED)
    image.paste(GREEN, (24, 0, 48, 16))
    image.paste(BLUE, (0, 16, 24, 32))
    image.paste(YELLOW, (24, 16, 48, 32))
    return image.convert(mode)


def corners(image: Image.Image) -> list[tuple[int, int, int]]:
    width, height = image.size
    at = [(width // 4, height // 4), (3 * width // 4, height // 4), (width // 4, 3 * height // 4)]
    return [image.getpixel(point) for point in [*at, (3 * width // 4, 3 * height // 4)]]


def close(found: object, expected: object, tolerance: int = 12) -> bool:
    return bool(np.abs(np.asarray(found, int) - np.asarray(expected, int)).max() <= tolerance)


@pytest.mark.parametrize(
    ("kind", "mode"),
    [
        ("JPEG", "RGB"),
        ("JPEG", "CMYK"),
        ("PNG", "RGB"),
        ("PNG", "P"),
        ("PNG", "RGBA"),
        ("GIF", "P"),
        ("BMP", "RGB"),
        ("WEBP", "RGB"),
        ("WEBP", "RGBA"),
        ("TIFF", "RGB"),
        ("TIFF", "CMYK"),
        ("PPM", "RGB"),
    ],
)
def test_colours_survive_every_format_and_mode(kind: str, mode: str) -> None:
    options = {"lossless": True} if kind == "WEBP" else {}
    image = decode(encoded(quarters(mode), kind, **options))
    assert image.mode == "RGB" and image.size == (48, 32)
    assert close(corners(image), [RED, GREEN, BLUE, YELLOW], tolerance=40 if mode == "P" else 12)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize(
    ("side", "large"), [(None, images.LARGE), (8, images.LARGE), (8, 0)], ids=["whole", "reduced", "large"]
)
def test_a_picture_comes_out_upright_whatever_its_exif_orientation(
    orientation: int, side: int | None, large: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(images, "LARGE", large)
    undo = {
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_90,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored = quarters().transpose(undo[orientation]) if orientation > 1 else quarters()
    image = decode(encoded(stored, exif=exif, quality=95), side)
    assert image.width > image.height
    assert close(corners(image), [RED, GREEN, BLUE, YELLOW], tolerance=30)


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "PPM"])
def test_16_bit_grey_is_scaled_not_cut(kind: str) -> None:
    values = np.linspace(0, 65535, 40 * 48).reshape(40, 48).astype(np.uint16)
    content = encoded(Image.fromarray(values), kind)
    with Image.open(io.BytesIO(content)) as image:
        assert image.mode.startswith("I")
    found = np.asarray(decode(content))
    assert found.shape == (40, 48, 3)
    assert np.abs(found - (values / 257.0)[..., None]).max() <= 0.5


def test_16_bit_big_endian_tiff_is_read_in_its_byte_order() -> None:
    values = np.linspace(0, 65535, 40 * 48).reshape(40, 48).astype(np.uint16)
    image = Image.frombytes("I;16B", (48, 40), values.byteswap().tobytes())
    assert np.abs(np.asarray(decode(encoded(image, "TIFF"))) - (values / 257.0)[..., None]).max() <= 0.5


def test_16_bit_colour_png_is_read() -> None:
    rows = b"".join(b"\0" + struct.pack(">3H", 65535, 32896, 0) * 4 for _ in range(4))

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 4, 4, 16, 2, 0, 0, 0))
    content = b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    assert decode(content).getpixel((1, 1)) == (255, 128, 0)


@pytest.mark.parametrize("mode", ["L", "1", "LA"])
def test_grey_becomes_three_equal_channels(mode: str) -> None:
    found = np.asarray(decode(encoded(quarters("L").convert(mode), "PNG")))
    assert found.shape == (32, 48, 3)
    assert (found == found[..., :1]).all()


@pytest.mark.parametrize(("kind", "mode"), [("PNG", "RGBA"), ("PNG", "LA"), ("WEBP", "RGBA"), ("TIFF", "RGBA")])
def test_what_is_transparent_is_laid_over_white(kind: str, mode: str) -> None:
    image = Image.new("RGBA", (32, 32), (0, 0, 0, 0))
    image.paste((0, 0, 0, 255), (16, 0, 32, 32))
    found = decode(encoded(image.convert(mode), kind))
    assert close(found.getpixel((4, 16)), (255, 255, 255)) and close(found.getpixel((28, 16)), (0, 0, 0))


def test_a_transparent_colour_of_a_palette_becomes_white() -> None:
    image = Image.new("P", (32, 32), 0)
    image.putpalette([10, 20, 30, 200, 0, 0])
    image.paste(1, (16, 0, 32, 32))
    found = decode(encoded(image, "GIF", transparency=0))
    assert close(found.getpixel((4, 16)), (255, 255, 255)) and close(found.getpixel((28, 16)), (200, 0, 0))


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "TIFF", "PNG"])
def test_the_first_frame_of_several_is_taken(kind: str) -> None:
    frames = [Image.new("RGB", (32, 32), colour) for colour in (BLUE, RED)]
    assert close(decode(encoded(frames[0], kind, save_all=True, append_images=frames[1:])).getpixel((9, 9)), BLUE)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "GIF", "BMP", "WEBP", "TIFF", "PPM"])
def test_a_picture_cut_short_is_unreadable(kind: str) -> None:
    content = encoded(picture(3, 300, 200), kind)
    for length in (len(content) // 2, 20):
        with pytest.raises(Unreadable):
            decode(content[:length])


@pytest.mark.parametrize(
    "content",
    [
        b"not a picture at all",
        b"\xff\xd8\xff\xe0" + b"\0" * 100,
        b"\x89PNG\r\n\x1a\n",
        b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\nshowpage\n",
        b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n",
    ],
    ids=["text", "header only", "signature only", "PostScript", "LFS pointer"],
)
def test_what_is_no_picture_is_unreadable_and_told_in_one_line(content: bytes) -> None:
    with pytest.raises(Unreadable) as caught:
        decode(content)
    assert str(caught.value) and "\n" not in str(caught.value)
    assert "0x" not in str(caught.value)  # an address of this process would make skipped.csv differ each time


def test_an_empty_file_is_called_empty() -> None:
    with pytest.raises(Unreadable, match="empty"):
        decode(b"")


def test_a_decompression_bomb_is_refused_before_it_is_decoded() -> None:
    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    for side in (11_000, 60_000):
        header = chunk(b"IHDR", struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0))
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            with pytest.raises(Unreadable, match=r"pixels"):
                decode(b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", b"") + chunk(b"IEND", b""))


def test_floating_point_pixels_are_refused_for_their_range_is_unknown() -> None:
    with pytest.raises(Unreadable, match="floating-point"):
        decode(encoded(Image.new("F", (32, 32), 0.5), "TIFF"))


@pytest.mark.parametrize(
    ("size", "stored"),
    [
        ((100, 80), (80, 64)),
        ((80, 100), (64, 80)),
        ((64, 64), (64, 64)),
        ((50, 40), (50, 40)),
        ((9000, 70), (8229, 64)),
    ],
)
def test_the_shorter_side_is_reduced_and_never_enlarged(size: tuple[int, int], stored: tuple[int, int]) -> None:
    jpeg, height, width = encode(picture(1, *size), side=64)
    image = Image.open(io.BytesIO(jpeg))
    assert (image.format, image.mode, image.size) == ("JPEG", "RGB", stored)
    assert (width, height) == stored


def see_through(mode: str) -> Image.Image:
    """A picture of soft blobs whose alpha goes from nothing to all."""
    image = picture(6, 300, 200)
    image.putalpha(Image.linear_gradient("L").resize(image.size))
    return image.quantize(64) if mode == "P" else image.convert(mode)


@pytest.mark.parametrize(
    "image",
    [
        *(see_through(mode) for mode in ("RGB", "RGBA", "LA", "P", "L", "1", "CMYK")),
        Image.fromarray(np.linspace(0, 65535, 200 * 300).reshape(200, 300).astype(np.uint16)),
    ],
    ids=lambda image: image.mode,
)
@pytest.mark.parametrize("side", [32, 64, 256])
def test_a_large_picture_is_stored_as_the_same_bytes_as_if_it_were_not_large(
    image: Image.Image, side: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = encoded(image, "TIFF" if image.mode == "CMYK" else "PNG")
    whole = encode(decode(content, side), side)
    monkeypatch.setattr(images, "LARGE", 0)
    monkeypatch.setattr(images, "_STRIP", 7 * 300)
    assert encode(decode(content, side), side) == whole


MEMORY = """
import io, resource
from PIL import Image
from catdog.data.images import LARGE, decode

side = int(LARGE**0.5) + 1
buffer = io.BytesIO()
Image.new(MODE, (side, side)).save(buffer, "PNG")
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
decode(buffer.getvalue(), 256)
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024 / side**2)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="counts memory in the unit of Linux")
@pytest.mark.parametrize(("mode", "own"), [("RGBA", 4), ("I;16", 2)])
def test_a_large_picture_takes_little_more_memory_than_its_own(mode: str, own: int) -> None:
    program = MEMORY.replace("MODE", repr(mode))
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert float(done.stdout) < 2 * own


def test_a_jpeg_decoded_at_less_than_its_size_gives_nearly_the_same_picture() -> None:
    content = encoded(picture(5, 1600, 1200), quality=95)
    assert decode(content, 128).size == (400, 300)
    reduced, whole = (Image.open(io.BytesIO(encode(decode(content, side), 128)[0])) for side in (128, None))
    assert reduced.size == whole.size
    assert np.abs(np.asarray(reduced, int) - np.asarray(whole, int)).mean() < 2


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
