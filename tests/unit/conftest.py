"""The store that misbehaves, behind `open_bucket("gs://bucket/...")`."""

from collections.abc import Iterator

import pytest

from catdog.storage import google
from tests.fake_store import FakeStore


@pytest.fixture
def store(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeStore]:
    with FakeStore(buckets=("bucket",), page_size=3) as store:
        monkeypatch.setenv("STORAGE_EMULATOR_HOST", store.host)
        monkeypatch.setattr(google, "TIMEOUT", (1.0, 0.5))
        monkeypatch.setitem(google._ONCE, "timeout", google.TIMEOUT)
        google._client.cache_clear()
        yield store
    google._client.cache_clear()
