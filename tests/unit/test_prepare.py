import csv
import errno
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import NoReturn

import numpy as np
import pytest
import tensorflow as tf
from pictures import SHARED, Deadly, class_folders, encoded, picture, thread_pool, write
from PIL import Image

from catdog.data.confined import Starved
from catdog.data.options import PrepareOptions
from catdog.data.prepare import prepare
from catdog.data.shards import SPLITS, Manifest, load_manifest
from catdog.data.sources import Item, Opened
from catdog.data.tfrecord import write_records
from catdog.data.verify import verify
from catdog.errors import CallerError, RunError, one_line
from catdog.storage import Bucket, open_bucket
from tests.pace import within
from tests.stand_ins.fake_store import FakeStore, Fault

CATS, DOGS = 24, 16


@pytest.fixture
def threads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("catdog.data.convert.process_pool", thread_pool)


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return class_folders(tmp_path_factory.mktemp("photos"), CATS, DOGS)


@pytest.fixture
def bucket(tmp_path: Path) -> Bucket:
    return open_bucket(str(tmp_path / "data"))


def content(bucket: Bucket) -> dict[str, bytes]:
    """Every shard's bytes."""
    return {name: bucket.read(name) for name in bucket.list() if name.endswith(".tfrecord")}


def skipped(bucket: Bucket) -> dict[str, str]:
    header, *rows = csv.reader(io.StringIO(bucket.read("skipped.csv").decode()))
    assert header == ["path", "reason"]
    return dict(rows)


def stored(bucket: Bucket, manifest: Manifest, name: str) -> dict[str, np.ndarray]:
    """File name → picture of one split, read with TensorFlow alone."""
    keys = {"image/filename": tf.string, "image/encoded": tf.string, "image/format": tf.string}
    numbers = dict.fromkeys(("image/class/label", "image/height", "image/width"), tf.int64)
    spec = {key: tf.io.FixedLenFeature([], kind) for key, kind in (keys | numbers).items()}
    result = {}
    for shard in manifest.split(name):
        for record in tf.data.TFRecordDataset(str(bucket.local(shard.name))):
            features = tf.io.parse_single_example(record, spec)
            image = tf.io.decode_jpeg(features["image/encoded"], channels=3).numpy()
            assert image.shape == (features["image/height"], features["image/width"], 3)
            assert features["image/format"] == b"jpeg"
            result[features["image/filename"].numpy().decode()] = image
    return result


def everything(bucket: Bucket, manifest: Manifest) -> dict[str, np.ndarray]:
    return {name: image for part in SPLITS for name, image in stored(bucket, manifest, part).items()}


def test_photos_become_a_data_set_without_a_fault_on_all_cores(photos: Path, bucket: Bucket) -> None:
    manifest = prepare(f"folder:{photos}", bucket, PrepareOptions(shards=4, val=0.2, test=0.1, side=32)).manifest
    assert load_manifest(bucket) == manifest
    assert verify(bucket)[1] == []
    names = everything(bucket, manifest)
    assert set(names) == {f"cat/{i}.jpg" for i in range(CATS)} | {f"dog/{i}.jpg" for i in range(DOGS)}
    assert {image.shape for image in names.values()} == {(32, 38, 3)}
    assert skipped(bucket) == {}


@pytest.mark.usefixtures("threads")
def test_labels_in_the_manifest_are_those_of_the_records(photos: Path, bucket: Bucket) -> None:
    manifest = prepare(f"folder:{photos}", bucket, PrepareOptions(shards=3)).manifest
    for shard in manifest.shards:
        records = tf.data.TFRecordDataset(str(bucket.local(shard.name)))
        features = [tf.train.Example.FromString(record.numpy()).features.feature for record in records]
        assert "".join(str(f["image/class/label"].int64_list.value[0]) for f in features) == shard.labels
        texts = [f["image/class/text"].bytes_list.value[0].decode() for f in features]
        assert [("cat", "dog")[int(digit)] for digit in shard.labels] == texts


