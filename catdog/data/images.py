"""Any picture file → upright RGB, and the JPEG that is stored of it."""

import io
import warnings

import numpy as np
from PIL import ExifTags, Image

from catdog.errors import one_line

MAX_PIXELS = 100_000_000
"""More than this is taken for a decompression bomb."""
LARGE = 25_000_000
"""A picture of more pixels is converted in strips, for as a whole it would take four times its own memory."""
JPEG_QUALITY = 95

_STRIP = 1_000_000  # pixels

_FORMATS = ("JPEG", "PNG", "GIF", "BMP", "WEBP", "TIFF", "PPM")
"""Those alone are tried: what else Pillow opens is no photo, and for EPS it would run a program on the file."""

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


class Unreadable(Exception):
    """Why a file is not a picture that can be used, in one line."""


def decode(content: bytes, side: int | None = None) -> Image.Image:
    """The picture in `content`, upright, in mode RGB, whatever its format; the first frame of several.

    Transparency is laid over white; 16-bit values are scaled to 8. With `side` a JPEG may come out reduced, its shorter
    side still at least twice that, which is quicker, and a large picture is brought down as `encode` does it, which takes
    less memory. Raises Unreadable for anything broken, cut short, empty or absurdly large.
    """
    if not content:
        raise Unreadable("the file is empty")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            image = Image.open(io.BytesIO(content), formats=_FORMATS)
            if image.width * image.height > MAX_PIXELS:
                raise Unreadable(f"{image.width} x {image.height} pixels are more than the {MAX_PIXELS:,} allowed")
            if side is not None and image.format == "JPEG":
                image.draft(image.mode, (2 * side, 2 * side))
            image.load()
            pixels = image.width * image.height
            picture = _rgb(image) if side is None or pixels <= LARGE else _reduced_rgb(image, side)
            turn = _turn(image)
            return picture if turn is None else picture.transpose(turn)
    except Unreadable:
        raise
    except Image.UnidentifiedImageError:
        raise Unreadable("not a picture in a known format") from None
    except Exception as error:  # a codec may raise anything on broken input
        raise Unreadable(one_line(error)) from None


def encode(image: Image.Image, side: int) -> tuple[bytes, int, int]:
    """JPEG bytes, height and width of an RGB picture, its shorter side brought down to `side` pixels, never up."""
    image = image.resize(_reduced_size(image, side), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    # Not the file's comment: one picture with two comments would be two pictures.
    image.save(buffer, "JPEG", quality=JPEG_QUALITY, comment=None)
    return buffer.getvalue(), image.height, image.width


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


def _reduced_rgb(image: Image.Image, side: int) -> Image.Image:
    """What reducing the whole picture in mode RGB gives: Pillow, too, brings down the rows first, each by itself."""
    width, height = _reduced_size(image, side)
    narrow = Image.new("RGB", (width, image.height))
    rows = max(_STRIP // image.width, 1)
    for top in range(0, image.height, rows):
        strip = _rgb(image.crop((0, top, image.width, min(top + rows, image.height))))
        narrow.paste(strip.resize((width, strip.height), Image.Resampling.LANCZOS), (0, top))
    return narrow.resize((width, height), Image.Resampling.LANCZOS)


def _rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I"):
        values = np.asarray(image).astype(np.float32)
        return Image.fromarray(np.clip(values / 257.0, 0, 255).round().astype(np.uint8)).convert("RGB")
    if image.mode == "F":
        raise Unreadable("pixels are floating-point numbers of unknown range")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(white, image)
    return image if image.mode == "RGB" else image.convert("RGB")
