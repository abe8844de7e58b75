"""The drawn sample: faces of cats and dogs drawn with Pillow, each a pure function of (seed, index).

Colour, pose, light, background, occlusion and blur come from the same ranges for both classes, and every feature of a
face overlaps between them (dogs with pricked ears, cats with folded ones), so only the features taken together tell one
from the other. Coordinates are rounded to whole pixels and Pillow's operations on them are in whole numbers, so the
bytes depend on nothing but the versions of Pillow and of Python's `random`.
"""

import cmath
import io
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from random import Random
from typing import TypeVar

from PIL import Image, ImageChops, ImageDraw, ImageFilter

EXAMPLES = 2000
"""Pictures in the sample, half of them cats."""
SIDE = 128
"""Side of a picture in pixels."""

Colour = tuple[int, int, int]
Item = TypeVar("Item")

_CANVAS = 2 * SIDE  # drawn at twice the side, then reduced, which smooths the edges
_CIRCLE = tuple(cmath.rect(1, math.tau * k / 24) for k in range(24))
_COATS: tuple[Colour, ...] = (
    (238, 226, 204),
    (226, 152, 76),
    (200, 150, 102),
    (150, 102, 66),
    (102, 72, 54),
    (164, 162, 164),
    (114, 120, 132),
    (70, 68, 74),
    (242, 240, 236),
    (212, 184, 144),
)
_EYES: tuple[Colour, ...] = ((132, 172, 76), (214, 166, 58), (120, 172, 200), (140, 94, 50), (176, 128, 60))
_NOSES: tuple[Colour, ...] = ((214, 134, 132), (52, 44, 46), (108, 72, 64), (38, 34, 38))
_ACCENTS: tuple[Colour, ...] = ((196, 62, 58), (58, 110, 176), (70, 140, 96), (232, 182, 70), (150, 92, 160))
_INK: Colour = (48, 38, 40)
_PINK: Colour = (226, 150, 150)
_WHITE: Colour = (250, 248, 244)
_BLACK: Colour = (18, 16, 18)

# The outline of a hanging ear: (part of its length, part of its width to the outer side), from the root and round.
_DROP = (
    (0.0, -0.12),
    (0.06, 0.3),
    (0.35, 0.55),
    (0.75, 0.6),
    (0.97, 0.35),
    (1.04, 0.0),
    (0.95, -0.32),
    (0.7, -0.46),
    (0.35, -0.42),
    (0.1, -0.34),
)


def draw(seed: int, index: int) -> tuple[bytes, int]:
    """Draw picture `index` of sample `seed`: (JPEG bytes of an RGB image of SIDE x SIDE pixels, label 0 cat or 1 dog).

    Even indices are cats and odd ones dogs. Any two whole numbers give a picture; nothing is raised.
    """
    rng = Random(f"catdog/{seed}/{index}")
    label = index % 2
    face = _dog(rng) if label else _cat(rng)
    image = _background(rng)
    _draw_animal(_posed_brush(image, rng), face, rng)
    _occlude(image, rng)
    image = _photograph(image, rng)
    encoded = io.BytesIO()
    image.save(encoded, "JPEG", quality=95)
    return encoded.getvalue(), label


@dataclass(frozen=True)
class _Face:
    """What makes a face a cat's or a dog's; lengths in head radii."""

    ear: str  # "pointed", "folded" (a triangle whose tip falls forward) or "floppy"
    ear_length: float
    ear_width: float
    width: float  # half the width of the head
    height: float  # half the height of the head
    jaw: float  # part of the width that is lost towards the chin
    muzzle: float  # half the width of the muzzle
    snout: float  # how far the muzzle stands out of the face
    nose: float  # half the width of the nose
    wide_nose: bool  # a broad oval, not a small triangle
    eye: float  # half the width of an eye
    slit: bool  # pupils narrowed to a slit
    whiskers: float  # length; 0 for none
    tongue: bool
    stripes: bool