@pytest.mark.usefixtures("threads")
def test_every_format_under_a_wrong_suffix_becomes_an_upright_rgb_picture(photos: Path, tmp_path: Path) -> None:
    root = shutil.copytree(photos, tmp_path / "photos")
    halves = Image.new("RGB", (48, 32), "red")
    halves.paste("blue", (0, 16, 48, 32))
    expected = set()
    for index, (kind, mode) in enumerate(
        [
            ("PNG", "RGB"),
            ("GIF", "P"),
            ("BMP", "RGB"),
            ("WEBP", "RGB"),
            ("TIFF", "RGB"),
            ("PNG", "RGBA"),
            ("JPEG", "CMYK"),
        ]
    ):
        halves.paste((index * 30, 255, 0), (20, 20, 28, 28))  # or they might be the same picture
        write(root / f"cat/odd{index}.jpg", encoded(halves.convert(mode), kind))
        expected.add(f"cat/odd{index}.jpg")
    exif = Image.Exif()
    exif[0x0112] = 6
    write(root / "cat/turned.gif", encoded(halves.transpose(Image.Transpose.ROTATE_90), exif=exif))
    bucket = open_bucket(str(tmp_path / "data"))
    found = everything(bucket, prepare(f"folder:{root}", bucket, PrepareOptions(shards=2)).manifest)
    for name in [*expected, "cat/turned.gif"]:
        image = found[name].astype(int)
        assert image.shape == (32, 48, 3)
        assert np.abs(image[6, 5] - (255, 0, 0)).max() < 60 and np.abs(image[26, 5] - (0, 0, 255)).max() < 60
    assert skipped(bucket) == {}


def spoil(root: Path) -> dict[str, str]:
    """Put broken files and exact duplicates among the photos; gives name → part of the reason."""
    broken = {
        "cat/empty.jpg": (b"", "empty"),
        "dog/text.jpg": (b"hello", "not a picture"),
        "cat/cut.jpg": (encoded(picture(77, 400, 300))[:4000], "cut short"),
        "cat/bomb.png": (encoded(Image.new("1", (20_000, 20_000)), "PNG"), "pixels"),
        "bird/1.jpg": (encoded(picture(78)), "tells a class"),
        "dog/Thumbs.db": (b"\xd0\xcf", "system"),
    }
    for name, (bytes_, _) in broken.items():
        write(root / name, bytes_)
    copies = {"cat/a/b/1.jpg": "cat/1.jpg", "cat/0 (copy).jpg": "cat/0.jpg", "dog/Copy of 2.jpg": "dog/2.jpg"}
    for name, original in copies.items():
        write(root / name, (root / original).read_bytes())
    reasons = {name: reason for name, (_, reason) in broken.items()}
    return reasons | {name: f"the same picture as {original}" for name, original in copies.items()}


@pytest.mark.usefixtures("threads")
def test_broken_files_and_duplicates_change_nothing_but_the_list_of_what_was_skipped(
    photos: Path, tmp_path: Path
) -> None:
    clean, mixed = open_bucket(str(tmp_path / "clean")), open_bucket(str(tmp_path / "mixed"))
    root = shutil.copytree(photos, tmp_path / "photos")
    reasons = spoil(root)
    first = prepare(f"folder:{photos}", clean, PrepareOptions(shards=4))
    second = prepare(f"folder:{root}", mixed, PrepareOptions(shards=4))
    assert content(clean) == content(mixed)
    assert first.manifest.digest == second.manifest.digest
    found = skipped(mixed)
    assert found.keys() == reasons.keys()
    assert {name: reason for name, reason in reasons.items() if reason not in found[name]} == {}
    assert (first.skipped, second.skipped) == (0, len(reasons))


@pytest.mark.skipif(not (SHARED / "bad_images").is_dir(), reason="the shared bad images are not here")
@pytest.mark.usefixtures("threads")
def test_the_shared_bad_images_that_are_broken_are_left_out(photos: Path, tmp_path: Path) -> None:
    root = shutil.copytree(photos, tmp_path / "photos")
    shutil.copytree(SHARED / "bad_images", root / "dog/bad", copy_function=shutil.copyfile)
    bucket = open_bucket(str(tmp_path / "data"))
    names = set(everything(bucket, prepare(f"folder:{root}", bucket, PrepareOptions(shards=4)).manifest))
    for name in ("lfs_pointer", "text", "truncated_half", "zero_bytes"):
        assert f"dog/bad/syn_{name}.jpg" in skipped(bucket)
    for name in ("cmyk.jpg", "exif_rot6.jpg", "gray.jpg", "animated.gif", "name with space é.jpg", "upper.JPG"):
        assert f"dog/bad/syn_{name}" in names | set(skipped(bucket))
    assert "dog/bad/syn_animated.gif" in names and "dog/bad/syn_cmyk.jpg" in names
    assert "dog/bad/real_exactdup_dog.3082.jpg" in skipped(bucket)


