"""Images a second of each kind of phase, against a bare compiled step and Keras' `fit`, both on data in memory."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from catdog.data.options import PrepareOptions
from catdog.data.prepare import prepare
from catdog.storage import open_bucket
from tests.gpu.conftest import PRETEND, Size
from tests.integration.forked import spawned
from tests.integration.processes import Process

pytestmark = pytest.mark.gpu

RECIPE = """
[data]
uri = "{uri}"
side = {side}
global_batch = {batch}
[run]
log_every = 5
[checkpoint]
every_seconds = 0
[[phases]]
name = "frozen, on pictures"
epochs = {epochs}
views = 0
[[phases]]
name = "frozen, on stored outputs"
epochs = {epochs}
[[phases]]
name = "all"
epochs = {epochs}
unfreeze = "all"
learning_rate = 1e-5
"""


def test_images_a_second_of_each_phase(tmp_path: Path, size: Size, capsys: pytest.CaptureFixture[str]) -> None:
    data = open_bucket(str(tmp_path / "data"))
    prepare("drawn", data, PrepareOptions(side=size.side))
    recipe = tmp_path / "recipe.toml"
    recipe.write_text(RECIPE.format(uri=data.uri, side=size.side, batch=size.batch, epochs=1 if PRETEND else 4))
    run = open_bucket(str(tmp_path / "run"))
    cache = ("--cache.folder", str(tmp_path / "cache"))
    Process(recipe, run, *cache, start=spawned, environment=dict(os.environ)).finish()
    lines = [json.loads(line) for line in run.read("metrics.jsonl").splitlines()]
    speeds: dict[str, float] = {}
    for line in lines:
        if line["split"] == "train" and "images_per_s" in line:
            speeds[line["phase"]] = line["images_per_s"]  # the last one's, when all that happens once is over
    precision = next(line for line in run.read("recipe.toml").decode().splitlines() if line.startswith("precision"))
    policy = precision.split('"')[1]
    words = [str(size.side), str(size.batch), str(size.steps), policy]
    done = subprocess.run([sys.executable, "-m", "tests.gpu.bare", *words], capture_output=True, text=True, check=True)
    bare = json.loads(done.stdout)
    rows = [
        ("frozen, on pictures", "frozen"),
        ("frozen, on stored outputs", "frozen"),
        ("all", "all"),
    ]
    with capsys.disabled():
        print(f"\nimages/s at {size.side} px, {size.batch} a step, in {policy}")
        print(f"{'phase':28}{'catdog':>10}{'bare step':>12}{'Keras fit':>12}")
        for phase, kind in rows:
            print(f"{phase:28}{speeds[phase]:10.0f}{bare[kind]['step']:12.0f}{bare[kind]['fit']:12.0f}")
    assert all(speed > 0 for speed in speeds.values())
