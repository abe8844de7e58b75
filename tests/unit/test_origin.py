"""What `--reuse` takes for the same source: the place and what lies there, not the words that name it."""

import json
import os
import shutil
import zipfile
from pathlib import Path

import pytest
from pictures import class_folders, encoded, picture, thread_pool, write

from catdog import cli
from catdog.data.options import PrepareOptions
from catdog.data.prepare import prepare
from catdog.errors import CallerError
from catdog.storage import Bucket, open_bucket

TWO = PrepareOptions(side=32, shards=2)


@pytest.fixture(autouse=True)
def threads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("catdog.data.convert.process_pool", thread_pool)


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder, with photos in it and a data set made of them."""
    home = tmp_path / "home"
    class_folders(home / "photos", 8, 8)
    monkeypatch.chdir(home)
    prepare("folder:photos", open_bucket(str(tmp_path / "data")), TWO)
    return home


@pytest.fixture
def data(home: Path, tmp_path: Path) -> Bucket:
    return open_bucket(str(tmp_path / "data"))


def reused(source: str, data: Bucket) -> bool:
    return not prepare(source, data, TWO, reuse=True).written


def refusal(source: str, data: Bucket) -> str:
    with pytest.raises(CallerError) as caught:
        prepare(source, data, TWO, reuse=True)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_the_same_folder_by_another_path_is_reused(home: Path, data: Bucket, monkeypatch: pytest.MonkeyPatch) -> None:
    (home / "link").symlink_to(home / "photos")
    for source in ("folder:photos", "folder:./photos/", f"folder:{home}/photos", "folder:link"):
        assert reused(source, data)
    (home / "deeper").mkdir()
    monkeypatch.chdir(home / "deeper")
    assert reused("folder:../photos", data)


def test_another_folder_of_the_same_name_is_refused(
    home: Path, data: Bucket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(home / "photos", tmp_path / "elsewhere/photos")
    monkeypatch.chdir(tmp_path / "elsewhere")
    told = refusal("folder:photos", data)
    assert f"source: folder:{home}/photos → folder:{tmp_path}/elsewhere/photos" in told


def test_a_picture_more_or_less_is_told_with_the_counts(home: Path, data: Bucket) -> None:
    write(home / "photos/cat/more.jpg", encoded(picture(99)))
    assert "folder:photos has changed since, pictures: 16 → 17" in refusal("folder:photos", data)
    for name in ("more", "0"):
        (home / f"photos/cat/{name}.jpg").unlink()
    assert "pictures: 16 → 15" in refusal("folder:photos", data)


def test_a_picture_that_was_written_anew_is_told_with_the_time(home: Path, data: Bucket) -> None:
    os.utime(home / "photos/cat/0.jpg", (4e9, 4e9))
    assert "newest change: " in (told := refusal("folder:photos", data)) and "→ 2096-10-02 07:06:40" in told


def test_a_picture_that_moved_to_the_other_class_is_told(home: Path, data: Bucket) -> None:
    (home / "photos/cat/0.jpg").rename(home / "photos/dog/moved.jpg")
    assert "names, sizes or times of its pictures" in refusal("folder:photos", data)


def test_files_that_are_no_pictures_of_a_class_change_nothing(home: Path, data: Bucket) -> None:
    write(home / "photos/readme.txt", b"about")
    write(home / "photos/cat/.DS_Store", b"x")
    write(home / "photos/data/train-00000-of-00002.tfrecord", b"x")
    assert reused("folder:photos", data)


def test_a_source_that_is_gone_is_not_looked_at(home: Path, data: Bucket) -> None:
    shutil.rmtree(home / "photos")
    assert reused("folder:photos", data)
    assert "source: " in refusal("folder:other", data)


def test_a_zip_file_that_was_replaced_is_told(home: Path, tmp_path: Path) -> None:
    def pack(*names: str) -> None:
        with zipfile.ZipFile(home / "photos.zip", "w") as archive:
            for name in names:
                archive.write(home / "photos" / name, name)

    names = sorted(path.relative_to(home / "photos").as_posix() for path in (home / "photos").rglob("*.jpg"))
    pack(*names)
    bucket = open_bucket(str(tmp_path / "of a zip"))
    prepare("folder:photos.zip", bucket, TWO)
    assert reused(f"folder:{home}/photos.zip", bucket)
    pack(*names[1:])
    assert "pictures: 16 → 15" in refusal("folder:photos.zip", bucket)


def test_the_same_source_killed_and_begun_again_gives_the_same_manifest(home: Path, data: Bucket) -> None:
    before = data.read("manifest.json")
    prepare("folder:photos", data, TWO, overwrite=True)
    assert data.read("manifest.json") == before


def as_before(data: Bucket, source: str) -> None:
    """Make the data set one of an earlier version, of a source that was given in these words."""
    manifest = json.loads(data.read("manifest.json"))
    manifest.pop("origin", None)
    data.write("manifest.json", json.dumps(manifest | {"source": source}).encode())


def test_a_data_set_of_an_earlier_version_is_reused_where_its_words_lead_to_the_same_place(
    home: Path, data: Bucket
) -> None:
    write(home / "photos/cat/more.jpg", encoded(picture(99)))
    for words in ("folder:photos", f"folder:{home}/photos"):
        as_before(data, words)
        assert reused("folder:photos", data) and reused(f"folder:{home}/photos", data)
    assert f"→ folder:{home}/other" in refusal("folder:other", data)


@pytest.mark.parametrize("origin", [7, [], {}, {"place": 7}])
def test_an_origin_that_is_none_is_told(home: Path, data: Bucket, origin: object) -> None:
    manifest = json.loads(data.read("manifest.json"))
    data.write("manifest.json", json.dumps(manifest | {"origin": origin}).encode())
    assert "manifest.json: is not a manifest: origin.place is missing" in refusal("folder:photos", data)


@pytest.mark.parametrize("path", ["../photos", "./photos", "~/photos", "photos", "/photos", "no/such.zip"])
def test_a_path_without_its_kind_is_told_with_what_would_be_right(
    home: Path, data: Bucket, path: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.run(["prepare", "--reuse", path, data.uri]) == 2
    assert capsys.readouterr().err == f"catdog: error: {path!r} is not a source: give folder:{path}\n"


@pytest.mark.parametrize("seconds", [9e11, -9e11])
def test_a_picture_from_another_age_ends_nothing(home: Path, data: Bucket, seconds: float) -> None:
    if not took(home / "photos/cat/0.jpg", seconds):
        pytest.skip("this file system keeps no such time")
    assert "newest change" in refusal("folder:photos", data) or seconds < 0


def took(path: Path, seconds: float) -> bool:
    os.utime(path, (seconds, seconds))
    return path.stat().st_mtime == seconds


@pytest.mark.parametrize("place", ["folder:a\0b", "folder:\ud800"])
def test_a_source_that_is_no_path_is_told(home: Path, data: Bucket, place: str) -> None:
    manifest = json.loads(data.read("manifest.json"))
    data.write("manifest.json", json.dumps(manifest | {"source": place}).encode())
    assert "manifest.json: is not a manifest: source 'folder:" in refusal("folder:photos", data)
