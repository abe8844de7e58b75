"""Which pictures train, validate and test."""

from collections import Counter
from dataclasses import replace

import pytest

from catdog.data.options import PrepareOptions
from catdog.data.picture import Picture
from catdog.data.split import placed, split, split_in, split_of


def some_pictures(cats: int, dogs: int, folder: str = "") -> list[Picture]:
    labels = [0] * cats + [1] * dogs
    return [
        Picture(f"{folder}/{i}.jpg", label, f"digest {folder}{i}", 32, 32, 0, 0, folder=folder)
        for i, label in enumerate(labels)
    ]


def counts(pictures: list[Picture]) -> tuple[int, int]:
    found = Counter(picture.label for picture in pictures)
    return found[0], found[1]


@pytest.mark.parametrize(("cats", "dogs"), [(1000, 1000), (997, 13), (10, 333), (2, 2)])
@pytest.mark.parametrize(("val", "test"), [(0.1, 0.1), (0.0, 0.5), (0.37, 0.21), (0.0, 0.0)])
def test_each_split_gets_its_part_of_each_class_within_one(cats: int, dogs: int, val: float, test: float) -> None:
    parts = split(some_pictures(cats, dogs), PrepareOptions(val=val, test=test, seed=3))
    for label, count in ((0, cats), (1, dogs)):
        for name, part in (("val", val), ("test", test), ("train", 1 - val - test)):
            assert abs(sum(p.label == label for p in parts[name]) - part * count) <= 1
    everyone = [p.name for members in parts.values() for p in members]
    assert len(everyone) == len(set(everyone)) == cats + dogs


def test_the_split_does_not_depend_on_the_order_of_the_pictures_and_mixes_the_classes() -> None:
    pictures = some_pictures(300, 300)
    parts = split(pictures, PrepareOptions(seed=3))
    assert parts == split(pictures[::-1], PrepareOptions(seed=3))
    labels = [picture.label for picture in parts["train"]]
    assert 0.4 < sum(labels[:100]) / 100 < 0.6 and labels != sorted(labels)


def test_keep_thins_the_class_in_the_train_split_only() -> None:
    whole = split(some_pictures(200, 200), PrepareOptions())
    thinned = split(some_pictures(200, 200), PrepareOptions(keep={"cat": 0.3}))
    assert (whole["val"], whole["test"]) == (thinned["val"], thinned["test"])
    assert [p for p in whole["train"] if p.label == 1] == [p for p in thinned["train"] if p.label == 1]
    assert sum(p.label == 0 for p in thinned["train"]) == 48
    assert set(thinned["train"]) < set(whole["train"])


@pytest.mark.parametrize("dogs", [3, 4, 5])
def test_a_rare_class_is_in_every_split_as_soon_as_there_are_enough_of_it(dogs: int) -> None:
    parts = split(some_pictures(60, dogs), PrepareOptions())
    assert {name: counts(members) for name, members in parts.items()} == {
        "train": (48, dogs - 2),
        "val": (6, 1),
        "test": (6, 1),
    }


def test_two_of_a_class_are_too_few_for_three_splits_and_train() -> None:
    assert counts(split(some_pictures(60, 2), PrepareOptions())["train"]) == (48, 2)


