"""What a data set is made with beside its source: the options of `catdog prepare`."""

import math
from collections.abc import Iterable
from dataclasses import dataclass, field

from catdog.data.shards import CLASSES
from catdog.errors import CallerError
from catdog.parsing import DIGITS, brief

_MOST_PIXELS = 65_500
"""Of a side of a JPEG, as libjpeg writes it."""


@dataclass(frozen=True)
class PrepareOptions:
    """The manifest keeps them, in this order. Raises CallerError, in one line, for a value that is not allowed."""

    side: int = 256
    """Shorter side in pixels to which larger pictures are reduced."""
    shards: int = 16
    """Shards of the train split."""
    val: float = 0.1
    """Part of each class, in 0..1, for validation, and for the test."""
    test: float = 0.1
    seed: int = 0
    """Decides what is drawn, the split and the order."""
    keep: dict[str, float] = field(default_factory=dict)
    """Part, in 0..1, to which a class is thinned in the train split."""

    def __post_init__(self) -> None:
        _require(self.side >= 32, "side", self.side, "at least 32 pixels")
        _require(self.side <= _MOST_PIXELS, "side", self.side, f"at most {_MOST_PIXELS} pixels")
        _require(1 <= self.shards <= 99_999, "shards", self.shards, "from 1 to 99999")
        _require(0 <= self.val < 1, "val", self.val, "at least 0 and below 1")
        _require(0 <= self.test < 1, "test", self.test, "at least 0 and below 1")
        together = f"less than 1 together with --test {self.test}, so that something is left to train on"
        _require(self.val + self.test < 1, "val", self.val, together)
        _require(self.seed >= 0, "seed", self.seed, "at least 0")
        _require(self.seed < 10**DIGITS, "seed", self.seed, f"of at most {DIGITS} digits, as the manifest keeps it")
        for name, part in self.keep.items():
            _require(name in CLASSES, "keep", f"{name}={part}", f"for one of {', '.join(CLASSES)}")
            _require(0 < part <= 1, "keep", f"{name}={part}", "a part above 0 and at most 1")


def parse_keep(texts: Iterable[str]) -> dict[str, float]:
    """`PrepareOptions.keep` out of texts as cat=0.3, the last of a class; raises CallerError for what is none."""
    return dict(_class_and_part(text) for text in texts)


def _class_and_part(text: str) -> tuple[str, float]:
    name, _, part = text.partition("=")
    try:
        kept = float(part)
    except ValueError:
        kept = math.nan
    if name not in CLASSES or math.isnan(kept):
        shown = text if text.isprintable() and len(text) < 100 else brief(text)
        raise CallerError(f"--keep {shown}: must be CLASS=PART, as in cat=0.3, where CLASS is {' or '.join(CLASSES)}")
    return name, kept


def _require(holds: bool, name: str, value: object, allowed: str) -> None:
    if not holds:
        raise CallerError(f"--{name} {value if isinstance(value, str) else brief(value)}: must be {allowed}")