def _cat(rng: Random) -> _Face:
    return _Face(
        ear="pointed" if _chance(rng, 0.92) else "folded",
        ear_length=rng.uniform(0.5, 0.8),
        ear_width=rng.uniform(0.55, 0.78),
        width=rng.uniform(0.98, 1.14),
        height=rng.uniform(0.78, 0.9),
        jaw=rng.uniform(0.0, 0.16),
        muzzle=rng.uniform(0.22, 0.32),
        snout=rng.uniform(0.05, 0.2),
        nose=rng.uniform(0.075, 0.115),
        wide_nose=False,
        eye=rng.uniform(0.22, 0.29),
        slit=_chance(rng, 0.65),
        whiskers=rng.uniform(0.7, 1.1) if _chance(rng, 0.95) else 0.0,
        tongue=_chance(rng, 0.02),
        stripes=_chance(rng, 0.4),
    )


def _dog(rng: Random) -> _Face:
    ear = _pick(rng, ("floppy", "floppy", "floppy", "floppy", "floppy", "folded", "pointed", "pointed"))
    return _Face(
        ear=ear,
        ear_length=rng.uniform(0.8, 1.35) if ear == "floppy" else rng.uniform(0.55, 0.95),
        ear_width=rng.uniform(0.42, 0.62),
        width=rng.uniform(0.78, 0.96),
        height=rng.uniform(0.9, 1.06),
        jaw=rng.uniform(0.1, 0.34),
        muzzle=rng.uniform(0.42, 0.6),
        snout=rng.uniform(0.35, 0.75),
        nose=rng.uniform(0.17, 0.26),
        wide_nose=True,
        eye=rng.uniform(0.12, 0.18),
        slit=False,
        whiskers=rng.uniform(0.3, 0.5) if _chance(rng, 0.12) else 0.0,
        tongue=_chance(rng, 0.5),
        stripes=_chance(rng, 0.12),
    )


class _Brush:
    """Draws shapes given in face units onto an image, turned and moved by the pose."""

    def __init__(self, image: Image.Image, centre: complex, spin: complex, lean: complex) -> None:
        self.image = image
        self.pen = ImageDraw.Draw(image)
        self.centre = centre  # pixels
        self.spin = spin  # scale and rotation in the plane: pixels per unit
        self.lean = lean  # where a point one unit in front of the face moves to when the head turns aside or nods

    def place(self, shape: Iterable[complex], depth: float = 0.0) -> list[tuple[int, int]]:
        spin, origin = self.spin, self.centre + self.spin * self.lean * depth
        return [(round(point.real), round(point.imag)) for point in (origin + spin * point for point in shape)]

    def fill(self, shape: Iterable[complex], colour: Colour, depth: float = 0.0) -> None:
        self.pen.polygon(self.place(shape, depth), fill=colour)

    def stroke(self, shape: Iterable[complex], colour: Colour, width: float, depth: float = 0.0) -> None:
        pixels = max(1, round(width * abs(self.spin)))
        self.pen.line(self.place(shape, depth), fill=colour, width=pixels, joint="curve" if pixels > 3 else None)


def _posed_brush(image: Image.Image, rng: Random) -> _Brush:
    scale = rng.uniform(0.25, 0.36) * _CANVAS
    centre = complex(rng.uniform(0.37, 0.63), rng.uniform(0.43, 0.61)) * _CANVAS
    lean = complex(rng.uniform(-0.5, 0.5), rng.uniform(-0.12, 0.2))
    return _Brush(image, centre, cmath.rect(scale, math.radians(rng.uniform(-22, 22))), lean)


