import http.server
import os
import shutil
import threading
import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import tensorflow_datasets as tfds
from pictures import DEEP, class_folders, damaged, encoded, picture, thread_pool, write
from tensorflow_datasets.core import constants
from tensorflow_datasets.core.download import resource
from tensorflow_datasets.image_classification import cats_vs_dogs

from catdog.data import sources
from catdog.data.images import Unreadable, decode
from catdog.data.options import PrepareOptions
from catdog.data.prepare import prepare
from catdog.data.sources import Item, class_of, open_source
from catdog.data.tfrecord import record_index
from catdog.data.verify import verify
from catdog.errors import CallerError
from catdog.storage import open_bucket

PICTURES = 12


def items(source: str) -> dict[str, Item]:
    opened = open_source(source, seed=0)
    found = list(opened.items)
    assert len(found) == opened.count
    assert len({item.name for item in found}) == len(found)
    for item in found:
        item.name.encode()
    return {item.name: item for item in found}


def labels(source: str) -> dict[str, int | None]:
    return {name: item.label for name, item in items(source).items()}


@pytest.mark.parametrize(
    ("name", "label"),
    [
        ("cat/1.jpg", 0),
        ("dog/1.jpg", 1),
        ("PetImages/Cat/0.jpg", 0),
        ("train/DOGS/deep/er/x.png", 1),
        ("cat.123.jpg", 0),
        ("train/dog.9.jpg", 1),
        ("dog_7.jpg", 1),
        ("Cat-7.JPG", 0),
        ("cat/dog.1.jpg", 0),
        ("cats/dog/x.jpg", 1),
        ("cat (1).jpg", 0),
        ("Dog (12).JPG", 1),
        ("cat1.jpg", 0),
        ("dog_001.jpeg", 1),
        ("cat 7.png", 0),
        ("dogs (3).jpg", 1),
        ("cat - 4.jpg", 0),
        ("cat.1 - Copy.jpg", 0),
        ("dog12", 1),
        ("cats and dogs.jpg", None),
        ("cat2dog.jpg", None),
        ("cats.jpg", None),
        ("dogsled1.jpg", None),
        ("dogs_vs_cats/1.jpg", None),
        ("category.1.jpg", None),
        ("catalogue/1.jpg", None),
        ("bird/1.jpg", None),
        ("1.jpg", None),
    ],
)
def test_the_nearest_folder_or_else_the_files_name_tells_the_class(name: str, label: int | None) -> None:
    assert class_of(name) == label


def test_class_folders_may_be_nested(tmp_path: Path) -> None:
    for name in ("cat/a/b/1.jpg", "x/y/Dogs/2.png", "dog/3.jpg"):
        write(tmp_path / name, b"content of " + name.encode())
    assert labels(f"folder:{tmp_path}") == {"cat/a/b/1.jpg": 0, "x/y/Dogs/2.png": 1, "dog/3.jpg": 1}
    content = items(f"folder:{tmp_path}")["dog/3.jpg"].content
    assert content is not None and content.read() == b"content of dog/3.jpg"


def test_kaggles_flat_names_are_taken(tmp_path: Path) -> None:
    for name in ("cat.0.jpg", "dog.0.jpg", "readme.txt"):
        write(tmp_path / name, b"x")
    assert labels(f"folder:{tmp_path}") == {"cat.0.jpg": 0, "dog.0.jpg": 1, "readme.txt": None}


def test_what_belongs_to_the_system_is_left_out_with_its_reason(tmp_path: Path) -> None:
    for name in ("cat/Thumbs.db", "cat/.DS_Store", "__MACOSX/cat/._1.jpg", ".git/cat/1.jpg", "cat/1.jpg"):
        write(tmp_path / name, b"x")
    found = items(f"folder:{tmp_path}")
    assert [name for name, item in found.items() if item.label is not None] == ["cat/1.jpg"]
    assert all("system" in item.reason for item in found.values() if item.label is None)


