"""What several workers cost: under Ray against the same processes started by hand, and against one process.

Usage: python -m tests.bench.workers PHOTOS [--rounds 3]
Two workers of one core each stand against one process of two, and against two processes that train on half a batch each
with nothing to exchange. Prints ratios of images a second in each phase, the median of the rounds. Ray's own processes
take their part of this machine's cores however little they do; so the workers are also timed on one core, with the other
left to Ray.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from catdog.data.prepare import prepare
from catdog.storage import Bucket, open_bucket
from job.worker import work
from tests.integration.forked import spawned
from tests.integration.processes import TfConfigGroup

RECIPE = """
[data]
uri = "{uri}"
global_batch = {batch}
[run]
precision = "float32"
log_every = 4
[checkpoint]
every_seconds = 0
[[phases]]
name = "frozen"
epochs = 2
[[phases]]
name = "finetune"
epochs = 2
learning_rate = 3e-5
unfreeze = "all"
"""
SPARING_THE_FIRST_CORE = """
import os
from job import driver, train
from tests.bench import workers
os.sched_setaffinity(0, {1})
driver.work = workers.work_on_first_core
train.main()
"""
"""A program that is `python -m job.train`, with the workers on the first core and all else of Ray's on the second."""
BATCH = 64
WARM = 2
"""Lines of metrics of a phase that are not counted."""

Speeds = dict[str, float]
"""Images a second, by phase or by way."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("photos")
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as text:
        folder = Path(text)
        data = open_bucket(str(folder / "data"))
        prepare(f"folder:{arguments.photos}", data)
        whole, half = (_recipe(folder, data, batch) for batch in (BATCH, BATCH // 2))
        ways: dict[str, Callable[[Bucket], None]] = {
            "one process": lambda run: _one(whole, run),
            "halves": lambda run: _two_alone(half, run),
            "pinned": lambda run: _by_hand(whole, run, "0", "1"),
            "by hand": lambda run: _by_hand(whole, run, "0,1", "0,1"),
            "under Ray": lambda run: _under_ray(whole, run, "-m", "job.train"),
            "by hand, one core": lambda run: _by_hand(whole, run, "0", "0"),
            "under Ray, one core": lambda run: _under_ray(whole, run, "-c", SPARING_THE_FIRST_CORE),
        }
        rounds = []
        for number in range(arguments.rounds):
            speeds = {}
            for name, train in ways.items():
                run = open_bucket(str(folder / f"{name.replace(' ', '-')}-{number}"))
                train(run)
                speeds[name] = _speeds(run)
                print(f"{number} {name:19} {_shown(speeds[name])}", file=sys.stderr, flush=True)
            rounds.append(speeds)
        for phase in ("frozen", "finetune"):

            def tell(what: str, ratio: Callable[[Speeds], float], phase: str = phase) -> None:
                ratios = [ratio({name: speeds[phase] for name, speeds in each.items()}) for each in rounds]
                spread = f"{statistics.median(ratios):.3f} ({min(ratios):.3f} to {max(ratios):.3f})"
                print(f"{phase:9} {what}: {spread}", flush=True)

            tell("step time under Ray / by hand", lambda s: s["by hand"] / s["under Ray"])
            tell("the same, Ray on a core of its own", lambda s: s["by hand, one core"] / s["under Ray, one core"])
            tell("speed of two workers of a core each / of one process", lambda s: s["pinned"] / s["one process"])
            tell("share of a worker's time in the exchange", lambda s: 1 - s["pinned"] / (2 * s["halves"]))


def _recipe(folder: Path, data: Bucket, batch: int) -> Path:
    path = folder / f"batch-{batch}.toml"
    path.write_text(RECIPE.format(uri=data.uri, batch=batch))
    return path


def _one(recipe: Path, run: Bucket) -> None:
    subprocess.run(_pinned("0,1", "catdog", recipe, run), check=True, capture_output=True)


def _two_alone(recipe: Path, run: Bucket) -> None:
    """The first of two processes, which take each other what two workers would beside the exchange: memory, caches."""
    beside = open_bucket(f"{run.uri}-beside")
    commands = [_pinned(core, "catdog", recipe, each) for core, each in (("0", run), ("1", beside))]
    pair = [subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) for command in commands]
    if any(process.wait() for process in pair):
        raise SystemExit("training failed")


def _by_hand(recipe: Path, run: Bucket, *cores: str) -> None:
    with TfConfigGroup([_pinned(own, "catdog", recipe, run) for own in cores], recipe.parent, start=spawned) as workers:
        if any(workers.wait()):
            raise SystemExit(workers.told(0) + workers.told(1))


def _under_ray(recipe: Path, run: Bucket, *program: str) -> None:
    words = [sys.executable, *program, str(recipe), "--run", run.uri, "--workers", "2"]
    done = subprocess.run(words, capture_output=True, text=True, env=os.environ | {"RAY_ADDRESS": "local"})
    if done.returncode:
        raise SystemExit(done.stderr)


def work_on_first_core(config: dict[str, Any]) -> Any:
    """What each worker does there."""
    for thread in os.listdir("/proc/self/task"):
        os.sched_setaffinity(int(thread), {0})
    return work(config)


def _pinned(cores: str, module: str, recipe: Path, run: Bucket) -> list[str]:
    return ["taskset", "-c", cores, sys.executable, "-m", module, "train", str(recipe), "--run", run.uri]


def _speeds(run: Bucket) -> Speeds:
    lines = [json.loads(line) for line in run.read("metrics.jsonl").splitlines()]
    found: Speeds = {}
    for phase in ("frozen", "finetune"):
        steady = [m["images_per_s"] for m in lines if m["phase"] == phase and m["split"] == "train"][WARM:]
        found[phase] = statistics.median(steady)
    return found


def _shown(speeds: Speeds) -> str:
    return ", ".join(f"{phase} {speed:.0f} images/s" for phase, speed in speeds.items())


if __name__ == "__main__":
    main()
