import io
import struct
import subprocess
import sys
import warnings
import zlib
from typing import Any

import numpy as np
import pytest
from pictures import SHARED, encoded, many_scans, picture, rgb_page, tiff_of
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


def test_a_picture_too_long_for_a_jpeg_is_told_as_such() -> None:
    with pytest.raises(Unreadable, match=r"70000 x 2 pixels: no side of a JPEG is longer than 65,500"):
        encode(Image.new("RGB", (70_000, 2)), 64)


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
Image.new(MODE, (side, side), 0xFF000000 if MODE == "RGBA" else 30000).save(buffer, "PNG")
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


def tiff(width: int, height: int, bits: int, photometric: int, data: bytes, order: str = "<", **tags: int) -> bytes:
    """An uncompressed grey TIFF in one strip; `tags` are more of them, as t339."""
    entries = {
        256: width,
        257: height,
        258: bits,
        259: 1,
        262: photometric,
        273: 0,
        277: 1,
        278: height,
        279: len(data),
    }
    entries |= {int(name[1:]): value for name, value in tags.items()}
    entries[273] = 8 + 2 + 12 * len(entries) + 4
    magic = b"II*\0" if order == "<" else b"MM\0*"
    rows = b"".join(struct.pack(order + "HHII", tag, 4, 1, value) for tag, value in sorted(entries.items()))
    return magic + struct.pack(order + "IH", 8, len(entries)) + rows + bytes(4) + data


def in_12_bits(values: np.ndarray) -> bytes:
    pairs = values.reshape(-1, 2).astype(np.uint16)
    first, second = pairs[:, 0], pairs[:, 1]
    packed = np.stack([first >> 4, (first & 15) << 4 | second >> 8, second & 255], axis=1)
    return packed.astype(np.uint8).tobytes()


GREYS = np.linspace(0, 1, 40 * 48).reshape(40, 48)


