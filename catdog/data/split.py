"""Which pictures train, validate and test: by the seed, or as a person's own folders have them.

Every function is pure.
"""

import hashlib
import re
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import replace
from pathlib import PurePosixPath

from catdog.data.options import PrepareOptions
from catdog.data.picture import Picture, Skipped
from catdog.data.shards import CLASSES, SPLITS

_NAMES = {
    "train": "train|training",
    "val": "val|valid|validate|validation|dev|devel|development|eval|evaluation",
    "test": "test|testing|hold[ _-]?out|held[ _-]?out",
}
_FOLDERS = {
    split: re.compile(f"({names})([ _-]?(set|split|data|images|imgs|pictures|photos))?", re.IGNORECASE)
    for split, names in _NAMES.items()
}
_WORDS = {
    split: re.compile(rf"(?<![^\W\d_]){names.pattern}(?![^\W\d_])", re.IGNORECASE) for split, names in _FOLDERS.items()
}


def split_of(name: str) -> str:
    """The split that a relative path's nearest folder named after one tells: `train`, `val` or `test`, or one of their
    longer names, in any case; empty where there is no such folder."""
    for part in reversed(PurePosixPath(name).parts[:-1]):
        for split, names in _FOLDERS.items():
            if names.fullmatch(part):
                return split
    return ""


def split_in(name: str) -> str:
    """As `split_of`, but where there is no such folder, of one in whose name a split is a word among others, as in
    `seg_train` or `Test256`."""
    if found := split_of(name):
        return found
    for part in reversed(PurePosixPath(name).parts[:-1]):
        spaced = re.sub("(?<=[a-z])(?=[A-Z])", "_", part)
        if len(named := [split for split, word in _WORDS.items() if word.search(spaced)]) == 1:
            return named[0]
    return ""


def placed(pictures: Iterable[Picture]) -> tuple[list[Picture], tuple[str, ...], list[Skipped]]:
    """The pictures with the folders of the source's own split, if it has one, which splits these are, and what is left out.

    It has none where all pictures are of one. Where train is one, pictures that lie in none are left out: what stands
    beside `train` may be someone's hold-out under another name. A split's word in a longer name may mean anything: it
    counts where every picture lies below one, and of more splits than one.
    """
    given = list(pictures)
    found, folders = _told(given, split_in)
    if "" in folders or len(folders) < 2:
        found, folders = _told(given, split_of)
    if len(folders) < 2:
        return [replace(picture, folder="") for picture in given], (), []
    own = tuple(split for split in SPLITS if split in folders)
    if "train" not in own:
        return found, own, []
    reason = f"lies in none of the folders of the source's own split: {', '.join(own)}"
    astray = [Skipped(picture.name, reason) for picture in found if not picture.folder]
    return [picture for picture in found if picture.folder], own, astray


def _told(pictures: Sequence[Picture], tell: Callable[[str], str]) -> tuple[list[Picture], set[str]]:
    """The pictures with the folder that each one's name tells, and which these are."""
    found = [replace(picture, folder=tell(picture.name)) for picture in pictures]
    return found, {picture.folder for picture in found}


def split(
    pictures: Sequence[Picture],
    options: PrepareOptions,
    own: Collection[str] = (),
    groups: Sequence[int] | None = None,
) -> dict[str, list[Picture]]:
    """The pictures of each split, shuffled; those of one group, by the picture's place, stay together.

    Splits of the source's `own` are as its folders say, and only the others are split off. Each picture's place depends on
    the seed and its digest, so files that are left out have no influence, and each class gives the same part of itself to
    each split, but at least one group where it has enough of them.
    """
    held = set(own) - {"train"}
    result = {name: [picture for picture in pictures if name in held and picture.folder == name] for name in SPLITS}
    together: dict[int, list[Picture]] = {}
    for place, picture in enumerate(pictures):
        if picture.folder not in held:
            together.setdefault(place if groups is None else groups[place], []).append(picture)
    members = [sorted(group, key=lambda p: p.digest) for group in together.values()]
    parts = {name: part for name, part in (("test", options.test), ("val", options.val)) if name not in held}
    left = _quotas(members, parts)
    for group in sorted(members, key=lambda group: _rank("split", options.seed, group[0])):
        size = Counter(picture.label for picture in group)
        name = next((name for name in parts if all(left[name][label] >= size[label] for label in size)), "train")
        if name != "train":
            left[name].subtract(size)
        result[name] += group
    result["train"] = _thinned(result["train"], options)
    return {name: sorted(members, key=lambda p: _rank("shuffle", options.seed, p)) for name, members in result.items()}


def _quotas(groups: Sequence[Sequence[Picture]], parts: dict[str, float]) -> dict[str, Counter[int]]:
    """Pictures of each class that each split gets at most: its part, or a small group where there is one for each split."""
    quotas: dict[str, Counter[int]] = {name: Counter() for name in parts}
    wanted = [name for name, part in parts.items() if part > 0]
    for label in range(len(CLASSES)):
        sizes = sorted(size for group in groups if (size := sum(picture.label == label for picture in group)))
        small = sizes[len(wanted) - 1] if len(sizes) > len(wanted) else 0
        for name in wanted:
            quotas[name][label] = max(round(parts[name] * sum(sizes)), small)
    return quotas


def _thinned(pictures: Iterable[Picture], options: PrepareOptions) -> list[Picture]:
    """What is kept of each class for training."""
    ranked = sorted(pictures, key=lambda p: _rank("keep", options.seed, p))
    result: list[Picture] = []
    for label, name in enumerate(CLASSES):
        members = [picture for picture in ranked if picture.label == label]
        result += members[: round(options.keep.get(name, 1.0) * len(members))]
    return result


def _rank(purpose: str, seed: int, picture: Picture) -> bytes:
    return hashlib.sha256(f"{purpose} {seed} {picture.digest}".encode()).digest()
