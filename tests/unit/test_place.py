"""Where a data set is written: what is catdog's own there is replaced, all else stays, and one process at a time is at work."""

import json
import os
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from pictures import class_folders, thread_pool, write

from catdog.data.options import PrepareOptions
from catdog.data.place import PREPARING
from catdog.data.prepare import Prepared, prepare
from catdog.data.verify import verify
from catdog.errors import CallerError, HeldError
from catdog.storage import Bucket, open_bucket
from catdog.storage.lease import hold
from tests.stand_ins.fake_store import FakeStore

TWO = PrepareOptions(side=32, shards=2)


@pytest.fixture(autouse=True)
def threads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("catdog.data.convert.process_pool", thread_pool)


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> str:
    return f"folder:{class_folders(tmp_path_factory.mktemp('photos'), 12, 12)}"


@pytest.fixture
def folder(tmp_path: Path) -> Bucket:
    return open_bucket(str(tmp_path / "data"))


@pytest.fixture
def stored(store: FakeStore) -> Bucket:
    return open_bucket("gs://bucket/data")


@pytest.fixture(params=["folder", "stored"])
def bucket(request: pytest.FixtureRequest) -> Bucket:
    return request.getfixturevalue(request.param)


def tree(bucket: Bucket) -> dict[str, bytes]:
    """Every file in a bucket's folder, hidden ones too, but for the empty one that is locked."""
    root = Path(bucket.uri)
    return {
        path.relative_to(root).as_posix(): path.read_bytes()
        for path in root.rglob("*")
        if path.is_file() and path.name != ".lock"
    }


OTHERS = ["train-00000-of-00002.tfrecord", "val-00003-of-00009.tfrecord", "skipped.csv", "manifest.json"]


@pytest.mark.parametrize("overwrite", [False, True])
@pytest.mark.parametrize("name", OTHERS)
def test_a_place_with_files_that_would_pass_for_the_data_sets_is_refused_and_stays_as_it_is(
    photos: str, folder: Bucket, name: str, overwrite: bool
) -> None:
    for each in (name, "notes.txt", ".part-abcdefgh", "run/checkpoints/step-00000001/.part-abcdefgh-state.npz"):
        write(Path(folder.uri) / each, b'{"name": "mine"}')
    before = tree(folder)
    with pytest.raises(CallerError, match=rf"{name}.*name another folder") as caught:
        prepare(photos, folder, TWO, overwrite=overwrite)
    assert "\n" not in str(caught.value)
    assert tree(folder) == before


@pytest.mark.parametrize("overwrite", [False, True])
def test_what_does_not_stand_in_the_way_stays(photos: str, folder: Bucket, overwrite: bool) -> None:
    theirs = {
        "notes.txt": b"mine",
        ".part-mine": b"mine",
        ".part-abcdefgh": b"mine",
        ".part-abcdefgh.tfrecord": b"mine",
        "below/.part-abcdefgh-train-00000-of-00002.tfrecord": b"half-written by a prepare below",
        "below/train-00000-of-00002.tfrecord": b"mine",
    }
    for name, content in theirs.items():
        write(Path(folder.uri) / name, content)
    prepare(photos, folder, TWO)
    if overwrite:
        prepare(photos, folder, TWO, overwrite=True)
    assert {name: tree(folder).get(name) for name in theirs} == theirs


def test_an_overwrite_deletes_what_the_manifest_names_and_no_other_shard(photos: str, bucket: Bucket) -> None:
    prepare(photos, bucket, PrepareOptions(side=32, shards=3))
    bucket.write("train-00000-of-00099.tfrecord", b"mine")
    written = prepare(photos, bucket, TWO, overwrite=True).manifest
    assert set(bucket.list()) == written.files | {"train-00000-of-00099.tfrecord"}
    assert bucket.read("train-00000-of-00099.tfrecord") == b"mine"


def test_an_overwrite_whose_new_shards_would_replace_others_is_refused(photos: str, bucket: Bucket) -> None:
    prepare(photos, bucket, PrepareOptions(side=32, shards=3))
    bucket.write("train-00001-of-00002.tfrecord", b"mine")
    before = {name: bucket.read(name) for name in bucket.list()}
    with pytest.raises(CallerError, match=r"holds train-00001-of-00002\.tfrecord, which no manifest"):
        prepare(photos, bucket, TWO, overwrite=True)
    assert {name: bucket.read(name) for name in bucket.list()} == before