def test_a_file_of_absurd_size_is_left_out_unread(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sources, "MAX_BYTES", 10)
    write(tmp_path / "cat/1.jpg", b"x" * 11)
    write(tmp_path / "cat/2.jpg", b"x" * 10)
    with zipfile.ZipFile(tmp_path / "some.zip", "w") as archive:
        archive.writestr("cat/1.jpg", b"x" * 11)
    found = items(f"folder:{tmp_path}")
    assert found["cat/1.jpg"].label is None and "more than the 10 allowed" in found["cat/1.jpg"].reason
    assert found["cat/2.jpg"].label == 0
    assert items(f"folder:{tmp_path / 'some.zip'}")["cat/1.jpg"].label is None


def test_links_to_folders_are_followed_and_loops_end(tmp_path: Path) -> None:
    elsewhere = class_folders(tmp_path / "elsewhere", 2, 0)
    root = tmp_path / "root"
    write(root / "dog/1.jpg", b"x")
    (root / "cat").symlink_to(elsewhere / "cat")
    for number in range(8):  # entered again and again these would be 8**40 folders
        (root / "dog" / f"loop{number}").symlink_to(root)
    (root / "dog/again").symlink_to(root / "dog")
    assert labels(f"folder:{root}") == {"cat/0.jpg": 0, "cat/1.jpg": 0, "dog/1.jpg": 1}


def test_a_link_does_not_take_the_place_of_the_folder_that_names_the_class(tmp_path: Path) -> None:
    write(tmp_path / "cat/1.jpg", b"x")
    (tmp_path / "a_link").symlink_to(tmp_path / "cat")
    assert labels(f"folder:{tmp_path}") == {"cat/1.jpg": 0}


def test_links_to_nothing_and_pipes_are_left_out_with_their_reason(tmp_path: Path) -> None:
    write(tmp_path / "cat/1.jpg", b"x")
    (tmp_path / "cat/2.jpg").symlink_to(tmp_path / "nowhere")
    (tmp_path / "cat/3.jpg").symlink_to(tmp_path / "cat/3.jpg")
    os.mkfifo(tmp_path / "cat/4.jpg")
    found = items(f"folder:{tmp_path}")
    assert [found[f"cat/{i}.jpg"].label for i in (1, 2, 3, 4)] == [0, None, None, None]
    assert "No such file" in found["cat/2.jpg"].reason
    assert "regular" in found["cat/4.jpg"].reason


def test_what_only_looks_like_a_regular_file_is_not_waited_for(tmp_path: Path) -> None:
    pipe, device, endless = (sources.File(tmp_path / name) for name in ("pipe", "device", "endless"))
    os.mkfifo(pipe.path)
    device.path.symlink_to("/dev/zero")
    endless.path.symlink_to("/proc/self/pagemap")  # declares to be empty, and gives bytes without end
    for file in (pipe, device):
        with pytest.raises(Unreadable, match="no regular file"):
            file.read()
    if Path("/proc/self/pagemap").exists():
        assert endless.read() == b""


def test_a_file_that_has_grown_too_large_meanwhile_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (item,) = items(f"folder:{write(tmp_path / 'cat/1.jpg', b'small').parents[1]}").values()
    monkeypatch.setattr(sources, "MAX_BYTES", 10)
    write(tmp_path / "cat/1.jpg", b"x" * 11)
    assert item.content is not None
    with pytest.raises(Unreadable, match="more than the 10 allowed"):
        item.content.read()


def test_a_zip_file_among_the_pictures_is_told_with_what_to_give(tmp_path: Path) -> None:
    write(tmp_path / "train.zip", b"PK")
    assert "give folder:PATH/train.zip" in items(f"folder:{tmp_path}")["train.zip"].reason


def test_names_in_any_encoding_are_taken(tmp_path: Path) -> None:
    names = [b"gr\xc3\xb6\xc3\x9fer \xe7\x8c\xab.jpg", b"latin-\xe9.jpg", b"new\nline.jpg", b'quote".jpg']
    (tmp_path / "cat").mkdir()
    try:
        for name in names:
            with open(os.fsencode(tmp_path / "cat") + b"/" + name, "wb") as file:
                file.write(name)
    except OSError:
        pytest.skip("this file system takes no such names")
    found = items(f"folder:{tmp_path}")
    assert set(found) == {"cat/größer 猫.jpg", "cat/latin-\\xe9.jpg", "cat/new\nline.jpg", 'cat/quote".jpg'}
    assert sorted(item.content.read() for item in found.values() if item.content) == sorted(names)