@pytest.mark.usefixtures("threads")
def test_a_picture_under_both_classes_is_left_out_of_both(photos: Path, tmp_path: Path) -> None:
    root = shutil.copytree(photos, tmp_path / "photos")
    write(root / "dog/also.jpg", (root / "cat/3.jpg").read_bytes())
    write(root / "cat/again.png", (root / "cat/3.jpg").read_bytes())
    bucket = open_bucket(str(tmp_path / "data"))
    names = set(everything(bucket, prepare(f"folder:{root}", bucket, PrepareOptions(shards=2)).manifest))
    both = {"cat/3.jpg", "dog/also.jpg", "cat/again.png"}
    assert not names & both and len(names) == CATS + DOGS - 1
    assert skipped(bucket).keys() == both
    assert all("both classes" in reason for reason in skipped(bucket).values())


@pytest.mark.usefixtures("threads")
def test_the_same_input_and_seed_give_the_same_bytes_and_another_seed_others(photos: Path, tmp_path: Path) -> None:
    moved = shutil.copytree(photos, tmp_path / "elsewhere")
    buckets = [open_bucket(str(tmp_path / name)) for name in "abc"]
    prepare(f"folder:{photos}", buckets[0], PrepareOptions(shards=4, seed=5))
    prepare(f"folder:{moved}", buckets[1], PrepareOptions(shards=4, seed=5))
    prepare(f"folder:{photos}", buckets[2], PrepareOptions(shards=4, seed=6))
    first, again, other = (content(bucket) for bucket in buckets)
    assert first == again
    assert first.keys() == other.keys()
    assert all(first[name] != other[name] for name in first if name.startswith("train"))


@pytest.mark.usefixtures("threads")
def test_a_zip_gives_the_data_set_of_its_folder_and_broken_members_are_skipped(photos: Path, tmp_path: Path) -> None:
    packed = tmp_path / "PetImages.zip"
    with zipfile.ZipFile(packed, "w") as archive:
        for path in sorted(photos.rglob("*.jpg")):
            archive.write(path, path.relative_to(photos))
        archive.writestr("cat/Thumbs.db", b"x")
        archive.writestr("cat/damaged.jpg", b"DAMAGED" * 9)
        archive.writestr("cat/secret.jpg", b"SECRET")
    raw = bytearray(packed.read_bytes().replace(b"DAMAGED" * 9, b"damaged" * 9))
    for signature, flags in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):  # set the flag of encryption in both headers
        at = raw.index(b"cat/secret.jpg", 0 if flags == 6 else raw.index(b"PK\x01\x02"))
        raw[raw.rindex(signature, 0, at) + flags] |= 1
    packed.write_bytes(raw)
    folder, archive_ = open_bucket(str(tmp_path / "folder")), open_bucket(str(tmp_path / "archive"))
    prepare(f"folder:{photos}", folder, PrepareOptions(shards=2))
    prepare(f"folder:{packed}", archive_, PrepareOptions(shards=2))
    assert content(folder) == content(archive_)
    reasons = skipped(archive_)
    assert reasons.keys() == {"cat/Thumbs.db", "cat/damaged.jpg", "cat/secret.jpg"}
    assert "CRC" in reasons["cat/damaged.jpg"] and "encrypted" in reasons["cat/secret.jpg"]


@pytest.mark.usefixtures("threads")
def test_names_that_are_no_text_are_prepared_and_listed(photos: Path, tmp_path: Path) -> None:
    root = shutil.copytree(photos, tmp_path / "photos")
    try:
        for name, bytes_ in ((b"\xe9t\xe9.jpg", encoded(picture(500))), (b"\xff.jpg", b"broken"), (b"a\nb.jpg", b"")):
            with open(os.fsencode(root / "cat") + b"/" + name, "wb") as file:
                file.write(bytes_)
    except OSError:
        pytest.skip("this file system takes no such names")
    bucket = open_bucket(str(tmp_path / "data"))
    assert "cat/\\xe9t\\xe9.jpg" in everything(
        bucket, prepare(f"folder:{root}", bucket, PrepareOptions(shards=2)).manifest
    )
    assert skipped(bucket).keys() == {"cat/\\xff.jpg", "cat/a\\nb.jpg"}
    assert verify(bucket)[1] == []


