"""What a data set does not depend on: the number of processes, where the pictures lie, files that are left out, and
an earlier `prepare` that was broken off."""

import csv
import io
import json
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest
from pictures import SHARED, class_folders, encoded, picture, write
from PIL import Image

from catdog.data.convert import _in_processes
from catdog.data.options import PrepareOptions
from catdog.data.prepare import prepare
from catdog.data.process_pool import cores
from catdog.data.shards import load_manifest
from catdog.data.sources import File, Item
from catdog.data.tfrecord import write_records
from catdog.errors import CallerError
from catdog.storage import Bucket, open_bucket


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return class_folders(tmp_path_factory.mktemp("photos"), 30, 21)


def prepared(photos: Path, folder: Path, processes: int, shards: int = 4) -> Bucket:
    bucket = open_bucket(str(folder))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("catdog.data.process_pool.cores", lambda: processes)
        prepare(f"folder:{photos}", bucket, PrepareOptions(side=32, shards=shards), overwrite=True)
    return bucket


@pytest.fixture(scope="module")
def clean(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Bucket:
    return prepared(photos, tmp_path_factory.mktemp("data"), processes=1)


def files(bucket: Bucket, photos: Path) -> dict[str, bytes]:
    """Every object as it would be had the pictures lain in PHOTOS, but for the list of what was left out and for what the
    source looked like."""
    names = [name for name in bucket.list() if name != "skipped.csv"]
    found = {name: bucket.read(name).replace(str(photos).encode(), b"PHOTOS") for name in names}
    if "manifest.json" in found:
        manifest = json.loads(found["manifest.json"])
        del manifest["origin"]
        found["manifest.json"] = json.dumps(manifest).encode()
    return found


def skipped(bucket: Bucket) -> dict[str, str]:
    _, *rows = csv.reader(io.StringIO(bucket.read("skipped.csv").decode()))
    return dict(rows)


def test_broken_files_copies_and_more_processes_change_no_byte_of_shards_and_manifest(
    photos: Path, clean: Bucket, tmp_path: Path
) -> None:
    first = (photos / "cat/0.jpg").read_bytes()
    left_out = {
        "cat/empty.jpg": b"",
        "cat/cut, in half.jpg": first[: len(first) // 2],
        "dog/page.jpg": b"<html>404</html>",
        "dog/large.png": encoded(Image.new("1", (20_000, 10_000)), "PNG"),
        "readme.txt": b"about",
        "cat/deeper/copy.jpg": first,
        "cat/the same pixels.png": encoded(Image.open(io.BytesIO(first)), "PNG"),
        "cat/the same with a comment.jpg": first[:2] + b"\xff\xfe\x00\x07hello" + first[2:],
        "cat/in both 1.jpg": encoded(picture(5000)),
        "dog/in both 2.jpg": encoded(picture(5000)),
    }
    mixed = tmp_path / "photos"
    for name, content in left_out.items():
        write(mixed / name, content)
    for path in sorted(photos.rglob("*.jpg"), reverse=True):  # in another order on the disk
        write(mixed / path.relative_to(photos), path.read_bytes())
    bucket = prepared(mixed, tmp_path / "data", processes=3)
    assert skipped(bucket).keys() == left_out.keys()
    assert files(bucket, mixed) == files(clean, photos)


@pytest.mark.skipif(not (SHARED / "bad_images").is_dir(), reason="the shared bad images are not here")
def test_of_the_shared_bad_images_those_of_no_use_change_no_byte_and_the_others_are_stored(
    photos: Path, tmp_path: Path
) -> None:
    useless = {f"syn_{name}.jpg" for name in ("text", "zero_bytes", "truncated_half", "lfs_pointer")}
    useless.add("real_exactdup_dog.3082.jpg")
    for folder in ("clean", "mixed"):
        shutil.copytree(photos, tmp_path / folder)
        for path in (SHARED / "bad_images").iterdir():
            if folder == "mixed" or path.name not in useless:
                write(tmp_path / folder / "dog" / path.name, path.read_bytes())
    clean, mixed = (prepared(tmp_path / name, tmp_path / f"{name} data", processes=2) for name in ("clean", "mixed"))
    assert (skipped(clean).keys(), skipped(mixed).keys()) == (set(), {f"dog/{name}" for name in useless})
    assert files(mixed, tmp_path / "mixed") == files(clean, tmp_path / "clean")


def test_a_prepare_broken_off_looks_unfinished_and_the_next_one_leaves_nothing_of_it(
    photos: Path, clean: Bucket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bucket = open_bucket(str(shutil.copytree(clean.uri, tmp_path / "data")))

    def broken_off_at_the_third(path: Path, payloads: Iterable[bytes]) -> None:
        if len([name for name in bucket.list() if name.endswith("-of-00006.tfrecord")]) == 2:
            path.write_bytes(b"half a shard")
            raise KeyboardInterrupt
        write_records(path, payloads)

    monkeypatch.setattr("catdog.data.prepare.write_records", broken_off_at_the_third)
    with pytest.raises(KeyboardInterrupt):
        prepared(photos, tmp_path / "data", processes=1, shards=6)
    with pytest.raises(CallerError, match="no manifest"):
        load_manifest(bucket)
    assert bucket.list() == ["train-00000-of-00006.tfrecord", "train-00001-of-00006.tfrecord"]
    monkeypatch.undo()
    prepared(photos, tmp_path / "data", processes=1)
    assert files(bucket, photos) == files(clean, photos)


def test_a_source_is_read_no_further_ahead_than_the_work_in_hand(photos: Path) -> None:
    read = 0

    def endless() -> Iterator[Item]:
        nonlocal read
        while True:
            read += 1
            yield Item("cat/0.jpg", 0, File(photos / "cat/0.jpg"))

    converted = _in_processes(endless(), side=32)
    for _ in range(200):
        next(converted)
    converted.close()
    assert 200 <= read <= 200 + 16 * (2 * cores() + 2)