def test_the_folder_of_a_class_itself_is_told_apart_by_its_names_only(tmp_path: Path) -> None:
    write(tmp_path / "cat/1.jpg", b"x")
    assert labels(f"folder:{tmp_path / 'cat'}") == {"1.jpg": None}


def test_microsofts_zip_is_taken_as_it_is(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "kagglecatsanddogs.zip", "w") as archive:
        archive.writestr("PetImages/", b"")
        archive.writestr("PetImages/Cat/0.jpg", b"a cat")
        archive.writestr("PetImages/Cat/Thumbs.db", b"x")
        archive.writestr("PetImages\\Dog\\1.jpg", b"a dog")
        archive.writestr("readme[1].txt", b"x")
    found = items(f"folder:{tmp_path / 'kagglecatsanddogs.zip'}")
    assert {name: item.label for name, item in found.items()} == {
        "PetImages/Cat/0.jpg": 0,
        "PetImages/Cat/Thumbs.db": None,
        "PetImages/Dog/1.jpg": 1,
        "readme[1].txt": None,
    }
    assert [item.content.read() for item in found.values() if item.content] == [b"a cat", b"a dog"]


def test_a_name_in_a_zip_leads_nowhere_on_the_disk(tmp_path: Path) -> None:
    write(tmp_path / "cat/secret.jpg", b"secret")
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("../cat/secret.jpg", b"from the archive")
    (item,) = items(f"folder:{tmp_path / 'a.zip'}").values()
    assert item.content is None or item.content.read() == b"from the archive"


@pytest.mark.parametrize(
    ("source", "told"),
    [
        ("folder:{}/nowhere", "no such folder"),
        ("folder:{}/text.zip", "zip"),
        ("folder:{}/cut.zip", "zip"),
        ("folder:", "names no folder"),
        ("folders:{}", "not a source"),
        ("tfds:mnist", "not a source"),
        ("", "not a source"),
    ],
)
def test_what_is_no_source_is_told_in_one_line(tmp_path: Path, source: str, told: str) -> None:
    write(tmp_path / "text.zip", b"this is text")
    with zipfile.ZipFile(tmp_path / "whole.zip", "w") as archive:
        archive.writestr("cat/1.jpg", encoded(picture(1)))
    write(tmp_path / "cut.zip", (tmp_path / "whole.zip").read_bytes()[:-30])
    with pytest.raises(CallerError, match=told) as caught:
        open_source(source.format(tmp_path), seed=0)
    assert "\n" not in str(caught.value)


def test_half_of_the_drawn_sample_is_cats_and_the_seed_decides_what_is_drawn() -> None:
    opened = open_source("drawn", seed=3)
    first = list(opened.items)
    assert opened.count == len(first)
    assert sum(item.label or 0 for item in first) * 2 == len(first)
    contents = [next(open_source("drawn", seed).items).content for seed in (3, 3, 4)]
    pictures = [content.read() for content in contents if content]
    assert pictures[0] == pictures[1] != pictures[2]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A TFDS folder in which the official archive seems to have been downloaded: its name is right, its content small."""
    home = tmp_path_factory.mktemp("tfds")
    url = cats_vs_dogs._URL
    builder = tfds.builder("cats_vs_dogs", data_dir=home)
    path = home / "downloads" / "cats_vs_dogs" / resource.get_dl_fname(url, builder.url_infos[url].checksum)
    path.parent.mkdir(parents=True)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("readme[1].txt", b"about")
        for folder, first in (("Cat", 0), ("Dog", 100)):
            for index in range(PICTURES):
                archive.writestr(f"PetImages/{folder}/{index}.jpg", encoded(picture(first + index)))
        for index in range(cats_vs_dogs._NUM_CORRUPT_IMAGES):
            archive.writestr(f"PetImages/Cat/{1000 + index}.jpg", b"broken")
    resource.write_info_file(url, path, "cats_vs_dogs", path.name, builder.url_infos[url])
    return home


def folder_of_tfds(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the environment variable TFDS_DATA_DIR does, which is read only once."""
    monkeypatch.setattr(constants, "DATA_DIR", str(folder))


