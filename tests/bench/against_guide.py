"""The whole job against Keras' guide in one run: same photos, split, backbone, side and epochs; in turn, A B A B.

Usage: python -m tests.bench.against_guide PHOTOS [--rounds 2]
Both are whole processes, from the start of Python to the test accuracy. `catdog prepare`, done once for a data set, is
timed apart, and the ratio is given without and with it: the guide decodes the original photos within its own time.
Ratios are what to look at: both sides meet the same noise of the machine.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from catdog.data.example import decode_example
from catdog.data.shards import CLASSES, SPLITS
from catdog.data.tfrecord import record_index
from catdog.storage import Bucket, open_bucket

SIDE, FROZEN, FINE_TUNE = 96, 3, 2
RECIPE = Path(__file__).parents[2] / "job" / "recipes" / "photos.toml"
WEIGHTS = Path(__file__).parents[2] / "catdog" / "weights" / "efficientnetb0-photos96.float16.weights.h5"
GUIDE = Path(__file__).parent / "keras_guide.py"

Outcome = tuple[float, dict[str, float]]
"""Wall seconds of a whole job, and its metrics on the test split."""


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
        ours, guides = [], []
        for number in range(arguments.rounds):
            ours.append(catdog(data, folder / f"run-{number}", number))
            report("catdog train", ours[-1])
            guides.append(guide(folder / "split", number))
            report("Keras' guide", guides[-1])
    seconds = [(a[0], b[0]) for a, b in zip(ours, guides, strict=True)]
    mean = [sum(result["accuracy"] for _, result in side) / len(side) for side in (ours, guides)]
    for name, before in (("train", 0.0), ("prepare and train", prepared)):
        ratios = ", ".join(f"{ratio:.2f}" for ratio in sorted((before + a) / b for a, b in seconds))
        print(f"time, catdog {name} / guide: {ratios}")
    print(f"test accuracy, catdog - guide: {100 * (mean[0] - mean[1]):+.2f} points ({mean[0]:.4f} - {mean[1]:.4f})")


def catdog(data: Bucket, run: Path, seed: int) -> Outcome:
    settings = {
        "data.uri": data.uri,
        "data.side": SIDE,
        "run.seed": seed,
        "phases.0.epochs": FROZEN,
        "phases.1.epochs": FINE_TUNE,
    }
    options = [word for name, value in settings.items() for word in (f"--{name}", str(value))]
    command = [sys.executable, "-m", "catdog", "train", str(RECIPE), "--run", str(run), *options]
    return timed(command), json.loads((run / "evaluation/test/metrics.json").read_text())


def guide(split: Path, seed: int) -> Outcome:
    result = split.parent / f"guide-{seed}.json"
    words = (split, WEIGHTS, SIDE, FROZEN, FINE_TUNE, seed, result)
    return timed([sys.executable, str(GUIDE), *map(str, words)]), json.loads(result.read_text())


def timed(command: list[str]) -> float:
    """Wall seconds of a whole process; ends the benchmark if it fails."""
    began = time.monotonic()
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"{' '.join(command)} failed:\n{done.stderr}")
    return time.monotonic() - began


def report(name: str, outcome: Outcome) -> None:
    seconds, metrics = outcome
    print(f"{name}: {seconds:.1f} s, test accuracy {metrics['accuracy']:.4f}, loss {metrics['loss']:.4f}", flush=True)


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
