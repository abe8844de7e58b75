"""Kill -9 at a hundred random moments, in a folder and through a store: all ends as if nothing had been.

The moments are drawn anew each time; a failure names the seed, and CATDOG_KILLS_SEED draws the same ones again.
"""

import os
import random
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from catdog.runs.folder import MODEL, evaluation
from catdog.storage import Bucket, Folder, open_bucket
from tests.integration.processes import STEPS, Process, assert_same, light, past
from tests.pace import within
from tests.stand_ins.fake_store import FakeStore

pytestmark = pytest.mark.kills

PREPARE = ("--side", "64", "--shards", "4", "--reuse")
CHAINS, SINGLE = 5, 6
"""Runs that are killed in each stage of theirs, and kills of prepare and of pull, in each of the two places."""
METRICS_JSON = f"{evaluation('test')}/metrics.json"

Moment = Callable[[str], bool]
"""Whether a moment has come, as told by what the run has printed."""


@pytest.fixture(scope="module")
def chance() -> random.Random:
    seed = int(os.environ.get("CATDOG_KILLS_SEED", time.time_ns() % 10**6))
    print(f"CATDOG_KILLS_SEED={seed}")  # pytest shows it with a failure
    return random.Random(seed)


@pytest.fixture(scope="module")
def table(request: pytest.FixtureRequest) -> Iterator[Counter[tuple[str, str]]]:
    """How often each stage was killed in each place, printed at the end."""
    kills: Counter[tuple[str, str]] = Counter()
    yield kills
    stages = dict.fromkeys(stage for stage, _ in kills)
    with request.config.pluginmanager.getplugin("capturemanager").global_and_fixture_disabled():
        print("\n\nkills -9            folder   store")
        for stage in stages:
            print(f"{stage:18}{kills[stage, 'folder']:8}{kills[stage, 'store']:8}")
        print(f"{'all':18}{sum(kills.values()):16}")