KILLED = """
import os, signal, sys
sys.path.insert(0, sys.argv[3])
from pictures import thread_pool
import catdog.data.convert as convert
import catdog.data.prepare as module
from catdog.data.options import PrepareOptions
from catdog.storage import open_bucket
written = []
def killed_in_the_second(path, payloads):
    path.write_bytes(b"half")
    written.append(path)
    if len(written) == 2:
        os.kill(os.getpid(), signal.SIGKILL)
module.write_records, convert.process_pool = killed_in_the_second, thread_pool
module.prepare(sys.argv[1], open_bucket(sys.argv[2]), PrepareOptions(side=32, shards=5), overwrite=True)
"""


def kill_a_prepare(photos: str, bucket: Bucket) -> None:
    """Let another process begin a data set of 5 shards, and kill it in the second."""
    command = [sys.executable, "-c", KILLED, photos, bucket.uri, str(Path(__file__).parent)]
    done = subprocess.run(command, env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}, check=False)
    assert done.returncode == -signal.SIGKILL


@pytest.mark.parametrize("before", [False, True])
def test_a_prepare_that_was_killed_is_begun_again_and_leaves_nothing_of_the_first(
    photos: str, folder: Bucket, tmp_path: Path, before: bool
) -> None:
    if before:
        prepare(photos, folder, PrepareOptions(side=32, shards=9))
    write(Path(folder.uri) / "notes.txt", b"mine")
    kill_a_prepare(photos, folder)
    assert "manifest.json" not in folder.list() and len(folder.list()) > 1
    kill_a_prepare(photos, folder)
    prepare(photos, folder, TWO)
    clean = open_bucket(str(tmp_path / "clean"))
    prepare(photos, clean, TWO)
    assert tree(folder) == tree(clean) | {"notes.txt": b"mine"}