def test_every_picture_of_tfds_comes_with_its_name_and_class(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder_of_tfds(home, monkeypatch)
    opened = open_source("tfds:cats_vs_dogs", seed=0)
    items = {item.name: item for item in opened.items}
    expected = {
        f"PetImages/{name}/{i}.jpg": label for label, name in enumerate(("Cat", "Dog")) for i in range(PICTURES)
    }
    assert {name: item.label for name, item in items.items()} == expected
    assert opened.count == len(items)
    content = items["PetImages/Dog/3.jpg"].content
    assert content is not None
    found, original = np.asarray(decode(content.read()), int), np.asarray(picture(103), int)
    assert np.abs(found - original).mean() < 6  # TFDS encodes it once more


def test_a_record_of_tfds_whose_bytes_have_changed_is_left_out_with_its_reason(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder_of_tfds(home, monkeypatch)
    count = len(list(open_source("tfds:cats_vs_dogs", seed=0).items))
    copy = Path(shutil.copytree(home, tmp_path / "tfds"))
    folder_of_tfds(copy, monkeypatch)
    shard = next(copy.glob("cats_vs_dogs/**/*.tfrecord*"))
    with open(shard, "rb") as file:
        offset, length = record_index(file)[0].tolist()
    shard.write_bytes(damaged(shard.read_bytes(), offset + length // 2))
    items = list(open_source("tfds:cats_vs_dogs", seed=0).items)
    (left_out,) = [item for item in items if item.label is None]
    assert len(items) == count and left_out.name == f"{shard.name} at 12"
    assert left_out.reason == "its checksum does not match its bytes"


def test_a_data_set_is_prepared_from_tfds(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder_of_tfds(home, monkeypatch)
    bucket = open_bucket(str(tmp_path / "data"))
    monkeypatch.setattr("catdog.data.convert.process_pool", thread_pool)
    options = PrepareOptions(side=32, shards=2, val=0.25, test=0.25)
    manifest = prepare("tfds:cats_vs_dogs", bucket, options).manifest
    assert [manifest.per_class(name) for name in ("train", "val", "test")] == [
        {"cat": PICTURES // 2, "dog": PICTURES // 2},
        {"cat": PICTURES // 4, "dog": PICTURES // 4},
        {"cat": PICTURES // 4, "dog": PICTURES // 4},
    ]
    assert verify(bucket)[1] == []


@pytest.fixture
def served(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The official address leads to a server that has another file, as Microsoft's once had."""

    class Other(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(404 if "missing" in self.path else 200)
            self.end_headers()
            self.wfile.write(b"another archive")

        def log_message(self, *arguments: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Other)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    url = f"http://127.0.0.1:{server.server_port}/kagglecatsanddogs_5340.zip"
    official = cats_vs_dogs.CatsVsDogs.url_infos[cats_vs_dogs._URL]
    monkeypatch.setitem(cats_vs_dogs.CatsVsDogs.url_infos, url, official)
    monkeypatch.setattr(cats_vs_dogs, "_URL", url)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    folder_of_tfds(tmp_path / "tfds", monkeypatch)
    yield
    server.shutdown()
    server.server_close()


@pytest.mark.usefixtures("served")
def test_a_checksum_that_no_longer_matches_is_told_in_one_line_with_the_way_by_folder() -> None:
    with pytest.raises(
        CallerError, match=r"NonMatchingChecksumError.*huggingface/datasets#4032.*folder:PATH"
    ) as caught:
        open_source("tfds:cats_vs_dogs", seed=0)
    assert "\n" not in str(caught.value)


@pytest.mark.usefixtures("served")
def test_a_failed_download_is_told_in_one_line_with_the_way_by_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cats_vs_dogs, "_URL", cats_vs_dogs._URL.replace("kaggle", "missing/kaggle"))
    with pytest.raises(CallerError, match=r"could not be downloaded.*404.*folder:PATH") as caught:
        open_source("tfds:cats_vs_dogs", seed=0)
    assert "\n" not in str(caught.value)


def test_pictures_in_folders_in_folders_beyond_any_count_are_found(deep_folder: Path) -> None:
    (deep_folder / ("d/" * DEEP) / "cat.1.jpg").write_bytes(b"")
    (item,) = open_source(f"folder:{deep_folder}", 0).items
    assert item.name.endswith("d/cat.1.jpg") and item.label == 0
