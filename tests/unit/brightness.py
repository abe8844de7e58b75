"""A data set and a run whose model goes by brightness alone: it calls bright pictures dogs."""

import csv
import io
from dataclasses import dataclass
from pathlib import Path

import keras
import numpy as np
from PIL import Image

from catdog.storage import Bucket

LINE = '{"step": 10, "phase": "frozen", "epoch": 1, "split": "val", "loss": 0.4, "accuracy": 0.8, "time": 5.0}\n'


def draw(path: Path, seed: int, *, bright: bool, size: tuple[int, int] = (300, 280)) -> Path:
    """Blurred noise that is bright or dark as a whole."""
    noise = np.random.default_rng(seed).integers(0, 60, (9, 9, 3), np.uint8) + (170 if bright else 30)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(noise.astype(np.uint8)).resize(size, Image.Resampling.BICUBIC).save(path)
    return path


def save_model(path: Path, side: int = 96, slope: float = 2.0) -> None:
    """A model for pictures of this side; the steeper the slope, the surer it is."""
    model = keras.Sequential(
        [
            keras.Input((side, side, 3)),
            keras.layers.Rescaling(1 / 255),
            keras.layers.GlobalAveragePooling2D(),
            keras.layers.Dense(1, activation="sigmoid"),
        ]
    )
    model.layers[-1].set_weights([np.full((3, 1), slope, np.float32), np.array([-1.5 * slope], np.float32)])
    path.parent.mkdir(parents=True, exist_ok=True)
    model.save(path)


@dataclass(frozen=True)
class World:
    run: Bucket
    data: Bucket
    photos: Path


def rows(run: Bucket, split: str = "test") -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(run.read(f"evaluation/{split}/predictions.csv").decode())))
