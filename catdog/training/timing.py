"""A training step of a recipe, timed on made-up pictures."""

import time

import numpy as np
import tensorflow as tf

from catdog.data.augment import DRAWS
from catdog.model import Cut, build, make_stateless, unfreeze
from catdog.recipe import Phase, Recipe
from catdog.training.state import TrainingState
from catdog.training.step import Batch, StepSettings, TakeStep, make_train_step


class TimedStep:
    """The step of a phase on this process's first device, under a Keras dtype policy."""

    def __init__(self, recipe: Recipe, phase: Phase, policy: str, *, stored: bool = False, xla: bool = False) -> None:
        """With `stored` the step takes the outputs of what the phase has frozen, in place of pictures."""
        self._recipe, scratch = recipe, recipe.model.from_scratch
        self.model = build(recipe.model, recipe.data.side, precision=policy)
        unfreeze(self.model, phase.unfreeze, batch_norm=scratch)
        if scratch:
            make_stateless(self.model, synchronize=False)
        self.state = TrainingState(self.model, recipe, policy)
        self.state.start_phase()
        self.cut = Cut(self.model, phase.unfreeze) if stored else None
        settings = StepSettings(recipe, scratch, cut=self.cut, xla=xla)
        self.take: TakeStep = make_train_step(tf.distribute.get_strategy(), self.state, settings)

    @property
    def gradients(self) -> int:
        """Bytes of the gradients."""
        return sum(4 * variable.value.shape.num_elements() for variable in self.model.trainable_variables)

    def seconds(self, rows: int) -> tuple[float, float]:
        """Of the first step of so many rows, which is traced, and of the fastest of five more."""
        batch = self.batch(rows)

        def timed(number: int) -> float:
            began = time.perf_counter()
            self.take(batch, 0.0, number, False)["loss"].numpy()
            return time.perf_counter() - began

        return timed(0), min(timed(number) for number in range(1, 6))

    def batch(self, rows: int) -> Batch:
        """So many made-up pictures, or outputs."""
        random, side = np.random.default_rng(0), self._recipe.data.side
        given = (
            {"image": tf.constant(random.integers(0, 256, (rows, side, side, 3), np.uint8))}
            if self.cut is None
            else {"outputs": tf.constant(random.random((rows, *self.cut.shape), np.float32).astype(np.float16))}
        )
        return given | {
            "draws": tf.constant(random.random((rows, DRAWS), np.float32)),
            "label": tf.constant(np.arange(rows) % 2, tf.float32),
            "weight": tf.ones(rows),
            "row": tf.range(rows),
        }
