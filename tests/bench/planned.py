"""What `catdog plan` promises against what runs take, on one, two and four workers of this machine's two cores.

Usage: python -m tests.bench.planned PHOTOS [--rounds 3]
Prints for each phase the planned seconds over those of the run, without what comes before its first step and without the
tracing of some, the median of the rounds; each round measures this machine anew.
"""

import argparse
import json
import statistics
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from catdog.command.quiet_tensorflow import import_tensorflow
from catdog.data.prepare import prepare
from catdog.data.shards import load_manifest
from catdog.recipe import load_recipe
from catdog.storage import Bucket, open_bucket
from tests.integration.forked import spawned
from tests.integration.processes import TfConfigGroup

RECIPE = """
[data]
uri = "{uri}"
[run]
precision = "float32"
[cache]
folder = "{cache}"
[[phases]]
name = "head"
epochs = 10
[[phases]]
name = "blocks"
epochs = 3
unfreeze = 2
[[phases]]
name = "all"
epochs = 2
learning_rate = 3e-5
unfreeze = "all"
"""
TRAIN = """
import json, sys
from catdog.command.quiet_tensorflow import import_tensorflow
import_tensorflow()
from catdog.recipe import load_recipe
from catdog.training.trainer import train
recipe, run, profile = sys.argv[1:]
tell = lambda phases: open(profile, "w").write(json.dumps({each.name: each.seconds for each in phases}))
train(load_recipe(recipe, [("run.uri", run)]), profiled=tell)
"""
CORES = 2
LOOPBACK = 1e9
"""Bytes a second."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("photos")
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    import_tensorflow()
    ratios: dict[tuple[int, str], list[float]] = {}
    with tempfile.TemporaryDirectory() as text:
        folder = Path(text)
        data = open_bucket(str(folder / "data"))
        prepare(f"folder:{arguments.photos}", data)
        for number in range(arguments.rounds):
            recipe = folder / f"{number}.toml"
            recipe.write_text(RECIPE.format(uri=data.uri, cache=folder / "cache"))
            planned_for = _plans(recipe, data)
            for workers in (1, 2, 4):
                recipe.write_text(RECIPE.format(uri=data.uri, cache=folder / f"cache-{number}-{workers}"))
                planned, real = planned_for(workers), _real(recipe, folder / f"{number}-{workers}", workers)
                for phase, seconds in real.items():
                    ratios.setdefault((workers, phase), []).append(planned[phase] / seconds)
                    print(f"{number} {workers} {phase}: {planned[phase]:.1f} of {seconds:.1f} s", file=sys.stderr)
    for (workers, phase), found in ratios.items():
        spread = f"{statistics.median(found):.2f} ({min(found):.2f} to {max(found):.2f})"
        print(f"{workers} workers, phase {phase}: {spread}")


def _plans(path: Path, data: Bucket) -> Callable[[int], dict[str, float]]:
    """A function that gives the planned seconds of each phase for so many workers, by what is measured now."""
    from catdog.planning.calibration import calibrate
    from catdog.planning.compare import job_of
    from catdog.planning.plan import Hosts, plan

    recipe, manifest = load_recipe(path), load_manifest(data)
    job, speed = job_of(recipe, data, manifest), calibrate(recipe, data, manifest, lambda line: None)

    def planned(workers: int) -> dict[str, float]:
        found = plan(job, speed, Hosts(workers, 1, CORES / workers, LOOPBACK))
        return {phase.name: phase.seconds - phase.parts["start"] for phase in found.phases}

    return planned


def _real(recipe: Path, run: Path, workers: int) -> dict[str, float]:
    profile = run.with_suffix(".json")
    shares = ["0,1"] if workers == 1 else [str(worker % CORES) for worker in range(workers)]
    words = [sys.executable, "-c", TRAIN, str(recipe), str(run)]
    commands = [
        ["taskset", "-c", share, *words, str(profile if worker == 0 else run.with_suffix(f".{worker}"))]
        for worker, share in enumerate(shares)
    ]
    with TfConfigGroup(commands, recipe.parent, start=spawned) as group:
        if any(group.wait()):
            raise SystemExit(group.told(0))
    found = json.loads(profile.read_text())
    return {name: sum(seconds.values()) - seconds["start"] - seconds["other"] for name, seconds in found.items()}


if __name__ == "__main__":
    main()