@pytest.mark.parametrize("large", [images.LARGE, 0], ids=["whole", "in strips"])
@pytest.mark.parametrize(
    ("content", "shades"),
    [
        (tiff(48, 40, 12, 1, in_12_bits((GREYS * 4095).round())), GREYS),
        (tiff(48, 40, 12, 1, zlib.compress(in_12_bits((GREYS * 4095).round())), t259=8), GREYS),
        (tiff(48, 40, 16, 0, zlib.compress((GREYS * 65535).astype("<u2").tobytes()), t259=8), 1 - GREYS),
        (tiff(48, 40, 16, 0, (GREYS * 65535).astype("<u2").tobytes()), 1 - GREYS),
        (tiff(48, 40, 8, 0, (GREYS * 255).astype("u1").tobytes()), 1 - GREYS),
        (tiff(48, 40, 16, 1, (GREYS * 65535).astype(">u2").tobytes(), ">"), GREYS),
        (tiff(48, 40, 12, 0, in_12_bits((GREYS * 4095).round())), 1 - GREYS),
        (tiff(48, 40, 12, 1, in_12_bits((GREYS * 4095).round()), ">"), GREYS),
        (tiff(48, 40, 12, 0, zlib.compress(in_12_bits((GREYS * 4095).round())), ">", t259=8), 1 - GREYS),
        (tiff(48, 40, 16, 0, (GREYS * 65535).astype(">u2").tobytes(), ">"), 1 - GREYS),
        (tiff(48, 40, 16, 0, zlib.compress((GREYS * 65535).astype(">u2").tobytes()), ">", t259=8), 1 - GREYS),
        (tiff(48, 40, 1, 0, np.packbits(GREYS > 0.5).tobytes()), (GREYS <= 0.5).astype(float)),
        (tiff(48, 40, 8, 1, (GREYS * 255).astype("u1").tobytes(), t284=2), GREYS),
    ],
    ids=[
        "12 bits",
        "12 bits, packed",
        "16 bits, white is 0, packed",
        "16 bits, white is 0",
        "8 bits, white is 0",
        "big-endian",
        "12 bits, white is 0",
        "12 bits, big-endian",
        "12 bits, white is 0, big-endian, packed",
        "16 bits, white is 0, big-endian",
        "16 bits, white is 0, big-endian, packed",
        "1 bit, white is 0",
        "a plane",
    ],
)
def test_grey_numbers_of_every_size_are_shown_as_they_are_meant(
    content: bytes, shades: np.ndarray, large: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(images, "LARGE", large)
    found = np.asarray(decode(content, 64), int)
    assert found.shape == (40, 48, 3)
    assert np.abs(found[..., 0] - shades * 255).max() <= 1.1


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (tiff(8, 8, 32, 1, bytes(256)), "integers of 32 bits"),
        (tiff(8, 8, 32, 1, bytes(256), t339=2), "integers of 32 bits"),
        (tiff(8, 8, 16, 1, bytes(128), t339=2), "signed integers"),
        (tiff(8, 8, 16, 1, bytes(128), ">", t339=2), "signed integers"),
        (tiff(8, 8, 8, 1, bytes(64), t339=2), "signed integers"),
        (tiff(8, 8, 32, 1, bytes(256), t339=3), "floating-point"),
        (tiff(8, 8, 16, 1, bytes(128), t284=2), "planes"),
        (tiff(8, 8, 8, 0, bytes(64), t284=2), "planes"),
        (tiff(8, 8, 14, 1, bytes(128)), "TIFF of 14 bits a sample, photometric interpretation 1 and compression 1"),
        (tiff(8, 8, 8, 9, bytes(64), ">"), "TIFF of 8 bits a sample, photometric interpretation 9 and compression 1"),
        (tiff(8, 8, 8, 1, bytes(64), t259=34713), "TIFF of 8 bits .* compression 34713 that is broken, or of a kind"),
        (tiff(8, 8, 12, 2, bytes(288), t277=3), "TIFF of 12 bits a sample, photometric interpretation 2"),
        (tiff(8, 8, 32, 1, bytes(256), ">"), "integers of 32 bits"),
        (tiff(8, 8, 32, 0, bytes(256)), "integers of 32 bits"),
        (tiff(8, 8, 32, 0, bytes(256), ">"), "integers of 32 bits"),
        (tiff(8, 8, 32, 0, bytes(256), t339=2), "integers of 32 bits"),
        (tiff(8, 8, 24, 2, bytes(576), t277=3), "integers of 24 bits"),
        (tiff(8, 8, 16, 0, bytes(128), t339=2), "signed integers"),
        (tiff(8, 8, 32, 2, bytes(768), t277=3, t339=3), "floating-point"),
        (tiff(8, 8, 16, 1, bytes(128), t339=4), "sample format 4"),
        (tiff(8, 8, 16, 1, np.arange(64, dtype="<u2").tobytes()), "nearly black: no number of 16 bits"),
        (tiff(8, 8, 16, 1, np.full(64, 4095, "<u2").tobytes()), "nearly black: no number of 16 bits"),
        (tiff(8, 8, 16, 0, np.arange(64, dtype="<u2").tobytes()), "nearly white: no number of 16 bits"),
        (tiff(8, 8, 16, 0, np.arange(4032, 4096, dtype=">u2").tobytes(), ">"), "nearly white: no number of 16 bits"),
        (tiff(8, 8, 12, 0, in_12_bits(np.arange(64) * 4)), "nearly white: no number of 12 bits"),
        (tiff(8, 8, 16, 5, np.arange(0, 4096, 16, "<u2").tobytes(), t277=4), "nearly white: no number of 16 bits"),
        (tiff(8, 8, 8, 1, bytes(64), t322=60_000, t323=60_000, t324=8), "tile of 3,600,000,000 pixels"),
    ],
)
def test_numbers_whose_meaning_is_not_known_are_refused(content: bytes, told: str) -> None:
    with pytest.raises(Unreadable, match=told):
        decode(content)


@pytest.mark.parametrize("photometric", [0, 1])
def test_numbers_at_the_high_end_of_their_range_are_a_picture(photometric: int) -> None:
    high = 65535 - np.linspace(0, 4095, 40 * 48).astype("<u2")
    found = np.asarray(decode(tiff(48, 40, 16, photometric, high.tobytes())))
    assert (found.min(), found.max()) == ((0, 16) if photometric == 0 else (239, 255))


