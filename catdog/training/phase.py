"""A phase under way: its compiled step, what its steps and validations are given, and how much of the model runs in them."""

import contextlib
from collections.abc import Iterator

import numpy as np
import tensorflow as tf

from catdog.data.order import Share, evaluation_rows, replica_rows
from catdog.data.pipeline import evaluation_dataset, surfaced, train_dataset
from catdog.data.shards import CLASSES
from catdog.model import Cut, unfreeze
from catdog.recipe import stores
from catdog.training.frozen_part import FrozenPart
from catdog.training.profiler import Profiler
from catdog.training.running_metrics import RunningMetrics
from catdog.training.schedule import Span
from catdog.training.screen import say
from catdog.training.start import Start
from catdog.training.state import TrainingState
from catdog.training.step import Batch, Outcome, Predict, StepSettings, TakeStep, make_predict_step, make_train_step
from catdog.training.stored_outputs import StoredOutputs, disk_for, stored_bytes
from catdog.training.strategy import compiles, distributed
from catdog.training.validation import Validate, make_validation


class Phase:
    """A phase from a step on: of pictures, or of the stored outputs of what it has frozen."""

    def __init__(
        self,
        start: Start,
        state: TrainingState,
        predict: Predict,
        span: Span,
        step: int,
        window: RunningMetrics,
        profiler: Profiler,
    ) -> None:
        """`predict` is that of pictures, of which all phases have the same."""
        profiler.start_phase(span.phase.name)
        recipe, strategy = start.recipe, start.strategy
        unfreeze(state.model, span.phase.unfreeze, batch_norm=recipe.model.from_scratch)
        with strategy.scope():
            state.start_phase()
            cut = Cut(state.model, span.phase.unfreeze) if stores(recipe, span.phase) else None
        counts = [start.manifest.per_class("train")[name] for name in CLASSES]
        cat, dog = (sum(counts) / (len(counts) * count) for count in counts)
        xla = compiles(recipe, len(tf.config.get_visible_devices("GPU")))
        settings = StepSettings(recipe, recipe.model.from_scratch, (cat, dog), cut, xla)
        self.span, self._profiler = span, profiler
        self._take_step: TakeStep = make_train_step(strategy, state, settings)
        if cut is None:
            self._batches = _pictures(start, span, step, window)
            batches = lambda: _whole_pictures(start)  # noqa: E731
        else:
            source = _Outputs(start, span, cut)
            self._batches = source.train(step, window)
            batches, predict = source.val, make_predict_step(strategy, state.model, cut)
        labels = start.val.labels.astype(np.float64)
        self.validate: Validate = make_validation(labels, batches, predict)

    def step(self, step: int, stopping: bool) -> Outcome:
        """Take the step that comes after so many, and tell the others whether this worker was asked to stop."""
        profiler = self._profiler
        with profiler.step(step):
            with profiler.spent("data"):
                batch = next(self._batches)
            with profiler.spent("host"):
                outcome = self._take_step(batch, self.span.learning_rate(step), step, stopping)
            profiler.done(outcome["loss"])
        return outcome


def _pictures(start: Start, span: Span, step: int, window: RunningMetrics) -> Iterator[Batch]:
    def dataset(share: Share) -> tf.data.Dataset:
        return train_dataset(start.order, start.train, start.recipe, start=step, stop=span.stop, share=share)

    batches: Iterator[Batch] = surfaced(distributed(start.strategy, dataset), start.train)
    while True:
        with window.waiting():
            batch = next(batches, None)
        if batch is None:
            return
        yield batch


def _whole_pictures(start: Start) -> Iterator[Batch]:
    def dataset(share: Share) -> tf.data.Dataset:
        return evaluation_dataset(start.val, start.recipe.data.side, start.recipe.data.global_batch, share)

    return surfaced(distributed(start.strategy, dataset), start.val)


class _Outputs:
    """Batches of the outputs of what a phase has frozen, for the replicas of this process."""

    def __init__(self, start: Start, span: Span, cut: Cut) -> None:
        self._start, self._span = start, span
        group, recipe = start.group, start.recipe
        self._share = Share(group.worker, group.workers, group.strategy.num_replicas_in_sync // group.workers)
        part = FrozenPart(group.strategy, self._share.replicas, cut, recipe)
        of_splits = ((start.train, span.phase.views), (start.val, 1))
        size = sum(stored_bytes(part, records, self._share, views) for records, views in of_splits)
        disk = disk_for(recipe, size)
        if disk is None and group.chief:
            say(
                f"{span.phase.name}: the stored outputs of {cut.name}, {size:,} bytes, have no room in the cache:"
                " they are computed anew for each step"
            )
        self._train, self._val = (
            StoredOutputs(part, records, recipe, self._share, disk) for records in (start.train, start.val)
        )

    def train(self, step: int, window: RunningMetrics) -> Iterator[Batch]:
        order, recipe, stop = self._start.order, self._start.recipe, self._span.stop
        table = replica_rows(recipe.data.streams, recipe.data.global_batch, self._share)
        labels = self._start.train.labels
        while step < stop:
            epoch = step // order.steps_per_epoch
            end = min((epoch + 1) * order.steps_per_epoch, stop)
            steps = [np.where(table >= 0, batch.example[table], -1) for batch in order.batches(step, end)]
            outputs = self._train.of(
                [each.reshape(-1) for each in steps], epoch % self._span.phase.views, window.waiting
            )
            for found, example in zip(outputs, steps, strict=True):
                real = example >= 0
                yield self._on_replicas(
                    {
                        "outputs": found.reshape(*table.shape, *found.shape[1:]),
                        "label": np.where(real, labels[example], 0).astype(np.float32),
                        "weight": real.astype(np.float32),
                        "row": table.astype(np.int32),
                        "example": example,
                    }
                )
            step = end

    def val(self) -> Iterator[Batch]:
        table = evaluation_rows(self._start.val.sizes, self._start.recipe.data.global_batch, self._share)
        outputs = self._val.of(list(table.reshape(len(table), -1)), None, contextlib.nullcontext)
        for found, example in zip(outputs, table, strict=True):
            yield self._on_replicas({"outputs": found.reshape(*example.shape, *found.shape[1:]), "example": example})

    def _on_replicas(self, batch: dict[str, np.ndarray]) -> Batch:
        """The batch, of which each array has a row for each replica of this process, on the replicas."""
        if self._share.replicas == 1 and self._share.workers == 1:
            return {name: tf.constant(array[0]) for name, array in batch.items()}
        first = self._share.worker * self._share.replicas

        def of(array: np.ndarray) -> tf.Tensor:
            return self._start.strategy.experimental_distribute_values_from_function(
                lambda context: tf.constant(array[context.replica_id_in_sync_group - first])
            )

        return {name: of(array) for name, array in batch.items()}
