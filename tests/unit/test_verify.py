import contextlib
import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from pictures import class_folders, damaged, encoded, many_scans, picture, thread_pool

from catdog.data.example import Value, decode_example, encode_example
from catdog.data.options import PrepareOptions
from catdog.data.prepare import prepare
from catdog.data.shards import Manifest, load_manifest
from catdog.data.tfrecord import record_index, write_records
from catdog.data.verify import read_shard, verify
from catdog.errors import CallerError
from catdog.storage import Bucket, Changed, Folder, crc32c, open_bucket

SHARD = "train-00001-of-00003.tfrecord"


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("verify")
    photos, bucket = class_folders(root / "photos", 12, 12), open_bucket(str(root / "data"))
    prepare(f"folder:{photos}", bucket, PrepareOptions(shards=3))
    return root / "data"


@pytest.fixture
def bucket(sound: Path, tmp_path: Path) -> Bucket:
    return open_bucket(str(shutil.copytree(sound, tmp_path / "data")))


def change(bucket: Bucket, edit: Callable[[dict], object]) -> None:
    content = json.loads(bucket.read("manifest.json"))
    edit(content)
    bucket.write("manifest.json", json.dumps(content).encode())


def faults_of_shard(bucket: Bucket, manifest: Manifest | None = None) -> list[str]:
    manifest = manifest or load_manifest(bucket)
    (shard,) = (shard for shard in manifest.shards if shard.name == SHARD)
    return read_shard(bucket, shard)[0]


def rewrite(bucket: Bucket, edit: Callable[[dict[str, Value]], object]) -> list[str]:
    """Change record 2 of the shard, with every checksum right again; gives the shard's faults."""
    path = bucket.local(SHARD)
    content = path.read_bytes()
    with open(path, "rb") as file:
        payloads = [content[offset : offset + length] for offset, length in record_index(file).tolist()]
    features = decode_example(payloads[2])
    edit(features)
    payloads[2] = encode_example(features)
    write_records(path, payloads)
    (shard,) = (shard for shard in load_manifest(bucket).shards if shard.name == SHARD)
    return read_shard(bucket, replace(shard, bytes=path.stat().st_size, crc32c=crc32c(path)))[0]


def test_a_sound_data_set_has_no_fault(bucket: Bucket) -> None:
    manifest, faults, warnings = verify(bucket)
    assert (faults, warnings) == ([], [])
    assert manifest.per_class("train") == {"cat": 10, "dog": 10}


def test_several_faults_are_all_named(bucket: Bucket) -> None:
    bucket.delete("val-00000-of-00001.tfrecord")
    bucket.write("train-00007-of-00008.tfrecord", b"")
    path = bucket.local(SHARD)
    path.write_bytes(path.read_bytes()[:-100])
    change(bucket, lambda m: m["splits"]["test"].update(examples=99))
    faults = verify(bucket)[1]
    assert "val-00000-of-00001.tfrecord: is missing" in faults
    assert "train-00007-of-00008.tfrecord: the manifest does not name it" in faults
    assert any(fault.startswith(SHARD) and "runs past the end" in fault for fault in faults)
    assert any("split test" in fault for fault in faults)
    assert {fault.split(":")[0].split(" ")[0] for fault in faults} == {
        "val-00000-of-00001.tfrecord",
        "train-00007-of-00008.tfrecord",
        SHARD,
        "manifest.json",
    }


