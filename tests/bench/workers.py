"""What several workers cost: under Ray against the same processes started by hand, and against one process.

Usage: python -m tests.bench.workers PHOTOS [--rounds 3]
Two workers have one core of this machine each, and the one process both. Prints the ratio of images a second in each
phase, the median of the rounds, and of one worker's time the part that is left once it has computed its half of the
batch alone: what the exchange of gradients costs.
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

from catdog.data.prepare import prepare
from catdog.storage import Bucket, open_bucket
from tests.integration.processes import Cluster

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
epochs = 1
learning_rate = 3e-5
unfreeze = "all"
"""
BATCH = 64
WARM = 2
"""Lines of metrics of a phase that are not counted."""

Speeds = dict[str, float]
"""Images a second by phase."""


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
            "one": lambda run: _one(whole, run, "0,1"),
            "half": lambda run: _one(half, run, "0"),
            "by hand": lambda run: _by_hand(whole, run, "0", "1"),
            "free": lambda run: _by_hand(whole, run, "0,1", "0,1"),
            "ray": lambda run: _under_ray(whole, run),
        }
        rounds = []
        for number in range(arguments.rounds):
            speeds = {}
            for name, train in ways.items():
                run = open_bucket(str(folder / f"{name.replace(' ', '-')}-{number}"))
                train(run)
                speeds[name] = _speeds(run)
                print(f"{number} {name:8} {_shown(speeds[name])}", file=sys.stderr, flush=True)
            rounds.append(speeds)
        for phase in ("frozen", "finetune"):
            _tell(phase, "step time under Ray / by hand", [s["free"][phase] / s["ray"][phase] for s in rounds])
            _tell(
                phase,
                "two workers of a core each / one process",
                [s["by hand"][phase] / s["one"][phase] for s in rounds],
            )
            # A worker alone computes half a batch at the speed `half`; together the two could be twice as fast.
            spent = [1 - s["by hand"][phase] / (2 * s["half"][phase]) for s in rounds]
            _tell(phase, "of a worker's time not computing", spent)


def _recipe(folder: Path, data: Bucket, batch: int) -> Path:
    path = folder / f"batch-{batch}.toml"
    path.write_text(RECIPE.format(uri=data.uri, batch=batch))
    return path


def _one(recipe: Path, run: Bucket, cores: str) -> None:
    subprocess.run(_pinned(cores, "catdog", recipe, run), check=True, capture_output=True)


def _by_hand(recipe: Path, run: Bucket, *cores: str) -> None:
    with Cluster([_pinned(own, "catdog", recipe, run) for own in cores], recipe.parent) as workers:
        if any(workers.wait()):
            raise SystemExit(workers.told(0) + workers.told(1))


def _under_ray(recipe: Path, run: Bucket) -> None:
    words = [sys.executable, "-m", "job.train", str(recipe), "--run", run.uri, "--workers", "2"]
    subprocess.run(words, check=True, capture_output=True, env=os.environ | {"RAY_ADDRESS": "local"})


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


def _tell(phase: str, what: str, ratios: list[float]) -> None:
    print(f"{phase:9} {what}: {statistics.median(ratios):.3f} ({min(ratios):.3f} to {max(ratios):.3f})", flush=True)


if __name__ == "__main__":
    main()