@pytest.mark.usefixtures("threads")
def test_shards_of_a_split_differ_by_one_record_at_most(photos: Path, bucket: Bucket) -> None:
    manifest = prepare(f"folder:{photos}", bucket, PrepareOptions(shards=7, val=0.2, test=0.3)).manifest
    for name in SPLITS:
        sizes = [shard.examples for shard in manifest.split(name)]
        assert max(sizes) - min(sizes) <= 1 and min(sizes) > 0
    assert len(manifest.split("train")) == 7


@pytest.mark.usefixtures("threads")
@pytest.mark.parametrize(
    "error",
    [Starved("a process was killed"), OSError(errno.EMFILE, os.strerror(errno.EMFILE)), MemoryError()],
    ids=["killed", "no more files", "no memory"],
)
def test_what_the_machine_lacks_ends_the_command_and_leaves_no_picture_out(
    error: Exception, photos: Path, bucket: Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    def starved(*arguments: object) -> NoReturn:
        raise error

    monkeypatch.setattr("catdog.data.images._decoded", starved)
    with pytest.raises(Starved, match=r"^cat/") as caught:
        prepare(f"folder:{photos}", bucket)
    assert one_line(error) in str(caught.value)
    assert bucket.list() == []


@pytest.mark.usefixtures("threads")
def test_an_existing_data_set_is_refused_and_with_overwrite_replaced_as_a_whole(photos: Path, bucket: Bucket) -> None:
    prepare(f"folder:{photos}", bucket, PrepareOptions(shards=8))
    before = content(bucket) | {"manifest.json": bucket.read("manifest.json")}
    with pytest.raises(CallerError, match="holds a data set already"):
        prepare(f"folder:{photos}", bucket, PrepareOptions(shards=2))
    assert content(bucket) | {"manifest.json": bucket.read("manifest.json")} == before
    bucket.write("notes.txt", b"mine")
    manifest = prepare(f"folder:{photos}", bucket, PrepareOptions(shards=2), overwrite=True).manifest
    assert set(bucket.list()) == {s.name for s in manifest.shards} | {
        "manifest.json",
        "near_duplicates.csv",
        "skipped.csv",
        "notes.txt",
    }


@pytest.mark.usefixtures("threads")
def test_an_overwrite_that_is_refused_leaves_the_old_data_set_whole(
    photos: Path, tmp_path: Path, bucket: Bucket
) -> None:
    prepare(f"folder:{photos}", bucket, PrepareOptions(shards=2))
    before = {name: bucket.read(name) for name in bucket.list()}
    with pytest.raises(CallerError, match="class 'dog'"):
        prepare(f"folder:{class_folders(tmp_path / 'cats', 3, 0)}", bucket, overwrite=True)
    with pytest.raises(CallerError, match="--shards 16"):
        prepare(f"folder:{class_folders(tmp_path / 'few', 3, 3)}", bucket, overwrite=True)
    with pytest.raises(CallerError, match="no such folder"):
        prepare("folder:/nowhere", bucket, overwrite=True)
    assert {name: bucket.read(name) for name in bucket.list()} == before


@pytest.mark.usefixtures("threads")
def test_reuse_leaves_the_same_data_set_as_it_is_and_names_what_differs_of_another(
    photos: Path, bucket: Bucket
) -> None:
    first = prepare(f"folder:{photos}", bucket, PrepareOptions(shards=2, keep={"cat": 0.5}), reuse=True)
    again = prepare(f"folder:{photos}", bucket, PrepareOptions(shards=2, keep={"cat": 0.5}), reuse=True)
    assert (first.written, again.written) == (True, False)
    assert again.manifest == first.manifest
    with pytest.raises(CallerError, match=r"side: 256 → 64; .*keep") as caught:
        prepare(f"folder:{photos}", bucket, PrepareOptions(shards=2, side=64), reuse=True)
    assert "shards:" not in str(caught.value)


@pytest.mark.usefixtures("threads")
def test_a_data_set_of_a_version_that_lacked_an_option_is_reused(photos: Path, bucket: Bucket) -> None:
    prepare(f"folder:{photos}", bucket, PrepareOptions(shards=2))
    manifest = json.loads(bucket.read("manifest.json"))
    del manifest["options"]["keep"]
    bucket.write("manifest.json", json.dumps(manifest).encode())
    assert not prepare(f"folder:{photos}", bucket, PrepareOptions(shards=2), reuse=True).written
    with pytest.raises(CallerError, match=r"keep: \{\} → \{'cat': 0\.5\}"):
        prepare(f"folder:{photos}", bucket, PrepareOptions(shards=2, keep={"cat": 0.5}), reuse=True)


@pytest.mark.usefixtures("threads")
def test_a_write_that_fails_half_way_leaves_no_manifest_and_the_next_prepare_works(
    photos: Path, bucket: Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    prepare(f"folder:{photos}", bucket, PrepareOptions(shards=4))
    before = content(bucket)
    calls = []

    def fails_later(path: Path, payloads: Iterator[bytes]) -> None:
        calls.append(path)
        if len(calls) == 3:
            raise OSError(28, "No space left on device")
        write_records(path, payloads)

    monkeypatch.setattr("catdog.data.prepare.write_records", fails_later)
    with pytest.raises(OSError, match="No space left"):
        prepare(f"folder:{photos}", bucket, PrepareOptions(shards=4), overwrite=True)
    assert not bucket.exists("manifest.json")
    prepare(f"folder:{photos}", bucket, PrepareOptions(shards=4))
    assert content(bucket) == before


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (PrepareOptions(shards=33), "--shards 33: there are only 32 train"),
        (PrepareOptions(keep={"cat": 0.01}), "class 'cat' is left to train on"),
    ],
)
@pytest.mark.usefixtures("threads")
def test_options_that_do_not_fit_the_pictures_are_told_in_one_line(
    photos: Path, bucket: Bucket, options: PrepareOptions, told: str
) -> None:
    with pytest.raises(CallerError) as caught:
        prepare(f"folder:{photos}", bucket, options)
    assert told in str(caught.value) and "\n" not in str(caught.value)
    assert bucket.list() == []