def _draw_animal(brush: _Brush, face: _Face, rng: Random) -> None:
    """Body, ears, head, markings, eyes, muzzle: from the back to the front."""
    coat = _vary(rng, _pick(rng, _COATS), 14)
    second = _vary(rng, _pick(rng, _COATS), 14)
    pale = _mix(coat, _vary(rng, _COATS[8], 6), rng.uniform(0.0, 0.85))
    ears = _mix(coat, second, rng.random() * rng.random())
    _draw_body(brush, coat, pale, rng)
    if face.ear != "floppy":
        _draw_upright_ears(brush, face, ears, rng)
    _draw_head(brush, face, coat, rng)
    _draw_markings(brush, face, coat, second, pale, rng)
    _draw_fur(brush, face, coat, rng)
    if face.ear == "floppy":
        _draw_floppy_ears(brush, face, _mix(ears, _INK, 0.12), rng)
    _draw_eyes(brush, face, coat, rng)
    _draw_muzzle(brush, face, pale, rng)


def _draw_body(brush: _Brush, coat: Colour, pale: Colour, rng: Random) -> None:
    """Shoulders below the head, upright whatever the head does, and sometimes a collar with its tag."""
    upright = _Brush(brush.image, brush.centre, complex(abs(brush.spin)), 0j)
    shoulders = rng.uniform(0.85, 1.3)
    side = [0.5 + 0.4j, 0.62 + 0.9j, shoulders + 1.5j, shoulders + 0.15 + 4j]
    shade = _mix(coat, _INK, 0.22)
    upright.fill([*side, *(-point.conjugate() for point in reversed(side))], shade)
    upright.fill(_ellipse(1.75j, 0.42, 0.8), _mix(shade, pale, 0.5))
    if _chance(rng, 0.4):
        colour = _pick(rng, _ACCENTS)
        upright.stroke([-0.62 + 0.95j, -0.3 + 1.12j, 0.3 + 1.12j, 0.62 + 0.95j], colour, 0.16)
        upright.fill(_ellipse(1.28j, 0.13, 0.13), (236, 196, 88))


def _draw_upright_ears(brush: _Brush, face: _Face, colour: Colour, rng: Random) -> None:
    """Triangles with bulging sides; a folded one is cut short and its tip falls over the front."""
    apart = rng.uniform(0.45, 0.72)
    inner = _mix(_mix(colour, _PINK, rng.uniform(0.3, 0.8)), _INK, 0.1)
    for sign in (-1, 1):
        base, tip = complex(0.52, -0.5), complex(apart + 0.1, -0.62 - face.ear_length)
        half = complex(face.ear_width / 2, face.ear_width * 0.22)
        tip += complex(rng.uniform(-0.05, 0.05), rng.uniform(-0.05, 0.05))
        left, right = base - half, base + half
        ear = [left, _bulge(left, tip, 0.06), tip, _bulge(tip, right, 0.08), right]
        shell = [0.62 * (point - base) + base - 0.02j for point in ear]
        if face.ear == "pointed":
            brush.fill(_flip(ear, sign), colour, -0.3)
            brush.fill(_flip(shell, sign), inner, -0.3)
            continue
        crease = [left + 0.5 * (tip - left), right + 0.5 * (tip - right)]
        fallen = complex(tip.real + 0.16, base.imag - 0.42 * face.ear_length + 0.28)
        brush.fill(_flip([left, *crease, right], sign), colour, -0.3)
        brush.fill(_flip([crease[0], crease[1], fallen], sign), _mix(colour, _INK, 0.25), -0.15)


def _draw_floppy_ears(brush: _Brush, face: _Face, colour: Colour, rng: Random) -> None:
    """Drops that hang from the sides of the skull."""
    swing = rng.uniform(-0.1, 0.3)
    for sign in (-1, 1):
        root = complex(0.56 * face.width, -0.74 * face.height)
        end = root + cmath.rect(face.ear_length, math.pi / 2 - swing - 0.32 + rng.uniform(-0.08, 0.08))
        along, across = end - root, (end - root) / abs(end - root) * -1j * face.ear_width
        drop = [root + along * far + across * aside for far, aside in _DROP]
        middle = sum(drop) / len(drop)
        brush.fill(_flip(drop, sign), _mix(colour, _INK, 0.2), -0.05)
        brush.fill(_flip([middle + 0.84 * (point - middle) for point in drop], sign), colour, -0.05)


