"""Any picture file → upright RGB, and the JPEG that is stored of it."""

import io
import re
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import simplejpeg
from PIL import ExifTags, Image, PngImagePlugin, TiffImagePlugin

from catdog.data.confined import Starved, confined, require_machine
from catdog.data.picture_bytes import CountedReads, Unreadable, check_scans, jpeg_bits, without_text
from catdog.data.picture_formats import format_of
from catdog.data.tiff_tags import Tag, directories, is_preview
from catdog.errors import one_line

MAX_PIXELS = 100_000_000
"""More than this is taken for a decompression bomb."""
LARGE = 25_000_000
"""A picture of more pixels is converted in strips, for as a whole it would take four times its own memory."""
JPEG_QUALITY = 95

MAX_PLAIN_BYTES = 40_000_000
"""A larger PPM in plain text is not read, for Python reads it number by number."""

_STRIP = 1_000_000  # pixels
_MAX_LENGTH = 65_500  # pixels: libjpeg's limit

_FORMATS = ("JPEG", "PNG", "GIF", "BMP", "WEBP", "PPM")
"""Those alone are tried: what else Pillow opens is no photo, and for EPS it would run a program on the file."""
_CONFINED = {"AVIF": "AVIF", "JPEG2000": "JPEG 2000", "TIFF": "TIFF"}
"""Formats, with their names, that are read in a process of their own: nothing that is seen beforehand bounds what their
decoders do, and libtiff writes to the terminal."""

_DARK = 16
"""Brightness of 255, a sixteenth, that no number of 12 bits passes where it is told to be of 16."""
_FAINT = 16
"""Opacity of 255 that shows next to nothing."""
_FLAT = 2
"""Levels of 255 that lie within what codecs make of a single colour."""
_LAYERS = 8
"""How often a file may paint each pixel: as many times as a TIFF has planes."""

# Beyond that many bytes of text Pillow refuses the picture; the limit for each single one is as high here.
PngImagePlugin.MAX_TEXT_CHUNK = PngImagePlugin.MAX_TEXT_MEMORY

# Kinds of grey TIFF that Pillow would read, did it know of them: they differ from others in what `_Samples` tells.
TiffImagePlugin.OPEN_INFO.update(
    {
        (TiffImagePlugin.II, 0, (1,), 1, (12,), ()): ("I;16", "I;12"),
        (TiffImagePlugin.MM, 0, (1,), 1, (12,), ()): ("I;16", "I;12"),
        (TiffImagePlugin.MM, 1, (1,), 1, (12,), ()): ("I;16", "I;12"),
        (TiffImagePlugin.MM, 0, (1,), 1, (16,), ()): ("I;16B", "I;16B"),
    }
)

_DAMAGE = re.compile("premature end|bad (huffman|arithmetic) code|instead of rst|before marker 0xd[0-7]", re.IGNORECASE)
_DAMAGE_BETWEEN_SCANS = re.compile("before marker 0x(da|c4)")
"""In libjpeg's warnings, of data that does not come out even; others tell of odd headers, or of bytes too many at the end."""

_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""What makes a picture of each EXIF orientation upright."""


@dataclass(frozen=True)
class _Samples:
    """What a file tells of its numbers that Pillow does not take into account."""

    bits: int
    white_is_zero: bool = False
    """Of CMYK, too, where each number is one of ink."""


def decode(content: bytes, side: int | None = None) -> Image.Image:
    """The picture in `content`, upright, in mode RGB, whatever its format; the first frame of several.

    Transparency is laid over white; more than 8 bits are scaled to 8. With `side` a JPEG may come out reduced, its
    shorter side still at least twice that, which is quicker, and a large picture is brought down as `encode` does it,
    which takes less memory. Raises Unreadable for anything broken, cut short, empty or absurdly large, for more work than
    a photo is, and where the numbers do not tell what is to be seen; and Starved for what is the machine's fault.
    """
    if not content:
        raise Unreadable("the file is empty")
    try:
        if (name := format_of(content)) in _CONFINED:
            Image.init()  # a process that is forked while a thread imports one of Pillow's formats would wait for it for ever
            return confined(_decoded, content, side, (name,))
        return _decoded(content, side, _FORMATS)
    except (Unreadable, Starved):
        raise
    except Image.UnidentifiedImageError:
        raise Unreadable(_why_unknown(content)) from None
    except Exception as error:  # a codec may raise anything on broken input
        require_machine(error, "decoding it")
        raise Unreadable(one_line(error)) from None


def decode_stored(jpeg: bytes) -> Image.Image:
    """The picture of a record, in its own mode and size: a JPEG within the same limits, for no other format is stored.

    Raises Unreadable.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            image = _opened(jpeg, ("JPEG",))
            image.load()
            return image
    except Unreadable:
        raise
    except Image.UnidentifiedImageError:
        name = format_of(jpeg)
        raise Unreadable("not a JPEG" if name is None else f"{name} where only JPEG is read") from None
    except Exception as error:
        raise Unreadable(one_line(error)) from None