def test_a_tiff_that_begins_with_a_preview_is_read_as_the_picture() -> None:
    small, whole = picture(1, 12, 10), picture(1)
    for kind in ({"t254": 1}, {"t255": 2}, {"t254": 4}):
        content = tiff_of(rgb_page(small, **kind), rgb_page(small, **kind), rgb_page(whole), rgb_page(picture(2)))
        assert np.array_equal(np.asarray(decode(content)), np.asarray(whole))


def test_a_tiff_of_but_one_page_is_a_picture_even_if_it_is_called_a_preview() -> None:
    assert np.array_equal(np.asarray(decode(tiff_of(rgb_page(picture(1), t254=1)))), np.asarray(picture(1)))


def test_a_tiff_whose_picture_lies_below_its_preview_is_left_out() -> None:
    with pytest.raises(Unreadable, match="but previews of a picture that is not read"):
        decode(tiff_of(rgb_page(picture(1, 12, 10), t254=1, t330=[rgb_page(picture(1))])))


def test_camera_raw_is_left_out_by_its_name_and_not_stored_as_its_preview() -> None:
    with pytest.raises(Unreadable, match="DNG: a format that is not read"):
        decode(tiff_of(rgb_page(picture(1, 12, 10), t254=1, t50706=b"\1\4\0\0"), rgb_page(picture(1))))


def png(width: int, height: int, bits: int, colours: int, rows: bytes, *chunks: tuple[bytes, bytes]) -> bytes:
    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, bits, colours, 0, 0, 0))
    more = b"".join(chunk(*each) for each in chunks)
    return b"\x89PNG\r\n\x1a\n" + header + more + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


@pytest.mark.parametrize(
    ("content", "colours"),
    [
        (png(2, 1, 16, 0, b"\0" + struct.pack(">HH", 30000, 30001), (b"tRNS", b"\x75\x30")), [255, 117]),
        (png(2, 1, 4, 0, b"\0\x3c", (b"tRNS", b"\0\x03")), [255, 204]),
        (png(2, 1, 2, 0, b"\0\x60", (b"tRNS", b"\0\1")), [255, 170]),
        (png(2, 1, 8, 0, b"\0\x30\x40", (b"tRNS", b"\0\x30")), [255, 64]),
        (
            png(2, 1, 16, 2, b"\0" + struct.pack(">6H", *[0x3000] * 3, *[0x4000] * 3), (b"tRNS", b"\x30\0" * 3)),
            [255, 64],
        ),
    ],
    ids=["16 bits", "4 bits", "2 bits", "8 bits", "16 bits of colour"],
)
def test_the_transparent_number_of_a_png_is_that_of_its_own_bits(content: bytes, colours: list[int]) -> None:
    assert np.asarray(decode(content))[0, :, 0].tolist() == colours


def two_colours() -> Image.Image:
    """A palette of two, of which the first is seen nowhere."""
    image = Image.new("P", (32, 32), 1)
    image.putpalette([200, 0, 0, 90, 60, 30])
    return image


