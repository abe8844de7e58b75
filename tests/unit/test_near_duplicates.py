"""Near-duplicates: copies are found however they were changed, other pictures are not, and no input makes it slow."""

import io
import itertools
import os
import time
from collections.abc import Callable

import numpy as np
import pytest
from pictures import SHARED, encoded, picture
from PIL import Image, ImageDraw, ImageEnhance, ImageOps

from catdog.data.drawn_pictures import draw
from catdog.data.near_duplicates import BITS, MAX_DISTANCE, difference_hash, groups, near_pairs

FLIPPABLE = 1 << np.arange(8)


def reread(image: Image.Image, quality: int) -> Image.Image:
    return Image.open(io.BytesIO(encoded(image, quality=quality))).convert("RGB")


def marked(image: Image.Image) -> Image.Image:
    copy = image.copy()
    ImageDraw.Draw(copy).text((image.width // 20, image.height * 9 // 10), "(c) somebody", fill="white")
    return copy


CHANGES: dict[str, Callable[[Image.Image], Image.Image]] = {
    "encoded again": lambda image: reread(image, 40),
    "half size": lambda image: image.resize((image.width // 2, image.height // 2)),
    "mirrored": ImageOps.mirror,
    "brightened": lambda image: ImageEnhance.Brightness(image).enhance(1.25),
    "grey": lambda image: image.convert("L").convert("RGB"),
    "watermarked": marked,
    "mirrored, small, bright and encoded again": lambda image: reread(
        ImageEnhance.Brightness(ImageOps.mirror(image).resize((image.width // 2, image.height // 2))).enhance(1.2), 60
    ),
}


def found(hashes: list[bytes]) -> set[tuple[int, int]]:
    return {(i, j) for i, j, _ in near_pairs(hashes).tolist()}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_a_changed_copy_is_the_only_pair_with_its_picture(change: Callable[[Image.Image], Image.Image]) -> None:
    pictures = [picture(index, 320, 240) for index in range(30)]
    hashes = [difference_hash(image) for image in [*pictures, *map(change, pictures)]]
    assert found(hashes) == {(index, index + len(pictures)) for index in range(len(pictures))}


@pytest.mark.skipif(not (SHARED / "photos").is_dir(), reason="the shared photos are not here")
def test_the_real_pairs_among_photos_are_found_and_no_others() -> None:
    names = ["dog.74", "dog.180", "dog.980", "dog.1273", *(f"dog.{number}" for number in range(1, 60))]
    paths = [path for name in names if (path := SHARED / "photos/dog" / f"{name}.jpg").exists()]
    hashes = [difference_hash(Image.open(path)) for path in paths]
    assert found(hashes) == {(0, 1), (2, 3)}


@pytest.mark.parametrize(
    "image",
    [
        Image.new("RGB", (300, 200), "white"),
        Image.fromarray(np.random.default_rng(0).integers(250, 252, (200, 300, 3), np.uint8)),
        Image.fromarray(np.tile(np.linspace(240, 255, 300).astype(np.uint8)[:, None], (200, 1, 3))),
        marked(Image.new("RGB", (300, 200), "white")),
    ],
    ids=["blank", "noise of a scan", "shaded", "a line of text"],
)
def test_a_flat_picture_has_no_hash_and_is_in_no_pair(image: Image.Image) -> None:
    assert difference_hash(image) == b""
    assert found([difference_hash(image)] * 5) == set()


def test_drawn_faces_are_no_near_duplicates_of_each_other() -> None:
    assert found([difference_hash(Image.open(io.BytesIO(draw(0, index)[0]))) for index in range(300)]) == set()


def random_hashes(count: int, seed: int = 0) -> np.ndarray:
    """Hashes with their mirror images', uint8 [count, 64]."""
    return np.random.default_rng(seed).integers(0, 256, (count, 2 * BITS // 8), np.uint8)


def flipped(hash_: np.ndarray, bits: int, seed: int) -> np.ndarray:
    """A copy with so many bits of either half turned."""
    copy = hash_.copy()
    for start in (0, BITS):
        for bit in start + np.random.default_rng(seed).permutation(BITS)[:bits]:
            copy[bit // 8] ^= FLIPPABLE[bit % 8]
    return copy


def as_bytes(hashes: np.ndarray) -> list[bytes]:
    return [row.tobytes() for row in hashes]


def test_every_pair_up_to_the_greatest_distance_is_found_and_none_beyond_it() -> None:
    bases = random_hashes(300)
    copies = np.stack([flipped(base, 1 + number % 50, number) for number, base in enumerate(bases)])
    turned = np.roll(copies, BITS // 8, axis=1)  # the mirror image of each copy
    for others in (copies, turned):
        pairs = near_pairs(as_bytes(np.concatenate([bases, others])))
        expected = {(n, n + 300, 1 + n % 50) for n in range(300) if 1 + n % 50 <= MAX_DISTANCE}
        assert set(map(tuple, pairs.tolist())) == expected


def test_pairs_do_not_depend_on_the_order_of_the_pictures() -> None:
    bases = random_hashes(60)
    hashes = as_bytes(np.concatenate([bases, [flipped(base, 9, n) for n, base in enumerate(bases)], bases[:, ::-1]]))
    hashes[7] = b""
    order = np.random.default_rng(1).permutation(len(hashes)).tolist()
    again = near_pairs([hashes[place] for place in order]).tolist()
    assert {(*sorted((order[i], order[j])), d) for i, j, d in again} == {(*p,) for p in near_pairs(hashes).tolist()}


@pytest.mark.parametrize("bits", [0, 3], ids=["equal", "nearly equal"])
def test_a_crowd_of_thousands_alike_is_one_group_in_bounded_time_and_memory_and_takes_no_other_in(bits: int) -> None:
    base, others = random_hashes(1)[0], random_hashes(500, seed=1)
    crowd = np.stack([flipped(base, bits, number) for number in range(3000)])
    began = time.process_time()
    pairs = near_pairs(as_bytes(np.concatenate([crowd, others])))
    assert time.process_time() - began < 120
    assert len(pairs) == len(crowd) - 1
    group = groups(3500, pairs)
    assert set(group[:3000]) == {0} and group[3000:].tolist() == list(range(3000, 3500))


def test_all_pairs_of_a_small_group_are_listed() -> None:
    base = random_hashes(1)[0]
    hashes = as_bytes(np.stack([flipped(base, 4, number) for number in range(12)]))
    assert found(hashes) == set(itertools.combinations(range(12), 2))


def test_without_pictures_or_hashes_there_are_no_pairs() -> None:
    assert near_pairs([]).shape == near_pairs([b"", b""]).shape == near_pairs([os.urandom(64)]).shape == (0, 3)


def test_a_group_is_what_pairs_link_in_any_order_and_has_the_least_index_as_its_name() -> None:
    chain = np.array([[n, n + 1, 5] for n in range(10, 400)])
    pairs = np.random.default_rng(0).permutation(np.concatenate([chain, [[2, 7, 1], [7, 3, 1]]]))
    expected = [*range(10), *[10] * 391, *range(401, 410)]
    expected[7] = expected[3] = 2
    assert groups(410, pairs).tolist() == expected
    assert groups(3, np.empty((0, 3), np.int64)).tolist() == [0, 1, 2]
