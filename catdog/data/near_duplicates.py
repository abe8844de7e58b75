"""Pictures that show the same but differ in their bytes: a difference hash of each, and the pairs that it finds.

Every function is pure.
"""

from collections.abc import Iterator, Sequence

import numpy as np
from PIL import Image

Bits = np.ndarray[tuple[int, ...], np.dtype[np.uint8]]
Ints = np.ndarray[tuple[int, ...], np.dtype[np.int64]]
Words = np.ndarray[tuple[int, ...], np.dtype[np.uint64]]

BITS = 256
MAX_DISTANCE = 31
"""Most bits, of 256, in which the hashes of near-duplicates differ.

Of 2,600 photos two pairs differ in 9 and 10 bits, and no others in fewer than 56; unrelated ones in 122, with a standard
deviation of 10. Of 325 copies for each change none differed in more than 31: encoded anew (quality 50: 11, 15: 25), half
size (20), mirrored (9), brightened by 20 % (27), darkened by 40 % (16), more contrast (23), grey (10), with a watermark
(in a corner: 14, right across: 24), 1 % cut off every edge (30). Of 2 % cut off, 72 % are within it; of 5 %, 1 %. Of 2,000
drawn faces, which are all alike, no two differ in fewer than 35. As the distances of photos thin out, some dozen unrelated
pairs of 100,000 photos come within it, which does no harm but to keep them in one split.
"""

_SIDE = 16  # the hash has one bit for each of 16 x 16 steps from left to right
_CONTRAST = 2  # grey levels, of 256: a smaller step may be noise
# Fewer steps of that contrast make a picture too flat to be told by its hash. Photos have 107 and more, drawn faces 86.
_INFORMATIVE = 64

# Hashes that differ in at most MAX_DISTANCE bits differ in at most one bit of some band of so many.
_BANDS = MAX_DISTANCE // 2 + 1
# Neighbouring bits are much alike in photos: a band takes bits from all over the picture, so that few bands agree by chance.
_BAND_BITS = np.array_split(np.arange(BITS) * 97 % BITS, _BANDS)
_CROWD = 128  # a hash is compared with so many of those alike in a band, and of a larger group few pairs are told
_AT_ONCE = 1 << 14  # hashes whose candidates are in memory


def difference_hash(image: Image.Image) -> bytes:
    """The hash of a picture and that of its mirror image, 32 bytes each; empty for a picture too flat to have one.

    A bit tells whether the mean grey of a cell of a grid, 16 rows of 17, is brighter than its left neighbour's. Size,
    colour, light and compression hardly change that.
    """
    grey = np.asarray(image.convert("L").resize((_SIDE + 1, _SIDE), Image.Resampling.BOX), np.int16)
    if (np.abs(np.diff(grey, axis=1)) >= _CONTRAST).sum() < _INFORMATIVE:
        return b""
    return _bits(grey).tobytes() + _bits(grey[:, ::-1]).tobytes()