@pytest.mark.usefixtures("threads")
def test_nothing_usable_and_a_missing_class_are_told_with_an_example_of_what_was_left_out(
    tmp_path: Path, bucket: Bucket
) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(CallerError, match=r"no usable picture$"):
        prepare(f"folder:{empty}", bucket)
    root = class_folders(tmp_path / "photos", 3, 0)
    write(root / "dog/1.jpg", b"broken")
    with pytest.raises(CallerError, match=r"no usable picture of class 'dog'; 1 files .*'dog/1.jpg': not a picture"):
        prepare(f"folder:{root}", bucket)


@pytest.mark.usefixtures("threads")
def test_a_place_that_cannot_be_written_is_told_before_the_work_begins(photos: Path, tmp_path: Path) -> None:
    write(tmp_path / "file", b"x")
    with pytest.raises(CallerError, match="cannot be written"):
        prepare(f"folder:{photos}", open_bucket(str(tmp_path / "file")))
    with pytest.raises(CallerError, match="cannot be written"):
        prepare(f"folder:{photos}", open_bucket(str(tmp_path / "file/data")))


@pytest.mark.parametrize(("kind", "after"), [("upload", 0), ("upload", 1), ("delete", 0)])
def test_a_bucket_that_refuses_to_create_replace_or_delete_is_told_before_any_picture_is_looked_at(
    store: FakeStore, monkeypatch: pytest.MonkeyPatch, kind, after: int
) -> None:
    monkeypatch.setattr("catdog.data.prepare.open_source", pytest.fail)
    words = "Object 'bucket/x' is subject to bucket's retention policy"
    fault = Fault(kind, "status", code=403, reason="retentionPolicyNotMet", message=words, after=after, times=None)
    store.faults.add(fault)
    with pytest.raises(CallerError, match="is subject to bucket's retention policy"):
        prepare("drawn", open_bucket("gs://bucket/data"))