@pytest.mark.parametrize("size", [2, 3])
@pytest.mark.parametrize("count", [12, 60, 600])
@pytest.mark.parametrize("seed", range(3))
def test_groups_stay_together_and_each_split_gets_its_part_of_them(size: int, count: int, seed: int) -> None:
    pictures = some_pictures(count, count)
    groups = [place // size for place in range(len(pictures))]
    parts = split(pictures, PrepareOptions(seed=seed, val=0.2), groups=groups)
    place = {picture.name: name for name, members in parts.items() for picture in members}
    assert len(place) == 2 * count
    for first in range(0, len(pictures), size):
        assert len({place[picture.name] for picture in pictures[first : first + size]}) == 1
    for name, part in (("val", 0.2), ("test", 0.1)):
        assert all(number > 0 and abs(number - part * count) < size for number in counts(parts[name]))


def test_a_group_of_both_classes_stays_together() -> None:
    pictures = some_pictures(50, 50)
    groups = [place % 50 for place in range(100)]  # each cat with a dog
    parts = split(pictures, PrepareOptions(), groups=groups)
    assert {name: counts(members) for name, members in parts.items()} == {
        "train": (40, 40),
        "val": (5, 5),
        "test": (5, 5),
    }
    for members in parts.values():
        numbers = [{int(p.name[1:-4]) % 50 for p in members if p.label == label} for label in (0, 1)]
        assert numbers[0] == numbers[1]


def test_a_group_larger_than_a_split_trains_and_the_others_make_the_splits() -> None:
    pictures = some_pictures(100, 100)
    groups = [0 if place < 70 else place for place in range(200)]
    parts = split(pictures, PrepareOptions(), groups=groups)
    assert {name: counts(members) for name, members in parts.items()} == {
        "train": (80, 80),
        "val": (10, 10),
        "test": (10, 10),
    }


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("train/cat/1.jpg", "train"),
        ("Training/dogs/x/1.jpg", "train"),
        ("set/VAL/cat/1.jpg", "val"),
        ("valid/cat.1.jpg", "val"),
        ("validation/cat/1.jpg", "val"),
        ("cat/Test/1.jpg", "test"),
        ("test_set/test_set/cats/cat.4001.jpg", "test"),
        ("test/train/cat/1.jpg", "train"),
        ("test1/1.jpg", ""),
        ("cat/1.jpg", ""),
        ("cat/test.jpg", ""),
        ("latest/cat/1.jpg", ""),
        ("Dev/cat/1.jpg", "val"),
        ("hold-out/cat/1.jpg", "test"),
        ("training_images/cat/1.jpg", "train"),
        ("test_images/cat/1.jpg", "test"),
        ("trained/cat/1.jpg", ""),
    ],
)
def test_the_nearest_folder_named_after_a_split_tells_it(name: str, expected: str) -> None:
    assert split_of(name) == expected


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("seg_train/cat/1.jpg", "train"),
        ("seg_test/seg_test/cat/1.jpg", "test"),
        ("01_train/cat/1.jpg", "train"),
        ("train_1/cat/1.jpg", "train"),
        ("Test256/cat/1.jpg", "test"),
        ("catsTrain/cat/1.jpg", "train"),
        ("myTestSet/cat/1.jpg", "test"),
        ("Validate/cat/1.jpg", "val"),
        ("val2017/cat/1.jpg", "val"),
        ("test1/cat.1.jpg", "test"),
        ("train_test/test/cat/1.jpg", "test"),
        ("test/dog/dog training/1.jpg", "test"),
        ("train_test/cat/1.jpg", ""),
        ("trained/cat/1.jpg", ""),
        ("contest/cat/1.jpg", ""),
        ("größtest/cat/1.jpg", ""),
    ],
)
def test_a_split_is_found_as_a_word_of_a_folders_name(name: str, expected: str) -> None:
    assert split_in(name) == expected


def test_a_split_as_a_word_among_others_counts_where_another_split_does_too() -> None:
    def told(*folders: str) -> tuple[tuple[str, ...], set[str]]:
        found, own, _ = placed([picture for folder in folders for picture in some_pictures(2, 2, folder)])
        return own, {picture.folder for picture in found}

    assert told("seg_train", "seg_test", "seg_train") == (("train", "test"), {"train", "test"})
    assert told("train_station", "park") == ((), {""})
    assert told("dog", "dog training", "crash-test") == ((), {""})
    assert told("train", "seg_test") == (("train", "test"), {"train", "test"})


@pytest.mark.parametrize(
    ("folders", "expected"),
    [
        (["train", "val", "test"], ("train", "val", "test")),
        (["test", "train"], ("train", "test")),
        (["", "val"], ("val",)),
        (["train", "test", ""], ("train", "test")),
        (["train"], ()),
        (["train", ""], ("train",)),
        (["test"], ()),
        ([""], ()),
    ],
)
def test_folders_are_a_split_where_there_are_pictures_of_more_than_one(
    folders: list[str], expected: tuple[str, ...]
) -> None:
    pictures = [p for folder in folders for p in some_pictures(2, 2, folder)]
    kept, own, astray = placed(pictures)
    assert own == expected
    # What lies beside train may be a hold-out by another name, and is not trained on.
    assert [skipped.name for skipped in astray] == [p.name for p in pictures if "train" in expected and not p.folder]
    assert {p.folder for p in kept} == ({*folders} - ({""} if "train" in expected else set()) if expected else {""})


def test_a_split_of_the_sources_own_is_kept_and_what_it_lacks_is_split_off_train() -> None:
    train, test = some_pictures(40, 60, "train"), some_pictures(10, 3, "test")
    options = PrepareOptions(val=0.2, test=0.4, keep={"dog": 0.5})
    parts = split(train + test, options, own=("train", "test"))
    assert set(parts["test"]) == set(test)
    assert counts(parts["val"]) == (8, 12) and counts(parts["train"]) == (32, 24)
    assert {p.folder for p in parts["val"] + parts["train"]} == {"train"}


def test_near_duplicates_across_a_split_of_the_sources_own_are_not_moved() -> None:
    train, test = some_pictures(20, 20, "train"), some_pictures(20, 20, "test")
    parts = split(train + test, PrepareOptions(), own=("train", "test"), groups=[*range(40)] * 2)
    assert set(parts["test"]) == set(test)
    assert set(parts["train"] + parts["val"]) == set(train)


def test_without_folders_of_a_split_a_name_changes_nothing() -> None:
    pictures = some_pictures(30, 30)
    named = [replace(picture, folder="train") for picture in pictures]
    names = [
        [p.name for p in split(each, PrepareOptions())[n]] for each in (pictures, named) for n in ("train", "test")
    ]
    assert names[:2] == names[2:]