def _draw_head(brush: _Brush, face: _Face, coat: Colour, rng: Random) -> None:
    """The skull with a ragged edge of fur, nested shades from the rim to the middle."""
    rag = rng.uniform(0.01, 0.05)
    cheeks = rng.uniform(0.0, 0.14)
    outline = []
    for k in range(48):
        direction = cmath.rect(1, math.tau * k / 48)
        low = max(0.0, direction.imag)
        wide = face.width * (1 - face.jaw * low * low) + cheeks * low * abs(direction.real)
        ragged = 1 + (rag if k % 2 else -rag) * (0.6 + low)
        outline.append(complex(direction.real * wide, direction.imag * face.height) * ragged)
    for size, shade in ((1.0, 0.2), (0.9, 0.1), (0.76, 0.0)):
        brush.fill([size * point - (1 - size) * 0.3j for point in outline], _mix(coat, _INK, shade))
    brush.fill(_ellipse(-0.4j, 0.42, 0.3), _mix(coat, _WHITE, 0.12), 0.1)


def _draw_markings(brush: _Brush, face: _Face, coat: Colour, second: Colour, pale: Colour, rng: Random) -> None:
    """Any of stripes, a patch over an eye, a blaze between the eyes and pale brows."""
    if face.stripes:
        dark = _mix(coat, _INK, rng.uniform(0.3, 0.6))
        for x in (-0.22, 0.0, 0.22):
            brush.stroke([complex(x * 1.3, -0.86 * face.height), complex(x * 0.8, -0.42)], dark, 0.08, 0.15)
        for sign in (-1, 1):
            for y in (0.05, 0.28):
                cheek = [complex(0.92 * face.width, y - 0.08), complex(0.6 * face.width, y)]
                brush.stroke(_flip(cheek, sign), dark, 0.07)
    if _chance(rng, 0.3):
        sign = _pick(rng, (-1, 1))
        brush.fill(_flip(_ellipse(0.4 - 0.2j, 0.36, 0.44, 0.3), sign), second, 0.2)
    if _chance(rng, 0.3):
        blaze = (-0.06 - 0.8j, 0.06 - 0.8j, 0.13 - 0.1j, 0.3 + 0.4j, -0.3 + 0.4j, -0.13 - 0.1j)
        brush.fill(blaze, pale, 0.25)
    if _chance(rng, 0.2):
        for sign in (-1, 1):
            brush.fill(_flip(_ellipse(0.32 - 0.42j, 0.13, 0.08, -0.3), sign), pale, 0.25)


def _draw_fur(brush: _Brush, face: _Face, coat: Colour, rng: Random) -> None:
    """Short strokes that point away from the nose, lighter and darker than the coat."""
    shades = (_mix(coat, _WHITE, 0.22), _mix(coat, _INK, 0.18))
    for k in range(int(rng.uniform(15, 50))):
        direction = cmath.rect(1, math.tau * rng.random())
        start = math.sqrt(rng.uniform(0.12, 0.85))
        root = complex(direction.real * face.width, direction.imag * face.height) * start
        brush.stroke([root, root + direction * rng.uniform(0.06, 0.16)], shades[k % 2], 0.018)


def _draw_eyes(brush: _Brush, face: _Face, coat: Colour, rng: Random) -> None:
    iris = _vary(rng, _pick(rng, _EYES), 16)
    apart = rng.uniform(0.36, 0.44)
    open_ = rng.uniform(0.72, 1.0)
    slant = rng.uniform(0.0, 0.35)
    look = complex(rng.uniform(-0.25, 0.25), rng.uniform(-0.15, 0.15)) * face.eye
    pupil = rng.uniform(0.2, 0.34) if face.slit else rng.uniform(0.52, 0.76)
    for sign in (-1, 1):
        centre = complex(apart * sign, -0.12)
        tilt = -slant * sign
        brush.fill(_ellipse(centre, face.eye * 1.2, face.eye * open_ * 1.2, tilt), _mix(coat, _INK, 0.75), 0.3)
        brush.fill(_ellipse(centre, face.eye, face.eye * open_, tilt), iris, 0.3)
        tall = 0.86 if face.slit else pupil
        brush.fill(_ellipse(centre + look, face.eye * pupil, face.eye * open_ * tall), _BLACK, 0.3)
        brush.fill(_ellipse(centre + look + face.eye * (-0.3 - 0.34j), face.eye * 0.2, face.eye * 0.2), _WHITE, 0.3)


