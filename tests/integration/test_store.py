"""Runs whose data and checkpoints lie in object storage, and what becomes of them when the store misbehaves."""

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from catdog.data.cache import Closed, open_cache
from catdog.data.example import encode_example
from catdog.data.order import Need
from catdog.data.shards import Shard, load_manifest, pinned
from catdog.data.tfrecord import write_records
from catdog.errors import CallerError, RunError, Stopped
from catdog.recipe import Cache, Recipe, load_recipe, override, to_toml
from catdog.storage import Bucket, crc32c, google, open_bucket
from catdog.training import trainer
from catdog.training.checkpoint import Checkpoints
from catdog.training.trainer import train
from tests.integration.processes import STEPS, Process, assert_same, light, past
from tests.pace import within
from tests.stand_ins.fake_store import FakeStore, Fault


@pytest.fixture
def store(store: FakeStore, small_data: Bucket) -> FakeStore:
    """With the small data set in it."""
    for name in small_data.list():
        store.put("bucket", f"data/{name}", small_data.read(name))
    return store


@pytest.fixture
def run() -> Bucket:
    return open_bucket("gs://bucket/runs/small")


def on_the_store(recipe: Path, folder: Path) -> Recipe:
    """A recipe on the store's data, with a cache of its own."""
    settings = [("data.uri", "gs://bucket/data"), ("cache.folder", str(folder / "cache"))]
    return override(load_recipe(recipe), [*settings, ("storage.patience", str(within(20)))])


@pytest.fixture
def recipe_file(light_recipe: Path, tmp_path: Path) -> Path:
    path = tmp_path / "recipe.toml"
    path.write_text(to_toml(on_the_store(light_recipe, tmp_path)))
    return path


@pytest.fixture
def recipe(recipe_file: Path, run: Bucket, light_backbone: None) -> Recipe:
    return override(load_recipe(recipe_file), [("run.uri", run.uri)])


IN_STATES = [
    Fault("upload", what, name="state.npz", at=20, seconds=seconds)
    for what, seconds in [
        ("reset", 0),
        ("lost_reply", 0),
        ("unread", 0),
        ("unread", within(30)),
        ("flip_sent", 0),
        ("stall", within(30)),
        ("trickle", 0.2),
        ("truncate", 0),
        ("no_hash", 0),
    ]
]
"""One for each checkpoint, in the request that brings the bytes; the one before that begins the upload."""

BURSTS = [
    Fault("download", "status", code=503, times=4, after=2),
    Fault("download", "reset", name="train-", at=3000, times=3),
    Fault("download", "flip", name="train-", at=5000, only_ranges=True),
    Fault("download", "flip", name="train-", at=100),
    Fault("download", "truncate", name="val-", at=500, times=2),
    Fault("download", "stall", name="val-", at=500, seconds=within(30)),
    Fault("download", "trickle", name="val-", seconds=0.2),
    Fault("download", "short", name="test-", at=500, times=2),
    Fault("download", "no_hash", name="train-", times=None),
    Fault("upload", "status", code=429, times=3, after=3),
    Fault("upload", "none", name="state.npz"),
    *(fault for hit in IN_STATES for fault in (hit, Fault("upload", "none", name="state.npz", times=3))),
    Fault("upload", "lost_reply", name="COMMITTED.json", times=3, after=1),
    Fault("upload", "truncate", name="COMMITTED.json", at=20),
    Fault("upload", "stall", name="COMMITTED.json", seconds=within(30), after=2),
    Fault("upload", "flip_sent", name="COMMITTED.json", at=20, after=1),
    Fault("upload", "reset", name="model.keras"),
    Fault("delete", "lost_reply", times=2),
    Fault("list", "status", code=500, times=2, after=4),
    Fault("metadata", "reset", times=2, after=6),
]