def encode(image: Image.Image, side: int) -> tuple[bytes, int, int]:
    """JPEG bytes, height and width of an RGB picture, its shorter side brought down to `side` pixels, never up.

    Raises Unreadable for a picture that is then too long for a JPEG, or of a single colour, which shows nothing.
    """
    image = image.resize(_reduced_size(image, side), Image.Resampling.LANCZOS)
    if max(image.size) > _MAX_LENGTH:
        raise Unreadable(f"{image.width} x {image.height} pixels: no side of a JPEG is longer than {_MAX_LENGTH:,}")
    if np.ptp(np.asarray(image.getextrema()), axis=1).max() <= _FLAT:
        raise Unreadable("nothing of it is to be seen: it is of a single colour")
    buffer = io.BytesIO()
    # Not the file's comment: one picture with two comments would be two pictures.
    image.save(buffer, "JPEG", quality=JPEG_QUALITY, comment=None)
    return buffer.getvalue(), image.height, image.width


def _decoded(content: bytes, side: int | None, formats: tuple[str, ...]) -> Image.Image:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        image = _opened(content, formats)
        samples = _samples(image, content)
        if image.format in ("JPEG", "MPO"):
            _require_undamaged(content, image.width * image.height)
        if side is not None and image.format == "JPEG":
            image.draft(image.mode, (2 * side, 2 * side))
        image.load()
        pixels = image.width * image.height
        picture = _rgb(image, samples) if side is None or pixels <= LARGE else _reduced_rgb(image, side, samples)
        _require_sight(image, picture, samples)
        turn = _turn(image)
        return picture if turn is None else picture.transpose(turn)


def _opened(content: bytes, formats: tuple[str, ...]) -> Image.Image:
    """A picture that is not decoded yet, once its header has shown that it is worth it."""
    if content.startswith(b"\x89PNG"):
        content = without_text(content)
    if content.startswith((b"P1", b"P2", b"P3")):
        if len(content) > MAX_PLAIN_BYTES:
            raise Unreadable(f"{len(content):,} bytes are more than the {MAX_PLAIN_BYTES:,} allowed in plain text")
        content = re.sub(rb"#[^\r\n]*", b"", content)  # Pillow takes the more time the more comments there are
    image = Image.open(CountedReads(content), formats=formats)
    if isinstance(image, TiffImagePlugin.TiffImageFile):
        image.seek(_page(content))
    pixels = image.width * image.height
    if pixels > MAX_PIXELS:
        raise Unreadable(f"{image.width} x {image.height} pixels are more than the {MAX_PIXELS:,} allowed")
    if content.startswith(b"\xff\xd8"):
        check_scans(content, pixels)
    boxes = [tile.extents for tile in image.tile if tile.extents]
    painted = sum((right - left) * (bottom - top) for left, top, right, bottom in boxes)
    if painted > _LAYERS * pixels:
        raise Unreadable(f"it paints each pixel more than the {_LAYERS} times allowed")
    return image


