"""The store that a URI names."""

from pathlib import Path

import pytest

from catdog.errors import CallerError
from catdog.storage import GoogleBucket, TooLarge, open_bucket


@pytest.mark.parametrize("uri", ["gs:/bucket/data", "gs:bucket/data", "s3://bucket/data", "gs://", ""])
def test_what_is_no_place_is_refused_and_becomes_no_folder(uri, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(CallerError, match="gs://"):
        open_bucket(uri)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("uri", "told"), [("gs://", "no bucket"), ("gs:///x", "no bucket"), ("s3://b/x", "not supported")]
)
def test_a_uri_that_names_no_bucket_is_refused_in_one_line(uri: str, told: str) -> None:
    with pytest.raises(CallerError, match=told) as caught:
        open_bucket(uri)
    assert str(caught.value).startswith(uri) and "\n" not in str(caught.value)


def test_the_store_of_a_uri_is_the_one_that_its_scheme_names(tmp_path: Path) -> None:
    assert isinstance(open_bucket("gs://bucket/x"), GoogleBucket)
    assert open_bucket(str(tmp_path)).local("x") == tmp_path / "x"


@pytest.mark.parametrize("uri", ["bucket/a\0b", "a" * 5000, "gs://b/" + "a" * 5000])
def test_a_uri_that_can_be_none_is_refused_in_one_short_line(uri: str) -> None:
    with pytest.raises(CallerError, match="more than 4,096 characters, or one of code 0") as caught:
        open_bucket(uri)
    assert len(str(caught.value)) < 400


@pytest.mark.parametrize("kind", ["folder", "gs"])
def test_no_more_of_an_object_is_read_than_is_asked_for(
    request: pytest.FixtureRequest, kind: str, tmp_path: Path
) -> None:
    if kind == "gs":
        request.getfixturevalue("store")
    bucket = open_bucket(str(tmp_path) if kind == "folder" else "gs://bucket/a")
    bucket.write("x", b"12345")
    assert bucket.read("x", 5) == bucket.find("x", 5) == b"12345"
    with pytest.raises(TooLarge, match="x: has more than the 4 bytes"):
        bucket.find("x", 4)
    assert bucket.find("y", 4) is None
