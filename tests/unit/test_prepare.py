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

import numpy as np
import pytest
import tensorflow as tf
from pictures import SHARED, Deadly, class_folders, encoded, picture, thread_pool, write
from PIL import Image

from catdog.data.options import PrepareOptions
from catdog.data.prepare import Picture, prepare, split
from catdog.data.shards import SPLITS, Manifest, load_manifest
from catdog.data.sources import Item, Opened
from catdog.data.tfrecord import write_records
from catdog.data.verify import verify
from catdog.errors import CallerError, RunError
from catdog.storage import Bucket, open_bucket
from tests.pace import within
from tests.stand_ins.fake_store import FakeStore, Fault

CATS, DOGS = 24, 16


@pytest.fixture
def threads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("catdog.data.prepare.process_pool", thread_pool)


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
        "cat/cut.jpg": (encoded(picture(77, 400, 300))[:4000], "truncated"),
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
    assert skipped(bucket).keys() == {"cat/\\xff.jpg", "cat/a\nb.jpg"}
    assert verify(bucket)[1] == []


@pytest.mark.usefixtures("threads")
def test_shards_of_a_split_differ_by_one_record_at_most(photos: Path, bucket: Bucket) -> None:
    manifest = prepare(f"folder:{photos}", bucket, PrepareOptions(shards=7, val=0.2, test=0.3)).manifest
    for name in SPLITS:
        sizes = [shard.examples for shard in manifest.split(name)]
        assert max(sizes) - min(sizes) <= 1 and min(sizes) > 0
    assert len(manifest.split("train")) == 7


def some_pictures(cats: int, dogs: int) -> list[Picture]:
    labels = [0] * cats + [1] * dogs
    return [Picture(f"{i}.jpg", label, f"digest {i}", 32, 32, 0, 0) for i, label in enumerate(labels)]


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


@pytest.mark.usefixtures("threads")
def test_an_existing_data_set_is_refused_and_with_overwrite_replaced_as_a_whole(photos: Path, bucket: Bucket) -> None:
    prepare(f"folder:{photos}", bucket, PrepareOptions(shards=8))
    before = content(bucket) | {"manifest.json": bucket.read("manifest.json")}
    with pytest.raises(CallerError, match="holds a data set already"):
        prepare(f"folder:{photos}", bucket, PrepareOptions(shards=2))
    assert content(bucket) | {"manifest.json": bucket.read("manifest.json")} == before
    bucket.write("notes.txt", b"mine")
    manifest = prepare(f"folder:{photos}", bucket, PrepareOptions(shards=2), overwrite=True).manifest
    assert set(bucket.list()) == {s.name for s in manifest.shards} | {"manifest.json", "skipped.csv", "notes.txt"}


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
    store: FakeStore, kind, after: int
) -> None:
    words = "Object 'bucket/x' is subject to bucket's retention policy"
    fault = Fault(kind, "status", code=403, reason="retentionPolicyNotMet", message=words, after=after, times=None)
    store.faults.add(fault)
    with pytest.raises(CallerError, match="is subject to bucket's retention policy"):
        prepare("folder:/not/looked/at", open_bucket("gs://bucket/data"))


def test_a_pool_whose_locks_have_no_room_is_told_with_the_place(
    photos: Path, bucket: Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("multiprocessing.synchronize.SemLock.__init__", full)
    with pytest.raises(RunError, match="No space left on device: /dev/shm"):
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