def _require_undamaged(jpeg: bytes, pixels: int) -> None:
    """Raises Unreadable for a JPEG of which libjpeg makes up what it cannot read: it warns of that, and Pillow does not
    tell. The first warning alone is known."""
    if jpeg[2:4] == b"\xff\xe0" and jpeg[6:11] == b"JFIF\0":
        jpeg = jpeg[:11] + b"\1\1" + jpeg[13:]  # else an odd version would be the first
    try:
        simplejpeg.decode_jpeg(jpeg, "GRAY", min_height=1, min_width=1, min_factor=8, strict=True)
    except ValueError as error:
        between = _DAMAGE_BETWEEN_SCANS.search(str(error)) and check_scans(jpeg, pixels) > 1
        if between or _DAMAGE.search(str(error)):
            raise Unreadable(f"a JPEG that is damaged or cut short: {one_line(error)}") from None


def _page(tiff: bytes) -> int:
    """Which page shows the picture; raises Unreadable where none does, and there are but previews of it."""
    pages, below = directories(tiff)
    whole = [number for number, page in enumerate(pages) if not is_preview(page)]
    if not whole and below:
        raise Unreadable("TIFF whose pages are but previews of a picture that is not read")
    return whole[0] if whole else 0


def _why_unknown(content: bytes) -> str:
    name = format_of(content)
    if name is None:
        return "not a picture in a known format"
    if name == "JPEG" and (bits := jpeg_bits(content)) not in (None, 8):
        return f"JPEG of {bits} bits a sample: a format that is not read"
    if name == "TIFF" and (told := _why_unknown_tiff(content)):
        return told
    if name.upper() in (*_FORMATS, *_CONFINED):
        return f"{_CONFINED.get(name, name)} that is broken, or of a kind that is not read"
    return f"{name}: a format that is not read"


def _why_unknown_tiff(content: bytes) -> str | None:
    tags = next(iter(directories(content)[0]), {})
    if Tag.BITS not in tags:
        return None
    bits = max(tags[Tag.BITS])
    if unknown := _unknown_range(bits, tags.get(Tag.SAMPLE_FORMAT, (1,))):
        return unknown
    colours, compression = (tags.get(tag, ("untold",))[0] for tag in (Tag.PHOTOMETRIC, Tag.COMPRESSION))
    kind = f"{bits} bits a sample, photometric interpretation {colours} and compression {compression}"
    return f"TIFF of {kind} that is broken, or of a kind that is not read"


def _unknown_range(bits: int, formats: Sequence[int]) -> str | None:
    """Why nobody knows which numbers of a TIFF are black and white, if so."""
    if 3 in formats:
        return "pixels are floating-point numbers of unknown range"
    if not {1, 2}.issuperset(formats):
        return f"pixels are numbers of sample format {max(formats)}, of unknown range"
    if bits > 16:
        return f"pixels are integers of {bits} bits, of unknown range"
    if 2 in formats:
        return "pixels are signed integers of unknown range"
    return None


def _samples(image: Image.Image, content: bytes) -> _Samples:
    """Raises Unreadable for a TIFF whose numbers have no known range, or that Pillow would take for others."""
    if image.format == "PNG":
        samples = _Samples(content[24])
        # Pillow leaves it in the bits of the file, whatever it does with the pixels.
        clear = image.info.get("transparency")
        if image.mode == "L" and isinstance(clear, int):
            image.info["transparency"] = clear * 255 // (2**samples.bits - 1)
        if samples.bits == 16 and isinstance(clear, tuple):
            image.info["transparency"] = tuple(value >> 8 for value in clear)
        return samples
    if not isinstance(image, TiffImagePlugin.TiffImageFile):
        return _Samples(16 if image.mode.startswith("I") else 8)
    tags = image.tag_v2
    bits = max(tags.get(TiffImagePlugin.BITSPERSAMPLE, (1,)))
    white_is_zero = tags.get(TiffImagePlugin.PHOTOMETRIC_INTERPRETATION) == 0
    if unknown := _unknown_range(bits, tags.get(TiffImagePlugin.SAMPLEFORMAT, (1,))):
        raise Unreadable(unknown)
    planes = tags.get(TiffImagePlugin.PLANAR_CONFIGURATION) == 2 and tags.get(TiffImagePlugin.COMPRESSION, 1) == 1
    if planes and (bits != 8 or white_is_zero or tags.get(TiffImagePlugin.FILLORDER, 1) != 1):
        raise Unreadable("TIFF in planes that are not of 8 bits: a kind that is not read")
    tile = tags.get(TiffImagePlugin.TILEWIDTH, 1) * tags.get(TiffImagePlugin.TILELENGTH, 1)
    if tile > MAX_PIXELS:
        raise Unreadable(f"a tile of {tile:,} pixels is more than the {MAX_PIXELS:,} allowed")
    return _Samples(bits, white_is_zero or image.mode == "CMYK")


