"""One TensorFlow for all tests, quiet, with three logical CPU devices for the strategies up to `cpu:3`; and a store."""

import os
import signal
import tempfile
from collections.abc import Iterator

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ["KERAS_BACKEND"] = "tensorflow"

import pytest
import tensorflow as tf

from catdog.storage import google
from tests.pace import within
from tests.stand_ins.fake_store import FakeStore

_CPU = tf.config.list_physical_devices("CPU")[0]
tf.config.set_logical_device_configuration(_CPU, [tf.config.LogicalDeviceConfiguration()] * 3)
if "CATDOG_GPU" not in os.environ:  # which `make test-gpu` sets
    tf.config.set_visible_devices([], "GPU")


signal.signal(signal.SIGINT, signal.default_int_handler)  # started in the background, processes ignore it


@pytest.fixture
def store(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeStore]:
    """A store that misbehaves when it is told to, as gs://bucket for this process and those that it starts."""
    with FakeStore(page_size=3) as store:
        monkeypatch.setenv("STORAGE_EMULATOR_HOST", store.host)
        monkeypatch.setattr(google, "TIMEOUT", (within(1.0), within(1.0)))
        monkeypatch.setattr(google, "SLOWEST", google.SLOWEST / within(1.0))
        yield store


@pytest.fixture(scope="session", autouse=True)
def cache_folder() -> Iterator[None]:
    """Keep the tests out of this person's own cache."""
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", folder)
        yield
