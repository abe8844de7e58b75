"""Any picture file → upright RGB, and the JPEG that is stored of it."""

import io
import warnings

import numpy as np
from PIL import ExifTags, Image

from catdog.errors import one_line

MAX_PIXELS = 100_000_000
"""More than this is taken for a decompression bomb."""
JPEG_QUALITY = 95

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
    side still at least twice that, which is quicker. Raises Unreadable for anything broken, cut short, empty or absurdly large.
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
            return _rgb(_upright(image))
    except Unreadable:
        raise
    except Image.UnidentifiedImageError:
        raise Unreadable("not a picture in a known format") from None
    except Exception as error:  # a codec may raise anything on broken input
        raise Unreadable(one_line(error)) from None


def encode(image: Image.Image, side: int) -> tuple[bytes, int, int]:
    """JPEG bytes, height and width of an RGB picture, its shorter side brought down to `side` pixels, never up."""
    shorter = min(image.size)
    if shorter > side:
        width, height = (max(round(length * side / shorter), 1) for length in image.size)
        image = image.resize((width, height), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    # Not the file's comment: one picture with two comments would be two pictures.
    image.save(buffer, "JPEG", quality=JPEG_QUALITY, comment=None)
    return buffer.getvalue(), image.height, image.width


def _upright(image: Image.Image) -> Image.Image:
    # Not ImageOps.exif_transpose: it also writes all tags anew, and fails where one that does not matter is odd.
    try:
        turn = _TURNS.get(image.getexif().get(ExifTags.Base.Orientation, 1))
    except Exception:  # EXIF that cannot be read tells no turn, and nothing of the pixels
        turn = None
    return image if turn is None else image.transpose(turn)


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
