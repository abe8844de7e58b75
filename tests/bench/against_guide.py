"""The job against Keras' guide on one machine: same photos, split, backbone, side and epochs; in turn, A B A B.

Usage: python -m tests.bench.against_guide PHOTOS [--rounds 3] [--pairs 1 2 3 4]
All are whole processes, from the start of Python to the test accuracy; where it says so, what is compared is the phase
that trains the head, from the end of its first step (of the guide's first batch) to its last validation. The guide's
fine-tuning trains the whole network; catdog meets it with as many epochs of the last two blocks. `catdog prepare`, done
once for a data set, is timed apart: the guide decodes the original photos within its own time. Ratios are what to look at,
each of two runs next to each other: both meet the same noise of the machine. One run of each goes before, untimed.
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

PHASES = (
    {"name": "frozen", "learning_rate": 1e-3},
    {"name": "blocks", "learning_rate": 3e-5, "unfreeze": 2},
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
    side: int
    epochs: tuple[int, ...]
    of_head: bool = False
    """Whether the time of the phase that trains the head is compared, not that of the processes."""


PAIRS = (
    Pair("3 + 3 epochs at the recipe's side", "fine-tuning", 160, (3, 3)),
    Pair("the head from stored features, 3 epochs", "feature-extraction", 96, (3,), of_head=True),
    Pair("the head, 10 epochs", "fine-tuning", 96, (10,), of_head=True),
    Pair("20 + 10 epochs, the guide's own", "fine-tuning", 96, (20, 10)),
)


@dataclass(frozen=True)
class Outcome:
    """Wall seconds of a whole process, and of the phase that trains the head; what the model came to on the test split."""

    process: float
    head: float
    accuracy: float
    loss: float

    def __str__(self) -> str:
        told = f"test accuracy {self.accuracy:.4f}, loss {self.loss:.4f}"
        return f"{self.process:.1f} s, of them {self.head:.1f} s the head's, {told}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("photos", type=Path)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--pairs", type=int, nargs="+", default=[1, 2, 3, 4], choices=(1, 2, 3, 4))
    arguments = parser.parse_args()
    pairs = [PAIRS[number - 1] for number in arguments.pairs]
    with tempfile.TemporaryDirectory() as text:
        folder = Path(text)
        data = open_bucket(str(folder / "data"))
        command = [sys.executable, "-m", "catdog", "prepare", f"folder:{arguments.photos}", data.uri, "--test", "0.3"]
        prepared = timed(command)
        print(f"catdog prepare: {prepared:.1f} s, once for the data set", flush=True)
        link_split(data, arguments.photos.resolve(), folder / "split")
        short = Pair("untimed", "fine-tuning", 96, (1,))
        catdog(short, data, folder / "untimed", 0)
        guide(short, folder / "split", folder / "untimed.json", 0)
        for number, pair in enumerate(pairs):
            rounds = []
            for seed in range(arguments.rounds):
                ours = catdog(pair, data, folder / f"{number}-{seed}", seed)
                print(f"{pair.name}, catdog train: {ours}", flush=True)
                guides = guide(pair, folder / "split", folder / f"{number}-{seed}.json", seed)
                print(f"{pair.name}, guide's {pair.workflow}: {guides}", flush=True)
                rounds.append((ours, guides))
            tell(pair, rounds, prepared)


def tell(pair: Pair, rounds: Sequence[tuple[Outcome, Outcome]], prepared: float) -> None:
    """Print how many times as fast catdog is, and how much more often it is right."""
    if pair.of_head:
        told = {"phase": [guides.head / ours.head for ours, guides in rounds]}
    else:
        told = {
            "train": [guides.process / ours.process for ours, guides in rounds],
            "prepare and train": [guides.process / (prepared + ours.process) for ours, guides in rounds],
        }
    for name, ratios in told.items():
        print(
            f"{pair.name} at {pair.side} px, {name}: {statistics.median(ratios):.2f}{spread(ratios, '.2f')} times as fast"
        )
    for name, side in zip(("catdog", "guide"), zip(*rounds, strict=True), strict=True):
        accuracies = [outcome.accuracy for outcome in side]
        print(f"{pair.name}, test accuracy, {name}: {statistics.mean(accuracies):.4f}{spread(accuracies, '.4f')}")
    points = [100 * (ours.accuracy - guides.accuracy) for ours, guides in rounds]
    print(
        f"{pair.name}, test accuracy, catdog - guide: {statistics.mean(points):+.2f}{spread(points, '+.2f')} points",
        flush=True,
    )


def spread(values: Sequence[float], form: str) -> str:
    """The least and the most."""
    return f" ({min(values):{form}} to {max(values):{form}})"


def catdog(pair: Pair, data: Bucket, run: Path, seed: int) -> Outcome:
    """Train the first phases, as many as the pair has, with an empty cache."""
    recipe = tomllib.loads(RECIPE.read_text())
    recipe["phases"] = [phase | {"epochs": epochs} for phase, epochs in zip(PHASES, pair.epochs, strict=False)]
    path = run.with_suffix(".toml")
    path.write_text(tomli_w.dumps(recipe))
    settings = {"data.uri": data.uri, "data.side": pair.side, "run.seed": seed, "run.log_every": 1}
    settings["cache.folder"] = run.with_suffix(".cache")
    options = [word for name, value in settings.items() for word in (f"--{name}", str(value))]
    seconds = timed([sys.executable, "-m", "catdog", "train", str(path), "--run", str(run), *options])
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    times = [line["time"] for line in lines if line["phase"] == "frozen"]
    found = json.loads((run / "evaluation/test/metrics.json").read_text())
    return Outcome(seconds, times[-1] - times[0], found["accuracy"], found["loss"])


def guide(pair: Pair, split: Path, result: Path, seed: int) -> Outcome:
    words = (pair.workflow, split, WEIGHTS, pair.side, seed, result, *pair.epochs)
    seconds = timed([sys.executable, str(GUIDE), *map(str, words)])
    found = json.loads(result.read_text())
    return Outcome(seconds, found["head"], found["accuracy"], found["loss"])


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
