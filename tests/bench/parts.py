"""The parts of the job against what they could be at best.

Usage: python -m tests.bench.parts PHOTOS [--rounds 3] [--parts step reading stored growth checkpoint]
  step        a step that trains all, with its augmentation, on a batch in memory: a bare compiled step's time over ours
  reading     pictures a second of the pipeline, over a bare parallel decode of the same windows from memory
  stored      first epoch of a frozen phase, from the end of its first step to the last: on pictures, over stored outputs
  growth      seconds a picture of prepare and of an epoch, and peak memory, at ten times the pictures over at 2,600
  checkpoint  milliseconds that a save of all weights, with the optimizer's slots, holds the loop
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np

from catdog.command.quiet_tensorflow import import_tensorflow
from catdog.data import drawn_pictures
from catdog.data.prepare import prepare
from catdog.data.shards import load_manifest
from catdog.recipe import Data, Phase, Recipe
from catdog.storage import Bucket, open_bucket

SIDE, BATCH, STREAMS = 96, 64, 16
FEW = 2_600
MEASURED = """
import resource, subprocess, sys
code = subprocess.call(sys.argv[1:], stdout=subprocess.DEVNULL)
print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)
sys.exit(code)
"""
"""A small process between: a child begins with the peak memory of the one that starts it."""
STEPS = 4


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("photos", type=Path)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--parts", nargs="+", default=list(PARTS), choices=list(PARTS))
    arguments = parser.parse_args()
    import_tensorflow()
    with tempfile.TemporaryDirectory() as text:
        data = open_bucket(f"{text}/data")
        prepare(f"folder:{arguments.photos}", data)
        for part in arguments.parts:
            for line in PARTS[part](data, Path(text), arguments.rounds):
                print(line, flush=True)


def step(data: Bucket, folder: Path, rounds: int) -> Iterator[str]:
    import tensorflow as tf

    from catdog.model import build, unfreeze
    from catdog.training.timing import TimedStep
    from tests.gpu.bare import bare_step

    phase = Phase("all", unfreeze="all")
    ours = TimedStep(Recipe(data=Data(side=SIDE, global_batch=BATCH, streams=STREAMS)), phase, "float32")
    batch = ours.batch(BATCH)
    model = build(Recipe().model, SIDE)
    unfreeze(model, "all")
    bare = bare_step(model, tf.cast(batch["image"], tf.float32), batch["label"][:, None])
    seconds = alternating(
        lambda: bare().numpy(), lambda: ours.take(batch, 0.0, 0, False)["loss"].numpy(), STEPS, 3 * rounds
    )
    yield f"step of all at {SIDE} px, bare / ours: {ratios(seconds)}"


def reading(data: Bucket, folder: Path, rounds: int) -> Iterator[str]:
    for side in (SIDE, 224):
        yield decoding(data, side, rounds)


def decoding(data: Bucket, side: int, rounds: int) -> str:
    import tensorflow as tf

    from catdog.data.augment import crop_window, draws
    from catdog.data.cache import open_cache
    from catdog.data.order import Order
    from catdog.data.pipeline import _FEATURES, _decode, train_dataset
    from catdog.data.process_pool import cores
    from catdog.data.records import Records

    shards = load_manifest(data).split("train")
    recipe = Recipe(data=Data(side=side, global_batch=BATCH, streams=STREAMS))
    order = Order(tuple(shard.examples for shard in shards), STREAMS, BATCH, 0)
    with open_cache(data, {}, recipe.cache) as cache:
        records, steps = Records(shards, cache), order.steps_per_epoch
        examples = np.concatenate([batch.example for batch in order.batches(0, steps)])
        with records.reading() as reader:
            stored = tf.io.parse_example(tf.constant(reader.read(examples.tolist())), _FEATURES)
        numbers = tf.constant(draws(0, 0, examples))
        sizes = zip(stored["image/height"], stored["image/width"], numbers, strict=True)
        windows = tf.stack([crop_window(*each, recipe.augment.min_area) for each in sizes])
        memory = tf.data.Dataset.from_tensor_slices((stored["image/encoded"], windows))
        options = tf.data.Options()
        options.autotune.enabled = False
        bare = memory.map(lambda jpeg, window: _decode(jpeg, window, side), num_parallel_calls=cores())
        bare = bare.batch(BATCH).prefetch(2).with_options(options)
        ours = train_dataset(order, records, recipe, start=0, stop=steps)
        seconds = alternating(lambda: exhaust(bare), lambda: exhaust(ours), 1, 3 * rounds)
    rate = len(examples) / statistics.median(second for _, second in seconds)
    return f"reading and decoding at {side} px, {rate:.0f} pictures/s, over a bare decode: {ratios(seconds)}"


def exhaust(batches: Iterable[object]) -> None:
    deque(batches, maxlen=0)


def stored(data: Bucket, folder: Path, rounds: int) -> Iterator[str]:
    seconds = []
    for number in range(rounds):
        seconds.append(tuple(trained(data, folder / f"stored-{number}-{views}", 160, views)[0] for views in (0, 1)))
    yield f"first epoch at 160 px, on pictures / with stored outputs: {ratios(seconds)}"


def growth(data: Bucket, folder: Path, rounds: int) -> Iterator[str]:
    found: dict[int, list[tuple[float, ...]]] = {FEW: [], 10 * FEW: []}
    for number in range(10 * FEW):
        place = folder / "drawn" / ("cat", "dog")[number % 2] / f"{number}.jpg"
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(drawn_pictures.draw(0, number)[0])
    for number in range(FEW):
        name = f"{('cat', 'dog')[number % 2]}/{number}.jpg"
        (folder / "few" / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / "few" / name).symlink_to(folder / "drawn" / name)
    for turn in range(2 * rounds + 1):  # few, many, few, ...
        count, source = ((FEW, "few"), (10 * FEW, "drawn"))[turn % 2]
        into = folder / f"growth-{turn}"
        prepared, memory = timed([sys.executable, "-m", "catdog", "prepare", f"folder:{folder / source}", str(into)])
        epoch, also = trained(open_bucket(str(into)), folder / f"growth-run-{turn}", 64, 1)
        examples = sum(shard.examples for shard in load_manifest(open_bucket(str(into))).split("train"))
        found[count].append((prepared / count, epoch / examples, memory, also))
    few, many = ([statistics.median(column) for column in zip(*found[count], strict=True)] for count in found)
    names = "prepare's seconds", "an epoch's seconds", "prepare's peak memory", "training's peak memory"
    for name, a, b in zip(names, few, many, strict=True):
        each = " a picture" if name.endswith("seconds") else ""
        yield f"{name}{each} at {10 * FEW:,} pictures over at {FEW:,}: {b / a:.2f} ({b:.4g} over {a:.4g})"


def checkpoint(data: Bucket, folder: Path, rounds: int) -> Iterator[str]:
    from catdog.runs.folder import Position
    from catdog.training.checkpoint import Checkpoints
    from catdog.training.timing import TimedStep

    timed_step = TimedStep(
        Recipe(data=Data(side=SIDE, global_batch=BATCH, streams=STREAMS)), Phase("all", unfreeze="all"), "float32"
    )
    held = []
    with Checkpoints(open_bucket(str(folder / "saved")), keep=2) as checkpoints:
        for number in range(1, 4 * rounds):
            began = time.perf_counter()
            position = Position(number, number, best_loss=None, best_step=None, window={}, manifest="")
            checkpoints.save(position, timed_step.state.snapshot(), {})
            held.append(1000 * (time.perf_counter() - began))
            checkpoints.wait()
    yield f"a save holds the loop for {statistics.median(held):.0f} ms ({min(held):.0f} to {max(held):.0f})"


def trained(data: Bucket, run: Path, side: int, views: int) -> tuple[float, float]:
    """Seconds of an epoch of the head from the end of its first step to that of its last, and peak memory in bytes."""
    recipe = run.with_suffix(".toml")
    recipe.write_text(
        f'[data]\nuri = "{data.uri}"\nside = {side}\n[cache]\nfolder = "{run}.cache"\n[run]\nlog_every = 1\n'
        f'[[phases]]\nname = "frozen"\nepochs = 1\nviews = {views}\n'
    )
    _, memory = timed([sys.executable, "-m", "catdog", "train", str(recipe), "--run", str(run)])
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    times = [line["time"] for line in lines if line["split"] == "train"]  # validation is traced on pictures alone
    return times[-1] - times[0], memory


def timed(words: Sequence[str]) -> tuple[float, float]:
    """Wall seconds of a command, and the most memory that one of its processes took, in bytes; ends the benchmark if it fails."""
    began = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", MEASURED, *words], capture_output=True, text=True, check=False
    )
    if done.returncode:
        sys.exit(f"{' '.join(words)} failed:\n{done.stderr}")
    return time.monotonic() - began, float(done.stdout) * 1024


def alternating(
    bare: Callable[[], object], ours: Callable[[], object], calls: int, rounds: int
) -> list[tuple[float, float]]:
    """Seconds of so many calls of the one and of the other, in turn, after one untimed round."""
    found = []
    for number in range(rounds + 1):
        pair = []
        for call in (bare, ours):
            began = time.perf_counter()
            for _ in range(calls):
                call()
            pair.append(time.perf_counter() - began)
        if number:
            found.append((pair[0], pair[1]))
    return found


def ratios(seconds: Sequence[tuple[float, ...]]) -> str:
    """Of the first over the second, median and range."""
    found = [first / second for first, second in seconds]
    return f"{statistics.median(found):.3f} ({min(found):.3f} to {max(found):.3f})"


PARTS = {"step": step, "reading": reading, "stored": stored, "growth": growth, "checkpoint": checkpoint}

if __name__ == "__main__":
    main()
