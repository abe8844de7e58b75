"""The source `tfds:cats_vs_dogs` through TFDS's own builder, on a small archive in the official layout."""

import re
import zipfile
from pathlib import Path

import pytest
import tensorflow_datasets as tfds
from pictures import encoded, picture
from tensorflow_datasets.core.download import checksums, download_manager, resource
from tensorflow_datasets.image_classification import cats_vs_dogs

from catdog.data.images import decode
from catdog.data.prepare import prepare
from catdog.data.sources import open_source
from catdog.errors import CallerError
from catdog.storage import Bucket

PICTURES = 12


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A TFDS folder in which the official archive seems to have been downloaded: its name is right, its content small."""
    home = tmp_path_factory.mktemp("tfds")
    url = cats_vs_dogs._URL
    checksum = tfds.builder("cats_vs_dogs", data_dir=home).url_infos[url].checksum
    path = home / "downloads" / resource.get_dl_fname(url, checksum)
    path.parent.mkdir(parents=True)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("readme[1].txt", b"about")
        for folder, first in (("Cat", 0), ("Dog", 100)):
            for index in range(PICTURES):
                archive.writestr(f"PetImages/{folder}/{index}.jpg", encoded(picture(first + index)))
        for index in range(cats_vs_dogs._NUM_CORRUPT_IMAGES):
            archive.writestr(f"PetImages/Cat/{1000 + index}.jpg", b"no JFIF here")
    info = checksums.UrlInfo(size=path.stat().st_size, checksum=checksum, filename=path.name)
    resource.write_info_file(resource.Resource(url=url), path, "cats_vs_dogs", path.name, info) if False else None
    return home


@pytest.fixture
def at_home(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TFDS_DATA_DIR", str(home))


def test_placeholder(at_home: None) -> None:
    opened = open_source("tfds:cats_vs_dogs", seed=0)
    print(list(opened.items)[:3])