def test_through_a_store_that_misbehaves_a_run_ends_as_one_in_a_folder(
    store: FakeStore, recipe: Recipe, run: Bucket, light_run: Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("google.cloud.storage.blob._MAX_MULTIPART_SIZE", 10_000)  # a state of a real model is larger
    monkeypatch.setattr("catdog.training.checkpoint.PATIENCE", within(120))  # so that each checkpoint meets its fault
    monkeypatch.setattr(google, "SLOWEST", 10_000_000)  # else what stalls or trickles is waited for as on a slow line
    store.faults.add(*BURSTS)
    train(recipe)
    assert store.faults.left == []
    assert_same(run, light_run)
    assert {"model.keras", "report.html", "tensorboard/events.out.tfevents"} <= set(run.list())


def test_killed_in_an_upload_and_started_again_it_ends_as_one_in_a_folder(
    store: FakeStore, recipe_file: Path, run: Bucket, light_run: Bucket
) -> None:
    def uploads(name: str, times: int) -> bool:
        return store.count("upload", name) >= times

    for name in ("step-00000009/state.npz", "step-00000018/COMMITTED.json"):
        # The bytes have arrived and the answer has not when the process is killed.
        store.faults.add(Fault("upload", "stall", name=name, seconds=within(60)))
        process = Process(recipe_file, run, command=light())
        assert process.stop_when(lambda _, name=name: uploads(name, 1), signal.SIGKILL) == -signal.SIGKILL
    log = Process(recipe_file, run, command=light()).finish()
    assert "going on from step" in log
    assert_same(run, light_run)


@pytest.mark.slow
def test_a_second_job_on_the_same_run_is_refused_while_the_first_is_alive(
    store: FakeStore, recipe_file: Path, run: Bucket, light_run: Bucket
) -> None:
    first = Process(recipe_file, run, command=light(seconds=within(0.5)))
    first.wait_until(past(2))
    second = Process(recipe_file, run, command=light())
    assert second.process.wait(within(120)) == 2, second.log.read_text()
    assert f"{run.uri}: is being trained by process {first.process.pid}" in second.log.read_text()
    first.finish()
    assert_same(run, light_run)


def test_while_the_store_is_away_training_goes_on_and_all_is_saved_once_it_is_back(
    store: FakeStore, recipe: Recipe, run: Bucket, light_run: Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("catdog.training.checkpoint.PATIENCE", 0.2)
    steps_while_away: list[int] = []
    away_at, back_at = 12, 18

    def watch(self, done: int, phase: str) -> None:
        store.down = away_at <= done < back_at
        if store.down:
            steps_while_away.append(done)

    monkeypatch.setattr("catdog.training.screen.Screen.step", watch)
    train(recipe)
    assert steps_while_away == list(range(away_at, back_at))
    assert_same(run, light_run)


def test_a_run_that_waits_for_shards_stops_at_once_when_it_is_told_to(
    store: FakeStore, recipe_file: Path, run: Bucket, light_run: Bucket
) -> None:
    for split, step in (("train", 0), ("val", 10)):
        store.faults.add(Fault("download", "status", name=f"{split}-00000", times=None))
        process = Process(recipe_file, run, command=light())
        process.wait_until(lambda log, step=step: "40 steps" in log if step == 0 else past(step)(log))
        process.wait_until(lambda _, split=split: store.count("download", f"{split}-00000") > 2)
        began = time.monotonic()
        process.process.send_signal(signal.SIGTERM)
        assert process.process.wait(within(60)) == 128 + signal.SIGTERM, process.log.read_text()
        assert time.monotonic() - began < within(10)
        assert f"stopped by SIGTERM at step {step}, which is committed" in process.log.read_text()
        store.faults.clear()
    assert "going on from step 10" in Process(recipe_file, run, command=light()).finish()
    assert_same(run, light_run)


@pytest.mark.slow
def test_a_second_ctrl_c_ends_a_run_at_once_while_the_store_is_away(
    store: FakeStore, recipe_file: Path, run: Bucket, light_run: Bucket
) -> None:
    process = Process(recipe_file, run, "--storage.patience", "600", command=light(seconds=0.1))
    process.wait_until(past(12))
    store.down = True
    process.process.send_signal(signal.SIGINT)
    process.wait_until(lambda log: "SIGINT: saving step" in log)
    process.process.send_signal(signal.SIGINT)
    assert process.process.wait(within(10)) == 128 + signal.SIGINT
    store.down = False
    assert "going on from step" in Process(recipe_file, run, command=light()).finish()
    assert_same(run, light_run)


def test_stopped_while_a_phase_waits_for_its_first_shards_it_goes_on_from_the_state_of_the_phase_before(
    recipe: Recipe, run: Bucket, light_run: Bucket, store: FakeStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    late, commit = threading.Event(), Checkpoints._commit

    def slow_commit(self, snapshot):
        assert snapshot.position.step < 18 or late.wait(within(30))
        commit(self, snapshot)

    class StoppedPhase(trainer.Phase):
        def __init__(self, *arguments):
            super().__init__(*arguments)
            if arguments[4] == 20:  # the first step
                self._batches = stopped()

    def stopped():
        os.kill(os.getpid(), signal.SIGTERM)
        threading.Timer(1, late.set).start()
        raise Closed
        yield

    with monkeypatch.context() as patch:
        patch.setattr("catdog.training.checkpoint.PATIENCE", 0.1)
        patch.setattr(Checkpoints, "_commit", slow_commit)
        patch.setattr(trainer, "Phase", StoppedPhase)
        with pytest.raises(Stopped, match="at step 20, which is committed"):
            train(recipe)
    train(recipe)
    assert_same(run, light_run)


@pytest.mark.parametrize("largest", [1 << 20, 1000], ids=["as a whole", "in ranges"])
def test_a_closed_cache_gives_up_what_it_fetches_from_a_store_that_is_away(
    store: FakeStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, largest: int
) -> None:
    monkeypatch.setattr("catdog.storage.google.RANGE", largest)
    data = open_bucket("gs://bucket/data", patience=600)
    shards = load_manifest(data).split("train")
    pins = pinned(data, shards)
    store.down = True
    with (
        open_cache(data, pins, Cache(str(tmp_path / "cache"))) as cache,
        cache.follow(shards, iter([Need(0, 0, 0)])) as files,
    ):
        files.reach(0)
        while not list((tmp_path / "cache").glob("*.part")):
            time.sleep(0.01)
    began = time.monotonic()
    while any(thread.name.startswith(("fetcher", "range")) for thread in threading.enumerate()):
        assert time.monotonic() - began < within(15)
        time.sleep(0.1)


def test_past_its_patience_a_run_stops_with_all_that_was_committed_and_goes_on_later(
    store: FakeStore, recipe_file: Path, run: Bucket, light_run: Bucket
) -> None:
    process = Process(recipe_file, run, "--storage.patience", "2", command=light(seconds=0.1))
    process.wait_until(lambda _: store.count("upload", r"step-00000012/COMMITTED\.json") > 0)
    store.down = True
    began = time.monotonic()
    assert process.process.wait(within(60)) == 1, process.log.read_text()
    assert time.monotonic() - began < within(30)
    *shown, told = process.log.read_text().splitlines()
    assert re.fullmatch(r"catdog: failed: gs://bucket/runs/small/\S+: could not be reached to \w+ it for 2 s: .+", told)
    since = next(index for index, line in enumerate(shown) if line.startswith("40 steps"))
    assert all(line.startswith(("step ", "first step")) for line in shown[since + 1 :])
    store.down = False
    checkpoints = Checkpoints(run, keep=2)
    committed = checkpoints.steps()
    assert 10 <= max(committed) < STEPS
    for step in committed:
        checkpoints.restore(step)
    log = Process(recipe_file, run, command=light()).finish()
    assert f"going on from step {max(committed)} of {STEPS}" in log
    assert_same(run, light_run)


def test_a_bucket_that_may_not_be_written_is_told_before_the_first_step(store: FakeStore, recipe: Recipe) -> None:
    words = "me@project does not have storage.objects.create access."
    store.faults.add(Fault("upload", "status", code=403, message=words, times=None))
    with pytest.raises(CallerError, match=r"may not write here: it needs storage\.objects\.create"):
        train(recipe)
    assert not any("checkpoints" in name for name in store.names("bucket"))


def test_a_bucket_that_keeps_what_is_written_is_told_before_the_first_step(store: FakeStore, recipe: Recipe) -> None:
    words = "Object 'bucket/x' is subject to bucket's retention policy"
    kept = Fault("upload", "status", code=403, message=words, reason="retentionPolicyNotMet", times=None)
    store.faults.add(Fault("upload", "none", times=2), kept)
    with pytest.raises(CallerError, match="is subject to bucket's retention policy"):
        train(recipe)
    assert not any("checkpoints" in name or name.endswith("recipe.toml") for name in store.names("bucket"))


def test_a_shard_that_is_replaced_under_a_run_is_an_error_that_says_so(
    store: FakeStore, recipe: Recipe, small_data: Bucket
) -> None:
    other = store.get("bucket", "data/train-00000-of-00004.tfrecord")
    store.faults.add(Fault("download", "replace", name="train-00001", content=other))
    with pytest.raises(RunError, match=r"train-00001-of-00004\.tfrecord: was replaced"):
        train(recipe)


def test_a_shard_whose_bytes_stay_wrong_is_never_trained_on(store: FakeStore, recipe: Recipe, run: Bucket) -> None:
    store.faults.add(Fault("download", "flip", name="train-00002", at=4000, times=None))
    with pytest.raises(RunError, match=r"train-00002-of-00004\.tfrecord: crc32c [0-9a-f]{8} expected"):
        train(recipe)
    assert not run.exists("model.keras")


def test_a_second_run_reads_the_local_copy(store: FakeStore, recipe: Recipe) -> None:
    short = replace(recipe, phases=recipe.phases[:1])
    train(short)
    before = store.count("download", "train-")
    assert before == 4
    train(override(short, [("run.uri", "gs://bucket/runs/again")]))
    assert store.count("download", "train-") == before


def test_a_cache_too_small_for_what_is_read_at_once_is_refused_with_the_number_that_would_do(
    store: FakeStore, recipe: Recipe
) -> None:
    with pytest.raises(CallerError, match=r"cache\.max_bytes = 1000: .*must be at least (\d+)") as caught:
        train(override(recipe, [("cache.max_bytes", "1000")]))
    short = replace(recipe, phases=recipe.phases[:1])
    needed = str(caught.value).rpartition(" ")[2]
    assert train(override(short, [("cache.max_bytes", needed)]))["examples"] == 20


READS_ALL = """
import contextlib, json, sys
from pathlib import Path
import psutil
from catdog.data.cache import open_cache
from catdog.data.order import WHOLE, Order
from catdog.data.records import Records
from catdog.data.shards import Shard, pinned
from catdog.recipe import Cache
from catdog.storage import open_bucket

folder, limit, shards = Path(sys.argv[1]), int(sys.argv[2]), [Shard(**entry) for entry in json.load(sys.stdin)]
bucket, order = open_bucket("gs://bucket/many"), Order((20,) * len(shards), 1, 1, 0)
marks, most = [], 0
with open_cache(bucket, pinned(bucket, shards), Cache(str(folder), max_bytes=limit)) as cache:
    with Records(shards, cache).reading(order.needs(WHOLE, 0, order.steps_per_epoch)) as reader:
        for step, batch in enumerate(order.batches(0, order.steps_per_epoch)):
            reader.reach(step)
            reader.read([int(batch.example[0])])
            if step % 50 == 0:
                with contextlib.suppress(FileNotFoundError):  # it was evicted while the others were looked at
                    most = max(most, sum(path.stat().st_size for path in folder.glob("*.tfrecord")))
                marks.append(psutil.Process().memory_info().rss)
print(json.dumps({"early": marks[len(marks) // 10], "late": marks[-1], "most": most}))
"""


def test_memory_does_not_grow_with_the_number_of_shards_and_disk_stays_in_its_limit(
    store: FakeStore, tmp_path: Path
) -> None:
    shards, path, limit = [], tmp_path / "shard", 4_000_000
    for number in range(200):
        name = f"train-{number:05d}-of-00200.tfrecord"
        examples = ({"image/encoded": os.urandom(10_000), "image/class/label": 0} for _ in range(20))
        write_records(path, map(encode_example, examples))
        store.put("bucket", f"many/{name}", path.read_bytes())
        shards.append(asdict(Shard(name, "train", path.stat().st_size, crc32c(path), "0" * 20)))
    command = [sys.executable, "-c", READS_ALL, str(tmp_path / "cache"), str(limit)]
    done = subprocess.run(command, input=json.dumps(shards), capture_output=True, text=True, check=True)
    found = json.loads(done.stdout)
    # After a tenth of the 40 MB everything is loaded that stays.
    assert found["late"] - found["early"] < 8_000_000
    assert limit / 2 < found["most"] <= limit