def test_a_pool_whose_locks_have_no_room_is_told_with_the_place(
    photos: Path, bucket: Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("multiprocessing.synchronize.SemLock.__init__", full)
    with pytest.raises(RunError, match=r"No space left on device; .* /dev/shm"):
        prepare(f"folder:{photos}", bucket)


def test_a_killed_process_of_the_pool_is_told_in_one_line(bucket: Bucket, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("catdog.data.prepare.open_source", lambda *_: Opened(iter([Item("cat/1.jpg", 0, Deadly())]), 1))
    with pytest.raises(RunError, match="memory"):
        prepare("drawn", bucket)
    assert bucket.list() == []


def children(pid: int) -> list[int]:
    text = Path(f"/proc/{pid}/task/{pid}/children").read_text()
    return [int(child) for child in text.split()]


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="needs Linux's /proc")
@pytest.mark.parametrize("sign", [signal.SIGKILL, signal.SIGINT], ids=lambda sign: sign.name)
def test_stopped_half_way_it_leaves_no_process_and_no_manifest(tmp_path: Path, sign: signal.Signals) -> None:
    bucket = open_bucket(str(tmp_path / "data"))
    command = [sys.executable, "-m", "catdog", "prepare", "drawn", bucket.uri]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True
    )
    deadline = time.monotonic() + within(60)
    while len(begun := children(process.pid)) < 2 and time.monotonic() < deadline:
        time.sleep(0.02)
    time.sleep(1.0)
    if sign == signal.SIGINT:
        os.killpg(process.pid, sign)  # as a terminal does
    else:
        process.send_signal(sign)
    output = process.communicate(timeout=within(60))[0]
    assert process.returncode == (130 if sign == signal.SIGINT else -sign)
    while any(alive(pid) for pid in begun) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert len(begun) >= 2 and not any(alive(pid) for pid in begun)
    assert bucket.list() == []
    assert "Traceback" not in output


def own_split(root: Path, train: str = "train", val: str = "validation", test: str = "test") -> Path:
    """Class folders within the folders of a split: 20 of each class to train, 4 for val and 6 for the test."""
    for number, (folder, count) in enumerate(((train, 20), (val, 4), (test, 6))):
        if folder:
            for label, name in enumerate(("cat", "dog")):
                for index in range(count):
                    write(root / folder / name / f"{index}.jpg", encoded(picture(1000 * number + 100 * label + index)))
    return root


def names_by_split(bucket: Bucket, manifest: Manifest) -> dict[str, set[str]]:
    return {name: set(stored(bucket, manifest, name)) for name in SPLITS}


def names_of(root: Path, folder: str) -> set[str]:
    return {str(path.relative_to(root)) for path in (root / folder).rglob("*.jpg")}


@pytest.mark.parametrize("zipped", [False, True], ids=["folder", "zip"])
@pytest.mark.usefixtures("threads")
def test_a_split_of_the_sources_own_is_kept_and_the_manifest_tells(
    tmp_path: Path, bucket: Bucket, zipped: bool
) -> None:
    source = root = own_split(tmp_path / "split")
    if zipped:
        source = tmp_path / "split.zip"
        with zipfile.ZipFile(source, "w") as archive:
            for path in sorted(root.rglob("*.jpg")):
                archive.write(path, path.relative_to(root))
    manifest = prepare(f"folder:{source}", bucket, PrepareOptions(shards=2, keep={"cat": 0.5})).manifest
    assert load_manifest(bucket).own_splits == ("train", "val", "test")
    found = names_by_split(bucket, manifest)
    assert found["test"] == names_of(root, "test") and found["val"] == names_of(root, "validation")
    assert found["train"] < names_of(root, "train")
    assert manifest.per_class("train") == {"cat": 10, "dog": 20}
    assert verify(bucket)[1:] == ([], [])


@pytest.mark.usefixtures("threads")
def test_what_a_split_of_the_sources_own_lacks_is_split_off_train(tmp_path: Path, bucket: Bucket) -> None:
    root = own_split(tmp_path / "split", train="Training", val="", test="TEST")
    manifest = prepare(f"folder:{root}", bucket, PrepareOptions(shards=2, val=0.25, test=0.5)).manifest
    assert load_manifest(bucket).own_splits == ("train", "test")
    assert manifest.per_class("val") == {"cat": 5, "dog": 5}
    found = names_by_split(bucket, manifest)
    assert found["test"] == names_of(root, "TEST")
    assert found["val"] | found["train"] == names_of(root, "Training")