@pytest.mark.parametrize(
    "content",
    [
        encoded(Image.new("RGBA", (32, 32), (90, 60, 30, 0)), "PNG"),
        encoded(Image.new("LA", (32, 32), (90, 0)), "PNG"),
        encoded(Image.new("RGBA", (32, 32), (90, 60, 30, 0)), "WEBP", lossless=True),
        encoded(Image.new("RGBA", (32, 32), (90, 60, 30, 0)), "TIFF"),
        encoded(two_colours(), "PNG", transparency=1),
        encoded(two_colours(), "GIF", transparency=1),
        encoded(Image.new("L", (32, 32), 7), "PNG", transparency=7),
        encoded(Image.new("RGB", (32, 32), (1, 2, 3)), "PNG", transparency=(1, 2, 3)),
        encoded(Image.new("RGBA", (32, 32), (255, 255, 255, 99)), "PNG"),
    ],
)
@pytest.mark.parametrize("large", [images.LARGE, 0], ids=["whole", "in strips"])
def test_a_picture_in_which_nothing_can_be_seen_is_left_out(
    content: bytes, large: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(images, "LARGE", large)
    with pytest.raises(Unreadable, match="nothing of it is to be seen"):
        decode(content, 16)


@pytest.mark.parametrize("large", [images.LARGE, 0], ids=["whole", "in strips"])
@pytest.mark.parametrize(
    ("mode", "kind", "options"),
    [
        ("RGBA", "PNG", {}),
        ("LA", "PNG", {}),
        ("RGBA", "WEBP", {"lossless": True, "exact": True}),
        ("RGBA", "TIFF", {}),
        ("P", "PNG", {}),
    ],
)
def test_what_can_hardly_be_seen_through_its_transparency_is_left_out(
    mode: str, kind: str, options: dict[str, object], large: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(images, "LARGE", large)

    def content(opacity: int) -> bytes:
        image = picture(3)
        image.putalpha(opacity)
        return encoded(image.quantize(16) if mode == "P" else image.convert(mode), kind, **options)

    for opacity in (1, 9, 16):
        with pytest.raises(Unreadable, match="nothing of it is to be seen: it is all but wholly transparent"):
            decode(content(opacity), 16)
    assert np.ptp(np.asarray(decode(content(60), 16), int)) > 20


def test_a_picture_of_a_single_colour_is_not_stored() -> None:
    for content in (
        *(
            encoded(Image.new("RGB", (160, 120), colour), kind)
            for colour in ("black", "white", RED)
            for kind in ("JPEG", "PNG")
        ),
        encoded(Image.new("L", (160, 120)), "WEBP"),
        encoded(Image.new("RGB", (1, 1), RED), "PNG"),
        tiff(8, 8, 16, 1, np.arange(30_000, 30_064, dtype="<u2").tobytes()),
    ):
        with pytest.raises(Unreadable, match="nothing of it is to be seen: it is of a single colour"):
            stored(content)


def test_a_dark_picture_that_shows_something_is_stored() -> None:
    for share in (0.02, 0.05):
        dark = picture(4, 160, 120).point(lambda value, share=share: value * share)
        with Image.open(io.BytesIO(stored(encoded(dark, "PNG")))) as found:
            assert np.asarray(found).max() > 0


def test_a_white_picture_without_transparency_is_a_picture() -> None:
    assert decode(encoded(Image.new("RGB", (9, 9), "white"), "PNG")).getpixel((3, 3)) == (255, 255, 255)


@pytest.mark.parametrize("mode", ["RGB", "L", "RGBA"])
@pytest.mark.parametrize("kind", ["AVIF", "JPEG2000"])
def test_avif_and_jpeg_2000_are_read(kind: str, mode: str) -> None:
    image = decode(encoded(quarters(mode), kind, **({"quality": 95} if kind == "AVIF" else {})))
    assert image.mode == "RGB" and image.size == (48, 32)
    expected = [RED, GREEN, BLUE, YELLOW]
    if mode == "L":
        expected = [(level,) * 3 for level in (76, 150, 29, 226)]
    assert close(corners(image), expected, tolerance=16)


def test_an_avif_that_lies_on_its_side_comes_out_upright() -> None:
    turned = Image.Exif()
    turned[0x0112] = 6
    content = encoded(quarters().transpose(Image.Transpose.ROTATE_90), "AVIF", exif=turned, quality=95)
    assert close(corners(decode(content)), [RED, GREEN, BLUE, YELLOW], tolerance=16)


@pytest.mark.parametrize("orientation", [1, 3, 6, 8])
def test_a_tiff_is_turned_upright_once(orientation: int) -> None:
    turned = Image.Exif()
    turned[0x0112] = orientation
    undo = {3: Image.Transpose.ROTATE_180, 6: Image.Transpose.ROTATE_90, 8: Image.Transpose.ROTATE_270}
    stored = quarters().transpose(undo[orientation]) if orientation > 1 else quarters()
    assert corners(decode(encoded(stored, "TIFF", exif=turned))) == [RED, GREEN, BLUE, YELLOW]


def long_text(key: str, text: bytes, *, packed: bool) -> tuple[bytes, bytes]:
    body = key.encode() + b"\0" + (b"\0" + zlib.compress(text) if packed else text)
    return (b"zTXt" if packed else b"tEXt", body)


@pytest.mark.parametrize(
    "chunk",
    [
        long_text("Comment", b"x" * 3_000_000, packed=True),
        long_text("Comment", b"x" * 70_000_000, packed=False),
        long_text("Comment", bytes(300_000_000), packed=True),
        (b"iTXt", b"Comment\0\1\0\0\0" + zlib.compress(b"x" * 3_000_000)),
        (b"iCCP", b"profile\0\0" + zlib.compress(bytes(3_000_000))),
        (b"iCCP", b"profile\0\1broken"),
        (b"iTXt", b"XML:com.adobe.xmp\0\1\0\0\0" + zlib.compress(b"x" * 3_000_000)),
    ],
    ids=["text", "plain text", "bomb", "international text", "profile", "broken profile", "XMP"],
)
def test_no_text_or_profile_keeps_a_png_from_being_read(chunk: tuple[bytes, bytes]) -> None:
    assert decode(png(2, 1, 8, 0, b"\0\x30\x40", chunk)).getpixel((1, 0)) == (64, 64, 64)


def test_an_orientation_in_a_long_text_is_kept() -> None:
    text = b'<x tiff:Orientation="6"/>' + b" " * 3_000_000
    chunk = (b"iTXt", b"XML:com.adobe.xmp\0\1\0\0\0" + zlib.compress(text))
    assert decode(png(2, 1, 8, 0, b"\0\x30\x40", chunk)).size == (1, 2)


def test_a_jpeg_of_more_scans_than_a_photo_has_is_left_out_before_it_is_decoded() -> None:
    assert decode(many_scans(100)).size == picture(1).size
    for count in (101, 100_000):
        with pytest.raises(Unreadable, match="more than the 100 scans"):
            decode(many_scans(count))


def test_the_scans_of_a_large_jpeg_are_fewer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("catdog.data.picture_bytes.MAX_SCANNED", 60 * 48 * 40)
    assert decode(many_scans(60)).size == picture(1).size
    with pytest.raises(Unreadable, match=r"61 scans of 1,920 pixels"):
        decode(many_scans(61))


def test_what_stands_in_a_comment_or_a_thumbnail_is_no_scan() -> None:
    assert decode(encoded(picture(1), comment=b"\xff\xda" * 200)).size == picture(1).size


@pytest.mark.parametrize(
    "content",
    [
        b"\xff\xd8\xff" + b"\0" * 200_000,
        b"\xff\xd8" + b"\xff" * 200_000,
        b"\xff\xd8" + b"\xff\xe1\0\2" * 50_000,
        b"P6\n#" + b"x" * 200_000,
        b"GIF89a\1\0\1\0\0\0\0" + b"!\xfe\0" * 70_000,
        b"II*\0\x08\0\0\0" + b"\xff\xff" + bytes(12) * 0xFFFF + b"\x08\0\0\0",
    ],
    ids=["rubbish", "padding", "segments", "comment", "extensions", "tags"],
)
def test_a_header_without_end_is_given_up(content: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("catdog.data.picture_bytes.MAX_READS", 50_000)
    with pytest.raises(Unreadable, match=r"more than the 50,000 steps|TIFF that is broken"):
        decode(content)


@pytest.mark.parametrize("kind", [b"tEXt", b"abCd"])
def test_a_png_of_more_chunks_than_a_picture_has_is_given_up(kind: bytes) -> None:
    with pytest.raises(Unreadable, match="chunks"):
        decode(b"\x89PNG\r\n\x1a\n" + (bytes(4) + kind + bytes(4)) * 200_000)


def test_what_libtiff_has_to_say_does_not_reach_the_terminal(capfd: pytest.CaptureFixture[str]) -> None:
    content = bytearray(encoded(picture(1), "TIFF", compression="tiff_adobe_deflate"))
    content[10:40] = bytes(30)
    with pytest.raises(Unreadable):
        decode(bytes(content))
    assert capfd.readouterr() == ("", "")


def test_steps_of_a_decoder_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    content = b"P5 40 40 99\n" + bytes(range(40)) * 40
    assert decode(content).size == (40, 40)
    monkeypatch.setattr("catdog.data.picture_bytes.MAX_READS", 1000)
    with pytest.raises(Unreadable, match="more than the 1,000 steps"):
        decode(content)


def test_comments_in_a_plain_ppm_cost_no_more_than_their_bytes() -> None:
    numbers = b"".join(b"%d #\n" % (index % 256) + b"#\n" * 60 for index in range(48 * 40))
    assert decode(b"P2\n# made\n48 40 255\n" + numbers).getpixel((47, 0)) == (47, 47, 47)


def test_a_tiff_whose_strips_paint_the_picture_again_and_again_is_refused() -> None:
    rows, count = 40, 1000
    content = bytearray(tiff(48, rows, 8, 1, bytes(48 * rows), t278=rows - 1))
    at = content.index(struct.pack("<HHI", 273, 4, 1))
    content[at + 4 : at + 12] = struct.pack("<II", count, len(content))
    with pytest.raises(Unreadable, match="paints each pixel more than"):
        decode(bytes(content) + struct.pack("<I", 200) * count)


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(99), "HEIC: a format that is not read"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "PostScript: a format that is not read"),
        (b"\xd7\xcd\xc6\x9a" + bytes(40), "WMF: a format that is not read"),
        (b"8BPS\0\1" + bytes(40), "PSD: a format that is not read"),
        (b"just text", "not a picture in a known format"),
    ],
)
def test_a_format_that_is_not_read_is_told_by_its_name(content: bytes, told: str) -> None:
    with pytest.raises(Unreadable, match=told):
        decode(content)