def _draw_muzzle(brush: _Brush, face: _Face, pale: Colour, rng: Random) -> None:
    """Snout, tongue, mouth, nose, whiskers; a long snout is seen aside when the head turns."""
    depth = 0.3 + face.snout
    centre = complex(0, 0.36 + 0.12 * face.snout)
    tall = face.muzzle * 0.78
    shade = _mix(pale, _INK, 0.16)
    for step in (0.0, 0.5):  # the bridge, from the face out to the tip
        brush.fill(_ellipse(centre - 0.1j * (1 - step), face.muzzle * 0.92, tall * 1.1), shade, 0.3 + face.snout * step)
    mouth = centre + complex(0, 0.32 * tall)
    if face.tongue:
        brush.fill(_ellipse(mouth + complex(0, 0.9 * tall), 0.36 * face.muzzle, 0.8 * tall), (222, 112, 120), depth)
        brush.stroke([mouth + 0.4j * tall, mouth + 1.2j * tall], (188, 84, 96), 0.03, depth)
    else:
        brush.fill(_ellipse(mouth + complex(0, 0.62 * tall), 0.5 * face.muzzle, 0.45 * tall), shade, depth - 0.05)
    for sign in (-1, 1):
        brush.fill(_ellipse(centre + 0.45 * sign * face.muzzle, 0.62 * face.muzzle, 0.8 * tall), pale, depth)
    nose = centre - complex(0, 0.62 * tall)
    brush.stroke([nose, mouth], _INK, 0.028, depth)
    for sign in (-1, 1):
        smile = [mouth, mouth + face.muzzle * (0.24 + 0.2j), mouth + face.muzzle * (0.5 + 0.18j)]
        smile.append(mouth + face.muzzle * (0.7 + 0.02j))
        brush.stroke(_flip(smile, sign), _INK, 0.03, depth)
    colour = _vary(rng, _pick(rng, _NOSES), 10)
    width = face.nose
    if face.wide_nose:
        brush.fill(_ellipse(nose, width, width * 0.74), colour, depth + 0.06)
        brush.fill(
            _ellipse(nose - complex(0, 0.34 * width), 0.45 * width, 0.16 * width),
            _mix(colour, _WHITE, 0.4),
            depth + 0.06,
        )
    else:
        corners = (-1 - 0.5j, -0.6 - 0.75j, 0.6 - 0.75j, 1 - 0.5j, 0.2 + 0.7j, -0.2 + 0.7j)
        brush.fill([nose + width * corner for corner in corners], colour, depth + 0.06)
    if face.whiskers:
        tone = _pick(rng, (_WHITE, _mix(pale, _INK, 0.7)))
        for sign in (-1, 1):
            for fan in (-0.22, 0.02, 0.26):
                root = centre + complex(0.4 * face.muzzle, 0.3 * fan)
                end = root + cmath.rect(face.whiskers, fan + rng.uniform(-0.1, 0.1))
                brush.stroke(_flip([root, _bulge(root, end, 0.04), end], sign), tone, 0.016, depth)


def _background(rng: Random) -> Image.Image:
    """A smooth gradient of four colours with shapes and lines upon it, blurred small and enlarged: out of focus."""
    side = int(rng.uniform(0.25, 0.75) * SIDE)
    corners = bytes(channel for _ in range(4) for channel in _backdrop(rng))
    image = Image.frombytes("RGB", (2, 2), corners).resize((side, side), Image.Resampling.BILINEAR)
    pen = ImageDraw.Draw(image)
    for _ in range(int(rng.uniform(0, 9))):
        _draw_clutter(pen, rng, side)
    image = image.filter(ImageFilter.BoxBlur(1))
    return image.resize((_CANVAS, _CANVAS), Image.Resampling.BILINEAR)