@pytest.mark.usefixtures("threads")
def test_a_hold_out_in_a_folder_within_each_class_is_kept(photos: Path, tmp_path: Path, bucket: Bucket) -> None:
    root = shutil.copytree(photos, tmp_path / "photos")
    for index, name in enumerate(("cat", "dog")):
        write(root / name / "test/1.jpg", encoded(picture(2000 + index)))
    manifest = prepare(f"folder:{root}", bucket, PrepareOptions(shards=2, test=0.5)).manifest
    assert load_manifest(bucket).own_splits == ("test",)
    assert names_by_split(bucket, manifest)["test"] == {"cat/test/1.jpg", "dog/test/1.jpg"}
    assert len(everything(bucket, manifest)) == CATS + DOGS + 2


@pytest.mark.usefixtures("threads")
def test_beside_folders_of_a_split_with_train_nothing_else_is_taken(tmp_path: Path, bucket: Bucket) -> None:
    root = own_split(tmp_path / "split")
    write(root / "mine/cat/1.jpg", encoded(picture(5000)))
    write(root / "test1/7.jpg", encoded(picture(5001)))
    manifest = prepare(f"folder:{root}", bucket, PrepareOptions(shards=2)).manifest
    assert not any(name.startswith(("mine", "test1")) for name in everything(bucket, manifest))
    assert "none of the folders of the source's own split" in skipped(bucket)["mine/cat/1.jpg"]
    assert "class" in skipped(bucket)["test1/7.jpg"]


@pytest.mark.usefixtures("threads")
def test_of_copies_in_two_splits_of_the_sources_own_the_held_out_one_stays(tmp_path: Path, bucket: Bucket) -> None:
    root = own_split(tmp_path / "split", train="a/train", val="valid", test="a/b/c/the longer one/test")
    write(root / "a/train/cat/copy.jpg", (root / "a/b/c/the longer one/test/cat/1.jpg").read_bytes())
    write(root / "valid/dog/copy.jpg", (root / "a/train/dog/3.jpg").read_bytes())
    found = names_by_split(bucket, prepare(f"folder:{root}", bucket, PrepareOptions(shards=2)).manifest)
    assert skipped(bucket) == {
        "a/train/cat/copy.jpg": "the same picture as a/b/c/the longer one/test/cat/1.jpg",
        "a/train/dog/3.jpg": "the same picture as valid/dog/copy.jpg",
    }
    assert len(found["test"]) == 12 and "valid/dog/copy.jpg" in found["val"]


@pytest.mark.usefixtures("threads")
def test_kaggles_folders_are_no_split_of_the_sources_own(tmp_path: Path) -> None:
    flat, kaggle = tmp_path / "flat", tmp_path / "kaggle"
    for index in range(12):
        for label, name in enumerate(("cat", "dog")):
            content = encoded(picture(100 * label + index))
            write(flat / f"{name}.{index}.jpg", content)
            write(kaggle / "train" / f"{name}.{index}.jpg", content)
        write(kaggle / "test1" / f"{index}.jpg", encoded(picture(500 + index)))
        write(kaggle / "test" / f"{index}.jpg", encoded(picture(600 + index)))
    buckets = [open_bucket(str(tmp_path / name)) for name in ("one", "two")]
    first, second = (
        prepare(f"folder:{root}", each, PrepareOptions(shards=2)).manifest
        for root, each in zip((flat, kaggle), buckets, strict=True)
    )
    assert [first.per_class(name) for name in SPLITS] == [second.per_class(name) for name in SPLITS]
    assert load_manifest(buckets[1]).own_splits == () and b"own_splits" not in buckets[1].read("manifest.json")
    expected = {name: {f"train/{each}" for each in names} for name, names in names_by_split(buckets[0], first).items()}
    assert names_by_split(buckets[1], second) == expected


