"""The frozen lower part of a model, as a forward pass whose rows depend on nothing but themselves."""

import functools
import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from catdog import __version__
from catdog.data.augment import DRAWS, augment
from catdog.data.process_pool import cores
from catdog.data.shards import Shard
from catdog.errors import FinalError
from catdog.evaluation.environment import device_name
from catdog.model import Cut, digest
from catdog.recipe import Recipe

VERSION = 1
"""To be raised with any change of what is computed of a record's picture: of decoding, cropping, augmentation."""

# Pictures in one pass of the model, the first number that gives a picture the same bits in any place of a pass. On a CPU
# more of them are no faster, and Eigen's kernels treat some of more than four otherwise on some machines.
_ON_CPU, _ON_GPU = (32, 4, 1), (64, 8, 1)
_PASSES = 2
"""Passes that a CPU makes at once."""

Halves = np.ndarray[tuple[int, ...], np.dtype[np.float16]]


class FrozenPart:
    """What of a model lies below its cut, on the replicas of this process."""

    def __init__(self, strategy: tf.distribute.Strategy, replicas: int, cut: Cut, recipe: Recipe) -> None:
        self._strategy, self._cut, self._recipe = strategy, cut, recipe
        self._replicas = replicas
        on_gpu = bool(tf.config.get_visible_devices("GPU"))
        sizes = _ON_GPU if on_gpu else _ON_CPU
        for self._size in sizes:
            self.rows = self._replicas * self._size * (1 if on_gpu else _PASSES)
            """Pictures that `outputs` takes."""
            self._passes = self._compiled(self._size)
            if self._size == 1 or self._is_alike_in_any_place():
                break

    @property
    def shape(self) -> tuple[int, ...]:
        """Of one picture's outputs."""
        return self._cut.shape

    @functools.cached_property
    def _weights(self) -> str:
        """Digest of those below the cut, which from the first step of the phase on stay what they are."""
        return digest(self._cut.below.weights)

    def digests(self, shards: Sequence[Shard], view: int | None) -> list[str]:
        """For each shard 32 hexadecimal digits of all that the outputs of its records depend on, in a view or whole."""
        recipe = self._recipe
        common = [
            *(
                self._weights,
                recipe.model.backbone,
                self._cut.name,
                recipe.data.side,
                recipe.run.precision,
            ),
            None if view is None else [asdict(recipe.augment), recipe.run.seed, view],
            *(device_name(), self._size, VERSION, __version__, keras.__version__, tf.__version__),
        ]
        return [
            hashlib.sha256(json.dumps([*common, shard.name, shard.bytes, shard.crc32c]).encode()).hexdigest()[:32]
            for shard in shards
        ]

    def outputs(self, images: tf.Tensor, draws: tf.Tensor, *, varied: bool) -> Halves:
        """Float16 [rows, ...] of images uint8 [rows, side, side, 3], as they are or varied by draws float32 [rows, DRAWS].

        Raises FinalError for an output that float16 cannot hold.
        """
        found = self._on_replicas(images, draws, varied)
        if not np.isfinite(found).all():
            raise FinalError(
                f"{self._cut.name} of {self._recipe.model.backbone} has outputs that float16 cannot hold, or none;"
                " set phases.N.views = 0"
            )
        return found

    def _on_replicas(self, images: tf.Tensor, draws: tf.Tensor, varied: bool) -> Halves:
        if self._replicas == 1:
            return np.asarray(self._passes(images, draws, tf.constant(varied)))
        share = len(images) // self._replicas

        def of(tensor: tf.Tensor) -> tf.Tensor:
            def own(context: tf.distribute.experimental.ValueContext) -> tf.Tensor:
                first = context.replica_id_in_sync_group % self._replicas * share
                return tensor[first : first + share]

            return self._strategy.experimental_distribute_values_from_function(own)

        results = self._passes(of(images), of(draws), tf.constant(varied))
        return np.concatenate([each.numpy() for each in self._strategy.experimental_local_results(results)])

    def _compiled(self, size: int) -> Callable[..., Any]:
        """A function of images and draws, each replica's its own, and of whether the ones are varied by the others, that gives
        their outputs, `size` pictures in a pass."""
        side, augmentation, below = self._recipe.data.side, self._recipe.augment, self._cut.below

        def passes(images: tf.Tensor, draws: tf.Tensor, varied: tf.Tensor) -> tf.Tensor:
            def one(some: tuple[tf.Tensor, tf.Tensor]) -> tf.Tensor:
                pixels, drawn = some
                whole = tf.cast(pixels, tf.float32)
                given = tf.cond(varied, lambda: augment(pixels, drawn, augmentation), lambda: whole)
                return tf.cast(below(tf.ensure_shape(given, [size, side, side, 3]), training=False), tf.float16)

            parts = tf.reshape(images, [-1, size, side, side, 3]), tf.reshape(draws, [-1, size, DRAWS])
            found = tf.map_fn(one, parts, parallel_iterations=cores(), fn_output_signature=tf.float16)
            return tf.reshape(found, [-1, *self.shape])

        return tf.function(lambda *arguments: self._strategy.run(passes, args=arguments), autograph=False)

    def _is_alike_in_any_place(self) -> bool:
        """Whether pictures get the same bits in any place of a pass."""
        random = np.random.default_rng(0)
        side, count = self._recipe.data.side, self.rows
        images = random.integers(0, 256, (count, side, side, 3), np.uint8)
        draws = random.random((count, DRAWS), np.float32)
        by = self._size // 2 + 1  # half a pass further, and from an even place to an odd one
        straight, moved = (
            self._on_replicas(tf.constant(np.roll(images, places, 0)), tf.constant(np.roll(draws, places, 0)), True)
            for places in (0, by)
        )
        return np.array_equal(moved, np.roll(straight, by, 0))