def test_of_files_that_appear_while_the_pictures_are_read_none_is_replaced(
    photos: str, bucket: Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    from catdog.data import prepare as module

    def meanwhile(*arguments: object) -> object:
        bucket.write("test-00000-of-00001.tfrecord", b"mine")
        return convert(*arguments)  # type: ignore[arg-type]

    convert = module.convert
    monkeypatch.setattr(module, "convert", meanwhile)
    with pytest.raises(CallerError, match=r"holds test-00000-of-00001\.tfrecord"):
        prepare(photos, bucket, TWO)
    assert bucket.list() == ["test-00000-of-00001.tfrecord"]


@pytest.mark.parametrize("begun", ["nothing", "a data set"])
def test_while_a_place_is_prepared_nobody_else_prepares_or_reuses_it(photos: str, bucket: Bucket, begun: str) -> None:
    if begun == "a data set":
        prepare(photos, bucket, TWO)
    before = {name: bucket.read(name) for name in bucket.list()}
    with hold(bucket, print, PREPARING):
        for options in ({}, {"overwrite": True}, {"reuse": True}):
            with pytest.raises(HeldError, match=r"is being prepared by process \d+ on \S+ since \d{4}-\d\d-\d\d \d\d:"):
                prepare(photos, bucket, TWO, **options)
        assert {name: bucket.read(name) for name in bucket.list() if not name.startswith(".")} == before
    assert prepare(photos, bucket, TWO, reuse=True).written != (begun == "a data set")


def test_of_two_that_prepare_at_once_one_is_told_and_the_other_ones_data_set_is_whole(
    photos: str, bucket: Bucket
) -> None:
    def attempt(shards: int) -> Prepared | CallerError:
        try:
            return prepare(photos, bucket, PrepareOptions(side=32, shards=shards))
        except CallerError as error:
            return error

    with ThreadPoolExecutor(2) as pool:
        ends = list(pool.map(attempt, (2, 3)))
    (written,) = [end for end in ends if isinstance(end, Prepared)]
    (told,) = [end for end in ends if isinstance(end, CallerError)]
    assert "prepare" in str(told) or "holds a data set already" in str(told)
    assert verify(bucket) == (written.manifest, [], [])


HOLDER = """
import sys
from catdog.data.place import PREPARING
from catdog.storage import open_bucket
from catdog.storage.lease import hold
with hold(open_bucket(sys.argv[1]), print, PREPARING):
    print("held", flush=True)
    sys.stdin.read()
"""


def test_a_killed_prepare_blocks_nobody(photos: str, bucket: Bucket) -> None:
    command = [sys.executable, "-c", HOLDER, bucket.uri]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None and holder.stdout.readline() == b"held\n"
        with pytest.raises(HeldError, match=f"by process {holder.pid} on"):
            prepare(photos, bucket, TWO)
        holder.kill()
    manifest = prepare(photos, bucket, TWO).manifest
    assert set(bucket.list()) == manifest.files


@pytest.mark.parametrize(
    "content", [b"", b"{", b"[7, null]", b'{"a": 1}', b'["../notes.txt", "notes.txt", "/etc/passwd"]']
)
def test_a_note_of_what_was_begun_that_tells_of_other_files_gives_no_right_to_them(
    photos: str, folder: Bucket, content: bytes
) -> None:
    for name in ("../notes.txt", "notes.txt"):
        write(Path(folder.uri) / name, b"mine")
    write(Path(folder.uri) / ".catdog-begun.json", content)
    prepare(photos, folder, TWO)
    assert (Path(folder.uri) / "notes.txt").read_bytes() == (Path(folder.uri) / "../notes.txt").read_bytes() == b"mine"


STANDING = [
    "train-00001-of-00002.tfrecord",
    "val-00000-of-00001.tfrecord",
    "skipped.csv",
    "manifest.json",
    ".catdog-begun.json",
    ".catdog-lease.json",
    ".catdog-write-test",
]


@pytest.mark.parametrize("overwrite", [False, True])
@pytest.mark.parametrize("kind", ["pipe", "folder", "link"])
@pytest.mark.parametrize("name", STANDING)
def test_what_is_no_file_under_a_data_sets_name_is_refused_before_the_work_and_stays(
    photos: str, folder: Bucket, monkeypatch: pytest.MonkeyPatch, name: str, kind: str, overwrite: bool
) -> None:
    monkeypatch.setattr("catdog.data.prepare.convert", lambda *_: pytest.fail("no picture is to be read"))
    path = Path(folder.uri) / name
    path.parent.mkdir()
    {"pipe": os.mkfifo, "folder": os.mkdir, "link": lambda path: path.symlink_to("/nowhere/x")}[kind](path)
    before = path.lstat().st_ino
    with pytest.raises(CallerError, match=rf"{name}: is a {kind}"):
        prepare(photos, folder, TWO, overwrite=overwrite)
    assert path.lstat().st_ino == before and os.listdir(folder.uri) == [name]


def test_a_lease_that_catdog_has_not_written_stays(photos: str, bucket: Bucket) -> None:
    bucket.write(".catdog-lease.json", b"mine")
    with pytest.raises(CallerError, match=r"holds \.catdog-lease\.json"):
        prepare(photos, bucket, TWO)
    assert bucket.read(".catdog-lease.json") == b"mine"


@pytest.mark.parametrize("place", ["", "data", "cat", "cat/data", "link/data", "../elsewhere/data"])
def test_a_place_within_the_source_is_refused_before_the_work(tmp_path: Path, place: str) -> None:
    root = class_folders(tmp_path / "photos", 2, 2)
    (tmp_path / "elsewhere").mkdir()
    (root / "link").symlink_to(tmp_path / "elsewhere")
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(CallerError, match=r"lies in folder:.*name a folder outside"):
        prepare(f"folder:{root}", open_bucket(str(root / place)), TWO)
    assert sorted(tmp_path.rglob("*")) == before


def test_a_data_set_does_not_lie_in_a_run(photos: str, folder: Bucket) -> None:
    folder.write("recipe.toml", b"")
    folder.write("lease.json", json.dumps({"owner": "a", "host": "b", "machine": "c", "released": True}).encode())
    before = folder.list()
    with pytest.raises(CallerError, match="holds a run: name another folder for the data set"):
        prepare(photos, folder)
    assert folder.list() == before
    folder.delete("recipe.toml")  # as a run that was refused has taken it back
    prepare(photos, folder)