@pytest.mark.usefixtures("threads")
def test_a_split_of_the_sources_own_with_nothing_to_train_on_is_refused(tmp_path: Path, bucket: Bucket) -> None:
    root = own_split(tmp_path / "split", train="")
    with pytest.raises(CallerError, match="all of class 'cat' lies in folders named val or test"):
        prepare(f"folder:{root}", bucket)
    shutil.move(root / "test/cat", root / "cat")
    with pytest.raises(CallerError, match="all of class 'dog' lies in folders named val or test"):
        prepare(f"folder:{root}", bucket)


def near_duplicates(bucket: Bucket) -> list[tuple[str, str, int]]:
    header, *rows = csv.reader(io.StringIO(bucket.read("near_duplicates.csv").decode()))
    assert header == ["path", "other path", "distance"]
    return [(path, other, int(distance)) for path, other, distance in rows]


def smaller(content: bytes) -> bytes:
    """The same picture in other bytes, mirrored and smaller."""
    image = Image.open(io.BytesIO(content)).transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    return encoded(image.resize((image.width * 4 // 5, image.height * 4 // 5)), quality=80)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.usefixtures("threads")
def test_near_duplicates_stay_in_the_set_in_one_split_and_are_listed(
    photos: Path, tmp_path: Path, bucket: Bucket, seed: int
) -> None:
    root = shutil.copytree(photos, tmp_path / "photos")
    copies = [f"{name}/{index}" for name in ("cat", "dog") for index in range(8)]
    for name in copies:
        write(root / f"{name} again.jpg", smaller((root / f"{name}.jpg").read_bytes()))
    prepared = prepare(f"folder:{root}", bucket, PrepareOptions(shards=2, val=0.25, test=0.25, seed=seed))
    assert {(path, other) for path, other, _ in near_duplicates(bucket)} == {
        (f"{name} again.jpg", f"{name}.jpg") for name in copies
    }
    assert len(prepared.near_duplicates) == len(copies) and prepared.skipped == 0
    for names in names_by_split(bucket, prepared.manifest).values():
        assert {name.replace(" again", "") for name in names if "again" in name} <= names
    assert len(everything(bucket, prepared.manifest)) == CATS + DOGS + len(copies)
    assert verify(bucket)[1:] == ([], [])


@pytest.mark.usefixtures("threads")
def test_near_duplicates_across_a_split_of_the_sources_own_or_classes_are_listed_and_left(
    tmp_path: Path, bucket: Bucket
) -> None:
    root = own_split(tmp_path / "split")
    write(root / "test/cat/leak.jpg", smaller((root / "train/cat/2.jpg").read_bytes()))
    write(root / "train/dog/odd.jpg", smaller((root / "train/cat/3.jpg").read_bytes()))
    prepared = prepare(f"folder:{root}", bucket, PrepareOptions(shards=2))
    assert {pair[:2] for pair in near_duplicates(bucket)} == {
        ("test/cat/leak.jpg", "train/cat/2.jpg"),
        ("train/cat/3.jpg", "train/dog/odd.jpg"),
    }
    assert {(near.splits, near.labels) for near in prepared.near_duplicates} == {
        (("test", "train"), (0, 0)),
        (("train", "train"), (0, 1)),
    }
    assert "test/cat/leak.jpg" in names_by_split(bucket, prepared.manifest)["test"]
    _, faults, (warning,) = verify(bucket)
    assert faults == [] and "'test/cat/leak.jpg'" in warning and "'train/cat/2.jpg'" in warning


@pytest.mark.parametrize(
    ("names", "told", "others"),
    [
        (["train.zip", "test1.zip", "list.csv"], ["PATH/train.zip"], ["test1"]),
        (["dogs.zip", "cats.zip"], ["PATH/cats.zip", "PATH/dogs.zip"], []),
    ],
)
def test_of_zip_files_in_a_zip_file_the_one_to_train_on_is_named_or_else_all(
    tmp_path: Path, names: list[str], told: list[str], others: list[str]
) -> None:
    with zipfile.ZipFile(tmp_path / "all.zip", "w") as archive:
        for name in names:
            archive.writestr(name, b"PK")
    with pytest.raises(CallerError, match="holds no usable picture") as caught:
        prepare(f"folder:{tmp_path}/all.zip", open_bucket(str(tmp_path / "data")))
    assert all(f"give folder:{each}" in str(caught.value) for each in told)
    assert not any(each in str(caught.value) for each in others)
