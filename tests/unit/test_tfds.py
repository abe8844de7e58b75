"""The source `tfds:cats_vs_dogs` through TFDS's own builder, on a small archive in the official layout."""

import http.server
import threading
import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import tensorflow_datasets as tfds
from pictures import encoded, picture, thread_pool
from tensorflow_datasets.core import constants
from tensorflow_datasets.core.download import resource
from tensorflow_datasets.image_classification import cats_vs_dogs

from catdog.data import prepare as prepare_module
from catdog.data.images import decode
from catdog.data.prepare import prepare
from catdog.data.sources import open_source
from catdog.data.verify import verify
from catdog.errors import CallerError
from catdog.storage import open_bucket

PICTURES = 12


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


def test_every_picture_comes_with_its_name_and_class(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
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


def test_a_data_set_is_prepared_from_it(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder_of_tfds(home, monkeypatch)
    bucket = open_bucket(str(tmp_path / "data"))
    monkeypatch.setattr(prepare_module, "process_pool", thread_pool)
    manifest = prepare("tfds:cats_vs_dogs", bucket, side=32, shards=2, val=0.25, test=0.25).manifest
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