@pytest.fixture(params=["folder", "store"])
def place(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def new_bucket(place: str, request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[str], Bucket]:
    """Gives a new place of a name, in a folder or in the stand-in store."""
    if place == "store":
        request.getfixturevalue("store")
    return lambda name: open_bucket(str(tmp_path / name) if place == "folder" else f"gs://bucket/{name}")


def files(run: Bucket) -> list[str]:
    """The names of a run's files; that of the event file without its time and its process."""
    return [re.sub(r"(tfevents)\..*", r"\1", name) for name in run.list()]


def test_a_run_that_is_killed_in_each_of_its_stages_ends_the_same(
    place: str,
    new_bucket: Callable[[str], Bucket],
    light_recipe: Path,
    light_run: Bucket,
    chance: random.Random,
    table: Counter[tuple[str, str]],
    request: pytest.FixtureRequest,
) -> None:
    store = request.getfixturevalue("store") if place == "store" else None
    for chain in range(CHAINS):
        run = new_bucket(f"run-{chain}")
        for stage, soon, reached in stages(run, store, chance):
            while not killed(Process(light_recipe, run, command=light()), reached, chance.uniform(0, soon)):
                assert stage in ("evaluation", "report"), f"{stage}: the run ended before"
            table[stage, place] += 1
        Process(light_recipe, run, command=light()).finish()
        assert_same(run, light_run)
        assert files(run) == files(light_run), "no more and no fewer files"
        left = list(Path(run.uri).rglob(".part-*")) if isinstance(run, Folder) else []
        assert left == [], "nothing half written"


def stages(run: Bucket, store: FakeStore | None, chance: random.Random) -> Iterator[tuple[str, float, Moment]]:
    """The stages of a run in their order: name, seconds from the moment on in which the kill comes, and the moment.

    Each is asked for just before the process begins that is killed in it.
    """

    def is_saving() -> Moment:
        if store is None:
            return lambda _: any(Path(run.uri).glob("checkpoints/*/.part-*"))
        before = store.count("upload", r"state\.npz")
        return lambda _: store.count("upload", r"state\.npz") > before

    def is_new(name: str) -> Moment:
        before = run.stat(name)
        return lambda _: run.stat(name) not in (None, before)

    def is_validating(epoch: int) -> Moment:
        return lambda log: f"step {10 * epoch}/{STEPS} " in log

    yield "frozen", 0.3, past(chance.randrange(2, 8))
    yield "save", 0.05, is_saving()
    yield "validation", 0.5, is_validating(2)
    yield "fine-tune", 0.3, past(chance.randrange(22, 30))
    yield "save", 0.05, is_saving()
    yield "validation", 0.5, is_validating(4)
    yield "export", 1.0, lambda log: f"going on from step {STEPS}" in log or past(STEPS)(log)
    yield "evaluation", 1.0, is_new(MODEL)
    yield "report", 0.05, is_new(METRICS_JSON)


def killed(process: Process, reached: Moment, after: float) -> bool:
    """Kill a run so many seconds after a moment; False if it had ended by itself, with all done."""
    deadline = time.monotonic() + within(300)
    while process.process.poll() is None and not reached(process.log.read_text()):
        assert time.monotonic() < deadline, process.log.read_text()
        time.sleep(0.002)
    time.sleep(after)
    process.process.kill()
    code = process.process.wait()
    assert code in (0, -signal.SIGKILL), process.log.read_text()
    return code != 0


def test_a_data_set_whose_preparation_is_killed_ends_the_same(
    place: str,
    new_bucket: Callable[[str], Bucket],
    small_pictures: Path,
    small_data: Bucket,
    chance: random.Random,
    table: Counter[tuple[str, str]],
) -> None:
    def prepare(data: Bucket, after: float | None = None) -> int:
        return catdog(after, "prepare", f"folder:{small_pictures}", data.uri, *PREPARE)

    began = time.monotonic()
    assert prepare(new_bucket("undisturbed")) == 0
    took = time.monotonic() - began
    while table["prepare", place] < SINGLE:
        data = new_bucket(f"data-{table['prepare', place]}")
        for _ in range(2):
            table["prepare", place] += prepare(data, chance.uniform(0, took)) == -signal.SIGKILL
        assert prepare(data) == 0
        shards = [name for name in small_data.list() if name.endswith(".tfrecord")]
        assert {name: data.read(name) for name in shards} == {name: small_data.read(name) for name in shards}
        assert data.list() == small_data.list()


def test_a_pull_that_is_killed_and_given_again_brings_all(
    place: str,
    new_bucket: Callable[[str], Bucket],
    light_run: Bucket,
    tmp_path: Path,
    chance: random.Random,
    table: Counter[tuple[str, str]],
) -> None:
    run = new_bucket("run")
    for name in light_run.list():
        run.write(name, light_run.read(name))
    undisturbed = Folder(str(tmp_path / "undisturbed"))
    began = time.monotonic()
    assert catdog(None, "pull", run.uri, undisturbed.uri) == 0
    took = time.monotonic() - began
    while table["pull", place] < SINGLE:
        folder = Folder(str(tmp_path / f"pulled-{table['pull', place]}"))
        for _ in range(2):
            table["pull", place] += catdog(chance.uniform(0, took), "pull", run.uri, folder.uri) == -signal.SIGKILL
        assert catdog(None, "pull", run.uri, folder.uri) == 0
        assert {name: folder.read(name) for name in folder.list()} == {
            name: undisturbed.read(name) for name in undisturbed.list()
        }
        assert not any(Path(folder.uri).rglob(".part-*"))


def catdog(after: float | None, *words: str) -> int:
    """The exit code of a command, which is killed after so many seconds if it has not ended."""
    with subprocess.Popen([sys.executable, "-m", "catdog", *words], stdout=-1, stderr=subprocess.STDOUT) as process:
        try:
            told, _ = process.communicate(timeout=after)
        except subprocess.TimeoutExpired:
            process.kill()
            told, _ = process.communicate()
    assert process.returncode in (0, -signal.SIGKILL), told.decode()
    return process.returncode