@pytest.mark.parametrize("where", ["length", "payload", "checksum"])
def test_a_flipped_bit_is_found_and_its_record_named(bucket: Bucket, where: str) -> None:
    path = bucket.local(SHARD)
    with open(path, "rb") as file:
        offset, length = record_index(file)[3]
    at = {"length": offset - 4, "payload": offset + length // 2, "checksum": offset + length}[where]
    path.write_bytes(damaged(path.read_bytes(), at))
    faults = faults_of_shard(bucket)
    assert len(faults) == 2
    assert "crc32c" in faults[0]
    assert faults[1] == f"{SHARD} record 3: its checksum does not match its bytes"


@pytest.mark.parametrize("kept", [0, 10, 0.5, 0.999])
def test_a_shard_cut_short_is_found(bucket: Bucket, kept: float) -> None:
    path = bucket.local(SHARD)
    content = path.read_bytes()
    path.write_bytes(content[: int(kept * len(content)) if isinstance(kept, float) else kept])
    faults = faults_of_shard(bucket)
    assert any("bytes, the manifest says" in fault for fault in faults)
    assert any("crc32c" in fault for fault in faults)
    assert any("runs past the end" in fault or "0 records" in fault for fault in faults)


def test_a_label_changed_in_the_manifest_is_found_and_its_record_named(bucket: Bucket) -> None:
    def flip(content: dict) -> None:
        entry = next(entry for entry in content["shards"] if entry["name"] == SHARD)
        entry["labels"] = "10"[int(entry["labels"][0])] + entry["labels"][1:]

    change(bucket, flip)
    assert len(faults_of_shard(bucket)) == 1
    assert faults_of_shard(bucket)[0].startswith(f"{SHARD} record 0: label")


@pytest.mark.parametrize("change_labels", [lambda text: text + "0", lambda text: text[:-1]])
def test_a_wrong_number_of_records_is_found(bucket: Bucket, change_labels: Callable[[str], str]) -> None:
    def edit(content: dict) -> None:
        entry = next(entry for entry in content["shards"] if entry["name"] == SHARD)
        entry["labels"] = change_labels(entry["labels"])

    change(bucket, edit)
    assert any("records, the manifest says" in fault for fault in faults_of_shard(bucket))


@pytest.mark.parametrize(
    ("edit", "told"),
    [
        (lambda m: m["shards"][0].update(examples=1), "train-00000-of-00003.tfrecord: examples 1"),
        (lambda m: m["shards"][0]["per_class"].update(cat=99), "train-00000-of-00003.tfrecord: per_class"),
        (lambda m: m["splits"]["val"]["per_class"].update(dog=0), "split val"),
        (lambda m: m.pop("splits"), "split train"),
        (lambda m: m.update(splits=[]), "split train"),
        (lambda m: m["splits"].update(test=5), "split test"),
        (lambda m: m["shards"][0].update(per_class=None), "train-00000-of-00003.tfrecord: per_class"),
        (lambda m: m["shards"].append(m["shards"][0]), "train-00000-of-00003.tfrecord: the manifest names it 2 times"),
        (lambda m: m["shards"].pop(1), "train-00001-of-00003.tfrecord: the manifest does not name it"),
    ],
)
def test_a_manifest_that_contradicts_itself_is_found(
    monkeypatch: pytest.MonkeyPatch, bucket: Bucket, edit: Callable[[dict], object], told: str
) -> None:
    monkeypatch.setattr("catdog.data.verify.process_pool", thread_pool)
    change(bucket, edit)
    assert any(told in fault for fault in verify(bucket)[1])


@pytest.mark.parametrize(
    ("edit", "told"),
    [
        (lambda f: f.update({"image/encoded": b"\xff\xd8 no picture"}), "cannot be decoded"),
        (lambda f: f.update({"image/encoded": f["image/encoded"][:-200]}), "cannot be decoded"),
        (lambda f: f.update({"image/encoded": encoded(picture(1), "PNG")}), "PNG where only JPEG is read"),
        (lambda f: f.update({"image/encoded": encoded(picture(1), "EPS")}), "PostScript where only JPEG is read"),
        (lambda f: f.update({"image/encoded": b"%!PS-Adobe-3.0 EPSF-3.0"}), "PostScript where only JPEG is read"),
        (lambda f: f.update({"image/encoded": many_scans(101)}), "more than the 100 scans"),
        (lambda f: f.update({"image/encoded": encoded(picture(1).convert("L"))}), "'L'"),
        (lambda f: f.update({"image/height": 7}), "its features say"),
        (lambda f: f.update({"image/class/text": b"bird"}), "bird"),
        (lambda f: f.update({"image/class/label": b"1"}), "image/class/label"),
        (lambda f: f.pop("image/width"), "image/width"),
    ],
)
def test_a_wrong_record_with_right_checksums_is_found_and_named(
    bucket: Bucket, edit: Callable[[dict[str, Value]], object], told: str
) -> None:
    (fault,) = rewrite(bucket, edit)
    assert fault.startswith(f"{SHARD} record 2: ") and told in fault


def test_a_record_that_is_no_example_is_found_and_named(bucket: Bucket) -> None:
    path = bucket.local(SHARD)
    write_records(path, [b"no example"] * 6)
    assert f"{SHARD} record 5: is no tf.train.Example" in " ".join(faults_of_shard(bucket))


@pytest.mark.parametrize(
    ("edit", "told"),
    [
        (lambda m: m["shards"].insert(1, 5), "shards.1.name is missing or of the wrong type"),
        (lambda m: m["shards"][2].update(labels="012"), "train-00002-of-00003.tfrecord: a label that is no class"),
    ],
)
def test_what_keeps_the_manifest_from_being_read_is_a_fault(
    bucket: Bucket, edit: Callable[[dict], object], told: str
) -> None:
    change(bucket, edit)
    assert verify(bucket)[:2] == (None, [f"{bucket.uri}/manifest.json: is not a manifest: {told}"])


@pytest.mark.parametrize(
    "content", [b"{", b"\xff\xfe", b"null", b"[" * 100_000], ids=["cut", "bytes", "null", "brackets"]
)
def test_a_manifest_that_is_none_is_a_fault(bucket: Bucket, content: bytes) -> None:
    bucket.write("manifest.json", content)
    manifest, (fault,), _ = verify(bucket)
    assert manifest is None
    assert fault.startswith(f"{bucket.uri}/manifest.json: is not a manifest: ") and "\n" not in fault


def test_where_there_is_no_data_set_it_is_told_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(CallerError, match="no such folder"):
        verify(open_bucket(str(tmp_path / "nowhere")))


@pytest.mark.parametrize("left", ["nothing", "another", "the same anew"])
def test_a_data_set_that_is_written_anew_meanwhile_is_told_and_no_fault_of_it(
    monkeypatch: pytest.MonkeyPatch, bucket: Bucket, left: str
) -> None:
    class Rewritten(Folder):
        """In which `prepare --overwrite` begins, and perhaps ends, once a shard is read."""

        def reading(self, name: str) -> contextlib.AbstractContextManager[Path]:
            if name != "manifest.json":
                content = bucket.find("manifest.json")
                bucket.delete("manifest.json")
                if content is not None and left != "nothing":
                    bucket.write("manifest.json", content + b"\n" * (left == "another"))
            return super().reading(name)

    monkeypatch.setattr("catdog.data.verify.process_pool", thread_pool)
    with pytest.raises(
        Changed, match=r"manifest\.json: the data set was written anew while it was read; verify it again"
    ):
        verify(Rewritten(bucket.uri))
