"""Pictures that are there twice: of those alike in every pixel one is kept, those nearly alike are told.

Every function is pure.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from catdog.data.picture import Picture, Skipped

_KEPT_FIRST = ("test", "val", "train", "")
"""Of copies in several splits of the source's own, the one that is held out stays, or training would know it."""


@dataclass(frozen=True)
class NearDuplicates:
    """Two pictures that are kept though they show the same, and what each stands under."""

    names: tuple[str, str]
    distance: int
    """Bits, of 256, in which their hashes differ."""
    splits: tuple[str, str]
    labels: tuple[int, int]


def unique(pictures: list[Picture]) -> tuple[list[Picture], list[Skipped]]:
    """Each picture once; none that comes under both classes.

    The name that is least deep, then shortest, then first is kept, for that is rarely the copy's.
    """

    def preference(picture: Picture) -> tuple[int, int, int, str]:
        name = picture.name
        return _KEPT_FIRST.index(picture.folder), name.count("/"), len(name), name

    alike: dict[str, list[Picture]] = {}
    for picture in sorted(pictures, key=preference):
        alike.setdefault(picture.digest, []).append(picture)
    kept: list[Picture] = []
    skipped: list[Skipped] = []
    for first, *others in alike.values():
        contrary = next((other for other in others if other.label != first.label), None)
        if contrary is None:
            kept.append(first)
            skipped += [Skipped(other.name, f"the same picture as {first.name}") for other in others]
        else:
            reason = f"the same picture stands under both classes: {first.name} and {contrary.name}"
            skipped += [Skipped(picture.name, reason) for picture in (first, *others)]
    return kept, skipped


def near_duplicates(
    pictures: Sequence[Picture], pairs: Iterable[tuple[int, int, int]], splits: Mapping[str, Sequence[Picture]]
) -> list[NearDuplicates]:
    """What is told of each pair of places and its distance; not of a picture that was thinned out."""
    places = {picture.name: name for name, members in splits.items() for picture in members}
    found = []
    for first, second, distance in pairs:
        a, b = sorted((pictures[first], pictures[second]), key=lambda p: p.name)
        if a.name in places and b.name in places:
            between = places[a.name], places[b.name]
            found.append(NearDuplicates((a.name, b.name), distance, between, (a.label, b.label)))
    return sorted(found, key=lambda near: (near.distance, near.names))
