"""Runs as training leaves them, but small and made without TensorFlow."""

import json
from collections.abc import Sequence

import numpy as np

from catdog.recipe import Data, Recipe, to_table, to_toml
from catdog.runs.folder import Position
from catdog.storage import Bucket
from catdog.training.checkpoint import Checkpoints

RECIPE = Recipe(data=Data(side=64))


def begin(run: Bucket, recipe: Recipe = RECIPE) -> None:
    run.write("recipe.toml", to_toml(recipe).encode())


def train(run: Bucket, checkpoints: Sequence[tuple[int, int | None]], manifest: str = "manifest") -> None:
    """Begin a run, and save checkpoints of (step, best step), which all stay; the loss falls from step to step."""
    begin(run)
    with Checkpoints(run, keep=99) as saved:
        for step, best in checkpoints:
            lines = [{"step": s, "split": "val", "loss": 1 / s, "accuracy": s / 100} for s in range(1, step + 1)]
            arrays = {"model/0000": np.random.default_rng(step).random(30_000 + step), "step": np.int64(step)}
            beside = {"metrics.jsonl": "".join(json.dumps(line) + "\n" for line in lines).encode()}
            beside["tensorboard/events.out.tfevents"] = b"events" * step
            saved.save(Position(step, step, 0.5, best, {"loss": 1.0}, manifest, to_table(RECIPE)), arrays, beside)
            saved.wait()


def finish(run: Bucket, manifest: str = "manifest") -> None:
    """Write what the end of the training and the evaluation leave."""
    run.write("model.keras", np.random.default_rng(0).bytes(200_000))
    run.write("evaluation/test/roc.png", b"picture")
    run.write("evaluation/test/metrics.json", f'{{"accuracy": 0.875, "data": {{"digest": "{manifest}"}}}}'.encode())
    run.write("report.html", b"<html>")


def delete_checkpoint(run: Bucket, step: int) -> None:
    """As the retention of a run in training does it."""
    run.delete(f"checkpoints/step-{step:08d}/COMMITTED.json")
    run.delete(f"checkpoints/step-{step:08d}/state.npz")