def _require_sight(image: Image.Image, picture: Image.Image, samples: _Samples) -> None:
    """Raises Unreadable where nothing can be seen of the image, which `picture` shows in RGB."""
    extrema = np.asarray(picture.getextrema())
    if samples.bits > 8:
        numbers = 255 - extrema if samples.white_is_zero else extrema
        if image.mode == "CMYK":  # whose inks add up
            numbers = np.asarray(image.getextrema())
        if numbers.max() <= _DARK:
            nearly = "white" if samples.white_is_zero else "black"
            raise Unreadable(f"nearly {nearly}: no number of {samples.bits} bits passes a sixteenth of its range")
    if image.has_transparency_data:
        if (extrema == 255).all():
            raise Unreadable(
                "nothing of it is to be seen: it is wholly transparent, or as white as what it is laid over"
            )
        if not image.mode.startswith("I") and _opacity(image) <= _FAINT:
            raise Unreadable("nothing of it is to be seen: it is all but wholly transparent")


def _turn(image: Image.Image) -> Image.Transpose | None:
    """What makes the picture upright."""
    # Not ImageOps.exif_transpose: it also writes all tags anew, and fails where one that does not matter is odd.
    try:
        return _TURNS.get(image.getexif().get(ExifTags.Base.Orientation, 1))
    except Exception:  # EXIF that cannot be read tells no turn, and nothing of the pixels
        return None


def _reduced_size(image: Image.Image, side: int) -> tuple[int, int]:
    shorter = max(min(image.size), side)
    return max(round(image.width * side / shorter), 1), max(round(image.height * side / shorter), 1)


def _reduced_rgb(image: Image.Image, side: int, samples: _Samples) -> Image.Image:
    """What reducing the whole picture in mode RGB gives: Pillow, too, brings down the rows first, each by itself."""
    width, height = _reduced_size(image, side)
    narrow = Image.new("RGB", (width, image.height))
    for top, strip in _strips(image):
        strip = _rgb(strip, samples)
        narrow.paste(strip.resize((width, strip.height), Image.Resampling.LANCZOS), (0, top))
    return narrow.resize((width, height), Image.Resampling.LANCZOS)


def _strips(image: Image.Image) -> Iterator[tuple[int, Image.Image]]:
    """The picture in parts, each with its first row."""
    rows = max(_STRIP // image.width, 1)
    for top in range(0, image.height, rows):
        yield top, image.crop((0, top, image.width, min(top + rows, image.height)))


def _rgb(image: Image.Image, samples: _Samples) -> Image.Image:
    if image.mode.startswith("I"):
        return _grey(np.asarray(image), samples, image.info.get("transparency")).convert("RGB")
    if image.mode == "F":
        raise Unreadable("pixels are floating-point numbers of unknown range")
    if image.has_transparency_data:
        image = _rgba(image)
        white = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(white, image)
    return image if image.mode == "RGB" else image.convert("RGB")


def _rgba(image: Image.Image) -> Image.Image:
    image = image.convert("LA") if image.mode == "La" else image  # from which alone Pillow goes on
    return image.convert("RGBA")


def _opacity(image: Image.Image) -> int:
    """The highest of any pixel, of 255."""
    return max(int(np.max(_rgba(strip).getchannel("A").getextrema())) for _, strip in _strips(image))


def _grey(values: np.ndarray, samples: _Samples, clear: int | None) -> Image.Image:
    """Mode L, of integers [height, width] of more than 8 bits, of which one may stand for what is transparent."""
    top = 2**samples.bits - 1
    shades = values.astype(np.float32)
    shades = np.clip((top - shades if samples.white_is_zero else shades) / (top / 255), 0, 255).round().astype(np.uint8)
    if clear is not None:
        shades[values == clear] = 255
    return Image.fromarray(shades)