def _draw_clutter(pen: ImageDraw.ImageDraw, rng: Random, side: int) -> None:
    """One disc, leaf-like polygon or line of any place, size and colour."""
    colour = _backdrop(rng)
    centre = complex(rng.random(), rng.random()) * side
    radius = rng.uniform(0.05, 0.2) * side
    kind = int(rng.random() * 3)
    if kind == 0:
        shape = _ellipse(centre, radius, radius * rng.uniform(0.4, 1), rng.uniform(0, math.pi))
    elif kind == 1:
        shape = [
            centre + cmath.rect(radius * rng.uniform(0.5, 1.3), math.tau * (k + rng.random()) / 5) for k in range(5)
        ]
    else:
        along = cmath.rect(rng.uniform(0.2, 0.9) * side, math.tau * rng.random())
        across = along / abs(along) * 1j * rng.uniform(0.01, 0.03) * side
        shape = [centre - along - across, centre + along - across, centre + along + across, centre - along + across]
    pen.polygon([(round(point.real), round(point.imag)) for point in shape], fill=colour)


def _occlude(image: Image.Image, rng: Random) -> None:
    """Sometimes a thing or two in front of the animal."""
    pen = ImageDraw.Draw(image)
    while _chance(rng, 0.2):
        _draw_clutter(pen, rng, _CANVAS)


def _photograph(image: Image.Image, rng: Random) -> Image.Image:
    """Reduce to SIDE, then light from one side, a lens out of focus and a sensor's noise."""
    image = image.reduce(_CANVAS // SIDE)
    corners = bytes(int(rng.uniform(150, 256)) for _ in range(4))
    shade = Image.frombytes("L", (2, 2), corners).resize(image.size, Image.Resampling.BILINEAR)
    image = ImageChops.multiply(image, Image.merge("RGB", (shade, shade, shade)))
    if _chance(rng, 0.5):
        image = image.filter(ImageFilter.GaussianBlur(rng.uniform(0.3, 0.9)))
    grain = int(rng.uniform(1, 9))
    noise = Image.frombytes("L", image.size, rng.randbytes(SIDE * SIDE)).point([k * grain // 255 for k in range(256)])
    return ImageChops.add(image, Image.merge("RGB", (noise, noise, noise)), 1, -(grain // 2))


def _ellipse(centre: complex, rx: float, ry: float, tilt: float = 0.0) -> list[complex]:
    turn = cmath.rect(1, tilt)
    return [centre + turn * complex(rx * point.real, ry * point.imag) for point in _CIRCLE]


def _flip(shape: Iterable[complex], sign: int) -> list[complex]:
    """The shape itself for sign 1, its mirror image in the face's midline for sign -1."""
    return [complex(sign * point.real, point.imag) for point in shape]


def _bulge(start: complex, end: complex, height: float) -> complex:
    """The middle of a segment, pushed to its left by `height`."""
    return (start + end) / 2 - 1j * (end - start) / abs(end - start) * height


def _mix(one: Colour, other: Colour, part: float) -> Colour:
    red, green, blue = (round(a + (b - a) * part) for a, b in zip(one, other, strict=True))
    return red, green, blue


def _vary(rng: Random, colour: Colour, by: int) -> Colour:
    red, green, blue = (min(255, max(0, round(channel + rng.uniform(-by, by)))) for channel in colour)
    return red, green, blue


def _backdrop(rng: Random) -> Colour:
    """A muted colour of any hue or one of a coat, so that the background does not give the animal away."""
    if _chance(rng, 0.3):
        return _vary(rng, _pick(rng, _COATS), 20)
    grey = round(rng.uniform(80, 225))
    return _vary(rng, (grey, grey, grey), 45)


def _chance(rng: Random, probability: float) -> bool:
    return rng.random() < probability


def _pick(rng: Random, items: Sequence[Item]) -> Item:
    return items[int(rng.random() * len(items))]