def near_pairs(hashes: Sequence[bytes]) -> Ints:
    """Pairs of near-duplicates, int64 [pairs, 3]: two indices into `hashes`, the smaller first, and their distance in bits.

    The distance is the least of the two hashes and of either with the other's mirror image; a picture without a hash is
    in no pair. Time and memory grow with the number of hashes, not its square, whatever they are: of a group of more than
    128 only as many pairs are told as hold it together.
    """
    known = np.flatnonzero([len(each) > 0 for each in hashes])
    both = np.frombuffer(b"".join(hashes), np.uint64).reshape(-1, 2, BITS // 64)
    # The likest stand together, so that a crowd's members are compared with those that are nearest.
    order = np.lexsort(both[:, 0].T)
    upright, mirrored = np.moveaxis(both[order], 0, 2).copy()
    found: Ints = np.empty((0, 2), np.int64)
    fresh: list[Ints] = []
    group: Ints = np.arange(len(order))
    crowded = np.zeros(len(order), np.bool_)
    for words, i, j in _candidates(upright, mirrored):
        new = ~crowded[i] | (group[i] != group[j])
        i, j = i[new], j[new]
        near = _distances(words, upright, i, j) <= MAX_DISTANCE
        fresh.append(np.sort(np.stack([i[near], j[near]], axis=1), axis=1))
        if sum(map(len, fresh)) > _AT_ONCE * _CROWD:
            found, group, crowded = _gathered(len(order), [found, *fresh])
            fresh = []
    found, *_ = _gathered(len(order), [found, *fresh])
    i, j = found.T
    # Where neighbours are equally bright, the two mirrored ways may differ.
    ways = ((upright, upright), (mirrored, upright), (upright, mirrored))
    distance = np.minimum.reduce([_distances(one, other, i, j) for one, other in ways])
    result = np.column_stack([np.sort(known[order[found]], axis=1), distance])
    return result[np.lexsort(result.T[::-1])]


def groups(count: int, pairs: Ints) -> Ints:
    """The group of each of `count` pictures, int64 [count], as its least index; pairs are [pairs, 2 or more]."""
    return _linked(count, pairs)[0]


def _linked(count: int, pairs: Ints) -> tuple[Ints, Ints]:
    """The groups, and the places of as few of the pairs as hold them together."""
    group: Ints = np.arange(count)
    needed: list[Ints] = [np.empty(0, np.int64)]
    place = np.arange(len(pairs))
    while len(place := place[group[pairs[place, 0]] != group[pairs[place, 1]]]):
        ends = np.sort(group[pairs[place, :2]], axis=1)
        # Each group is linked to one of a lesser index, so that no circle comes about.
        greater, first = np.unique(ends[:, 1], return_index=True)
        group[greater] = ends[first, 0]
        needed.append(place[first])
        while (group[group] != group).any():
            group = group[group]
    return group, np.concatenate(needed)


def _gathered(count: int, parts: Sequence[Ints]) -> tuple[Ints, Ints, np.ndarray]:
    """Each pair once, of a crowd only those that hold it together; each picture's group, and whether that is a crowd."""
    both = np.concatenate(parts)
    pairs = np.column_stack(np.divmod(np.unique(both[:, 0] * count + both[:, 1]), max(count, 1)))
    group, needed = _linked(count, pairs)
    crowded = np.bincount(group, minlength=count)[group] > _CROWD
    kept = ~crowded[pairs[:, 0]]
    kept[needed] = True
    return pairs[kept], group, crowded


def _bits(grey: np.ndarray) -> Bits:
    return np.packbits(grey[:, 1:] > grey[:, :-1])


def _candidates(upright: Words, mirrored: Words) -> Iterator[tuple[Words, Ints, Ints]]:
    """Pairs (i, j) of which hash i, upright or mirrored, differs from the upright hash j in at most one bit of some band,
    with the words that i stands in; some pairs come often."""
    bits, mirrored_bits = (np.unpackbits(words.T.copy().view(np.uint8), axis=1) for words in (upright, mirrored))
    for band in _BAND_BITS:
        values = 1 << np.arange(len(band), dtype=np.int64)
        keys, mirrored_keys = bits[:, band] @ values, mirrored_bits[:, band] @ values
        order, asking = np.argsort(keys, kind="stable"), np.argsort(mirrored_keys, kind="stable")
        keys, mirrored_keys = keys[order], mirrored_keys[asking]
        after = np.arange(1, len(keys) + 1), np.searchsorted(keys, keys, "right")
        yield from ((upright, i, j) for i, j in _matches(order, order, *after))
        for flip in [0, *values.tolist()]:
            if flip:  # of two keys that differ in this bit, the one without it looks for the other
                without = np.flatnonzero(keys & flip == 0)
                found = _matches(order[without], order, *_equal_range(keys, keys[without] | flip))
                yield from ((upright, i, j) for i, j in found)
            found = _matches(asking, order, *_equal_range(keys, mirrored_keys ^ flip))
            yield from ((mirrored, i, j) for i, j in found)


def _equal_range(keys: Ints, wanted: Ints) -> tuple[Ints, Ints]:
    """Where each wanted one begins and ends among the sorted keys."""
    return np.searchsorted(keys, wanted), np.searchsorted(keys, wanted, "right")


def _matches(asking: Ints, order: Ints, first: Ints, end: Ints) -> Iterator[tuple[Ints, Ints]]:
    """Each of those asking with those from its first place up to its end in the order, but for itself."""
    count = np.clip(end - first, 0, _CROWD)
    some = count > 0
    asking, first, count = asking[some], first[some], count[some]
    for start in range(0, len(asking), _AT_ONCE):
        part = slice(start, start + _AT_ONCE)
        repeated = np.repeat(np.arange(len(count[part])), count[part])
        within = np.arange(len(repeated)) - np.repeat(np.cumsum(count[part]) - count[part], count[part])
        i, j = asking[part][repeated], order[first[part][repeated] + within]
        yield i[i != j], j[i != j]


def _distances(one: Words, other: Words, i: Ints, j: Ints) -> Ints:
    """Distance in bits of the hashes i of one from j of the other, int64 [pairs]; words are uint64 [4, hashes]."""
    result = np.zeros(len(i), np.int64)
    for a, b in zip(one, other, strict=True):
        result += np.bitwise_count(a[i] ^ b[j])
    return result