def test_a_jpeg_of_12_bits_is_told_as_such() -> None:
    content = encoded(picture(1))
    at = content.index(b"\xff\xc0") + 4
    with pytest.raises(Unreadable, match="JPEG of 12 bits a sample"):
        decode(content[:at] + b"\x0c" + content[at + 1 :])


CASES = SHARED / "cases"


@pytest.mark.skipif(not CASES.is_dir(), reason="the cases are not at hand")
@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("p01_gray_12bit.tif", None),
        ("p03_gray_int32.tif", "integers of 32 bits"),
        ("p05_gray16_low_range.png", "nearly black"),
        ("p07_long_text_chunk.png", None),
        ("p09_avif.jpg", None),
        ("p11_heic_header.jpg", "HEIC"),
        ("p13_no_end_marker.jpg", "cut short"),
        ("p14_extraneous.jpg", None),
        ("p15_many_scans.jpg", "more than the 100 scans"),
    ],
)
def test_each_case_is_read_or_told(name: str, told: str | None) -> None:
    content = (CASES / name).read_bytes()
    if told is None:
        assert 40 < np.asarray(decode(content)).mean() < 215
    else:
        with pytest.raises(Unreadable, match=told):
            decode(content)


@pytest.mark.parametrize(
    ("mode", "options"),
    [
        ("RGB", {}),
        ("RGB", {"progressive": True}),
        ("RGB", {"restart_marker_blocks": 4}),
        ("L", {}),
        ("CMYK", {}),
    ],
    ids=["plain", "progressive", "with restarts", "grey", "CMYK"],
)
def test_a_jpeg_with_a_hole_in_its_data_is_left_out_and_one_without_is_read(mode: str, options: dict[str, Any]) -> None:
    whole = encoded(picture(3, 300, 200).convert(mode), **options)
    assert decode(whole).size == (300, 200)
    middle = len(whole) * 2 // 3
    with pytest.raises(Unreadable, match="damaged or cut short"):
        decode(whole[:middle] + bytes(300) + whole[middle + 300 :])


def test_bytes_too_many_after_the_data_of_a_jpeg_harm_nothing() -> None:
    whole = encoded(picture(3, 300, 200))
    assert np.array_equal(decode(whole[:-2] + bytes(100) + whole[-2:]), decode(whole))
    assert np.array_equal(decode(whole + bytes(70_000)), decode(whole))
    tables = whole.index(b"\xff\xc4")
    assert np.array_equal(decode(whole[:tables] + bytes(2) + whole[tables:]), decode(whole))


def test_a_jpeg_of_an_odd_version_is_read_and_a_hole_in_it_is_found() -> None:
    whole = encoded(picture(3, 300, 200))
    odd = whole[:11] + bytes(2) + whole[13:]
    assert np.array_equal(decode(odd), decode(whole))
    with pytest.raises(Unreadable, match="damaged or cut short"):
        decode(odd[:4000] + bytes(300) + odd[4300:])
