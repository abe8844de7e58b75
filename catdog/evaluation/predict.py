"""Classify picture files with a run's model, the way evaluation sees them."""

import warnings
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
import tensorflow as tf

from catdog.data import images
from catdog.data.confined import Starved, require_machine
from catdog.data.options import PrepareOptions
from catdog.data.pipeline import decode_whole
from catdog.data.process_pool import cores
from catdog.data.shards import CLASSES
from catdog.data.sources import File
from catdog.evaluation.metrics import predicted
from catdog.evaluation.trained_model import BATCH, Trained, load_trained
from catdog.storage import Bucket


@dataclass(frozen=True)
class Prediction:
    """One file's class ("cat" or "dog") with its probability in 0.5..1, or else why it has none."""

    path: Path
    predicted: str | None
    probability: float | None
    error: str | None = None


def predict(run: Bucket, paths: Sequence[Path]) -> Iterator[Prediction]:
    """Classify files, and all files in folders and their subfolders, in order; hidden files in folders are passed over.

    One prediction for each file, also for one that is missing or no picture. Files are read as predictions are
    taken, a batch at a time, so that any number of them fits in memory. A picture goes the way of `catdog prepare`,
    so it gets the very probability that evaluation gives it in a data set prepared with the default side.
    Raises CallerError for a run without a model, before the first prediction is taken.
    """
    return _predictions(load_trained(run), paths)


def _predictions(trained: Trained, paths: Sequence[Path]) -> Iterator[Prediction]:
    side = trained.recipe.data.side
    files = (found for path in paths for found in _files(path))
    with ThreadPoolExecutor(cores()) as pool:  # a large picture takes much memory
        while batch := list(islice(files, BATCH)):
            with (
                warnings.catch_warnings()
            ):  # decoding changes the filters for a while, which threads cannot do by turns
                loaded = list(pool.map(lambda found: found[1] or _load(found[0], side), batch))
            pictures = [image for image in loaded if not isinstance(image, str)]
            probabilities: Iterator[float] = iter(trained.probabilities(np.stack(pictures)) if pictures else ())
            for (path, _), image in zip(batch, loaded, strict=True):
                if isinstance(image, str):
                    yield Prediction(path, None, None, image)
                else:
                    dog = float(next(probabilities))
                    choice = int(predicted(np.array(dog)))
                    yield Prediction(path, CLASSES[choice], dog if choice else 1 - dog)


def _files(root: Path) -> Iterator[tuple[Path, str]]:
    """Each file at or under a path with an empty text, or a path with the reason why nothing can be read there."""
    waiting: list[tuple[Path, frozenset[tuple[int, int]]]] = [(root, frozenset())]  # each with the folders it lies in
    while waiting:  # no call for each folder in a folder: Python allows a thousand, and a path may be deeper
        path, above = waiting.pop()
        try:
            if not path.is_dir():
                yield path, "" if path.is_file() else "no file" if path.exists() else "no such file or folder"
                continue
            status = path.stat()
            if (own := (status.st_dev, status.st_ino)) in above:
                continue  # a link back to a folder that this one lies in
            entries = sorted(entry for entry in path.iterdir() if not entry.name.startswith("."))
        except OSError as error:
            yield path, error.strerror or str(error)
            continue
        if not entries:
            yield path, "the folder is empty"
        inside = above | {own}
        waiting += [(entry, inside) for entry in reversed(entries)]


def _load(path: Path, side: int) -> np.ndarray | str:
    """The picture, uint8 [side, side, 3], or why there is none."""
    stored_side = max(PrepareOptions.side, side)
    try:
        stored, _, _ = images.encode(images.decode(File(path).read(), stored_side), stored_side)
    except images.Unreadable as error:
        return str(error)
    except (OSError, Starved) as error:
        require_machine(error, str(path))
        return getattr(error, "strerror", None) or str(error)
    with tf.device("CPU"):  # as evaluation decodes: a GPU resizes with other last digits
        return decode_whole(tf.constant(stored), side).numpy()
