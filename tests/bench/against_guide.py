"""The job against Keras' guide on one machine: same photos, split, backbone, side and epochs; in turn, A B A B.

Usage: python -m tests.bench.against_guide PHOTOS [--rounds 2]
Two pairs: both phases against the guide's fine-tuning, and the frozen phase alone against the guide's feature
extraction. All are whole processes, from the start of Python to the test accuracy. `catdog prepare`, done once for a
data set, is timed apart, and the ratio is given without and with it: the guide decodes the original photos within its
own time. Ratios are what to look at, each of two runs next to each other: both meet the same noise of the machine.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import tomli_w

from catdog.data.example import decode_example
from catdog.data.shards import CLASSES, SPLITS
from catdog.data.tfrecord import record_index
from catdog.storage import Bucket, open_bucket

SIDE = 96
PHASES = (
    {"name": "frozen", "learning_rate": 1e-3},
    {"name": "finetune", "learning_rate": 3e-5, "unfreeze": "all"},
)
"""What meets the guide's two workflows; the rest is as in the recipe."""
RECIPE = Path(__file__).parents[2] / "job" / "recipes" / "photos.toml"
WEIGHTS = Path(__file__).parents[2] / "catdog" / "weights" / "efficientnetb0-lite0.float16.weights.h5"
GUIDE = Path(__file__).parent / "keras_guide.py"


@dataclass(frozen=True)
class Pair:
    """What the two sides do: the epochs of each phase, and the guide's workflow with the same epochs."""

    name: str
    workflow: str
    epochs: tuple[int, ...]


PAIRS = (Pair("both phases", "fine-tuning", (3, 2)), Pair("frozen only", "feature-extraction", (3,)))


@dataclass(frozen=True)
class Outcome:
    """Wall seconds of a whole process, and what its model came to on the test split."""

    seconds: float
    accuracy: float
    loss: float

    def __str__(self) -> str:
        return f"{self.seconds:.1f} s, test accuracy {self.accuracy:.4f}, loss {self.loss:.4f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("photos", type=Path)
    parser.add_argument("--rounds", type=int, default=2)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as text:
        folder = Path(text)
        data = open_bucket(str(folder / "data"))
        command = [sys.executable, "-m", "catdog", "prepare", f"folder:{arguments.photos}", data.uri, "--test", "0.3"]
        prepared = timed(command)
        print(f"catdog prepare: {prepared:.1f} s, once for the data set", flush=True)
        link_split(data, arguments.photos.resolve(), folder / "split")
        outcomes: dict[Pair, list[tuple[Outcome, Outcome]]] = {pair: [] for pair in PAIRS}
        for seed in range(arguments.rounds):
            for pair in PAIRS:
                ours = catdog(pair, data, folder / f"{pair.workflow}-{seed}", seed)
                print(f"{pair.name}, catdog train: {ours}", flush=True)
                guides = guide(pair, folder / "split", folder / f"{pair.workflow}-{seed}.json", seed)
                print(f"{pair.name}, guide's {pair.workflow}: {guides}", flush=True)
                outcomes[pair].append((ours, guides))
    for pair, rounds in outcomes.items():
        for name, before in (("train", 0.0), ("prepare and train", prepared)):
            ratios = [(before + ours.seconds) / guides.seconds for ours, guides in rounds]
            print(f"{pair.name}, time, catdog {name} / guide: {statistics.median(ratios):.2f}{spread(ratios, '.2f')}")
        means = []
        for name, side in zip(("catdog", "guide"), zip(*rounds, strict=True), strict=True):
            accuracies = [outcome.accuracy for outcome in side]
            means.append(statistics.mean(accuracies))
            print(f"{pair.name}, test accuracy, {name}: {means[-1]:.4f}{spread(accuracies, '.4f')}")
        print(f"{pair.name}, test accuracy, catdog - guide: {100 * (means[0] - means[1]):+.2f} points")


def spread(values: Sequence[float], form: str) -> str:
    """The least and the most."""
    return f" ({min(values):{form}} to {max(values):{form}})"


def catdog(pair: Pair, data: Bucket, run: Path, seed: int) -> Outcome:
    """Train the first phases, as many as the pair has."""
    recipe = tomllib.loads(RECIPE.read_text())
    recipe["phases"] = [phase | {"epochs": epochs} for phase, epochs in zip(PHASES, pair.epochs, strict=False)]
    path = run.with_suffix(".toml")
    path.write_text(tomli_w.dumps(recipe))
    settings = {"data.uri": data.uri, "data.side": SIDE, "run.seed": seed}
    options = [word for name, value in settings.items() for word in (f"--{name}", str(value))]
    seconds = timed([sys.executable, "-m", "catdog", "train", str(path), "--run", str(run), *options])
    return outcome(seconds, run / "evaluation/test/metrics.json")


def guide(pair: Pair, split: Path, result: Path, seed: int) -> Outcome:
    words = (pair.workflow, split, WEIGHTS, SIDE, seed, result, *pair.epochs)
    return outcome(timed([sys.executable, str(GUIDE), *map(str, words)]), result)


def outcome(seconds: float, metrics: Path) -> Outcome:
    found = json.loads(metrics.read_text())
    return Outcome(seconds, found["accuracy"], found["loss"])


def timed(command: list[str]) -> float:
    """Wall seconds of a whole process; ends the benchmark if it fails."""
    began = time.monotonic()
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"{' '.join(command)} failed:\n{done.stderr}")
    return time.monotonic() - began


def link_split(data: Bucket, photos: Path, folder: Path) -> None:
    """Links to the original photos as folder/<split>/<class>/, split as the data set is."""
    for split in SPLITS:
        for label in CLASSES:
            (folder / split / label).mkdir(parents=True)
        for path in (data.local(name) for name in data.list(f"{split}-")):
            content = path.read_bytes()
            with open(path, "rb") as file:
                index = record_index(file)
            for offset, length in index.tolist():
                features = decode_example(content[offset : offset + length])
                name, label = (features[key].decode() for key in ("image/filename", "image/class/text"))  # type: ignore[union-attr]
                (folder / split / label / Path(name).name).symlink_to(photos / name)


if __name__ == "__main__":
    main()
