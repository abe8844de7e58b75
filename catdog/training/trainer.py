"""The one loop: phases, steps, validation."""

import signal
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, closing
from typing import Any

import keras
import tensorflow as tf

from catdog.data.cache import Closed
from catdog.errors import FinalError, RunError, Stopped
from catdog.evaluation.evaluate import evaluate
from catdog.evaluation.export import export_keras, exportable
from catdog.evaluation.trained_model import lacks_memory, trained
from catdog.model import build, digest, make_stateless, unfreeze
from catdog.recipe import Recipe
from catdog.runs.folder import MODEL, state_name
from catdog.training.checkpoint import Arrays
from catdog.training.devices import devices
from catdog.training.phase import Phase
from catdog.training.profiler import Profiler, Told
from catdog.training.progress import Progress, Report
from catdog.training.schedule import span_after
from catdog.training.screen import say
from catdog.training.signals import StopRequest, listening
from catdog.training.start import Start, first_position, started
from catdog.training.state import TrainingState, exported_weights
from catdog.training.step import make_predict_step
from catdog.training.worker_group import StopAgreement, together

Listen = Callable[[], AbstractContextManager[StopRequest]]
"""Gives a request to stop that may be made for as long as the block lasts."""


def train(
    recipe: Recipe,
    listen: Listen = listening,
    report: Report = lambda line, committed: None,
    began: float | None = None,
    profiled: Told | None = None,
) -> dict[str, Any] | None:
    """Run the recipe from its newest checkpoint, or from the start, to its evaluation on the test split.

    Called by each of the workers that TF_CONFIG names, it trains with all of them, and the first alone writes the run.
    Every worker listens for a request to stop, by default for SIGTERM and Ctrl-C, from when the group is together until
    training is done; and calls `report` with each line of metrics, and once more with the last when all is committed.
    `began` is when the run did, of time.monotonic(), if that was before this call; the log tells how long it took to the
    first step, and from the last one. `profiled` is told, when training ends, however it does, where the time went; for
    that each step is waited for, and some are traced for TensorBoard.
    Returns what evaluation/test/metrics.json then holds, but to the other workers None. Raises CallerError for what the
    caller can mend, RunError for a run that can't go on, and Stopped once it was asked to stop and the state is
    committed.
    """
    began = time.monotonic() if began is None else began
    with started(recipe) as start:
        group = start.group
        with together(group.worker, group.workers), start.checkpoints:
            with listen() as asked:
                if group.workers == 1:
                    asked.wake = start.cache.close
                try:
                    best, model, over = _train_all(start, asked, report, began, profiled)
                except tf.errors.OpError as error:
                    if lacks_memory(error):
                        raise _no_memory(start) from error
                    raise
            if group.total(int(asked.signal is not None)):  # asked for after the last step was agreed on
                raise Stopped(asked.signal or signal.SIGTERM, start.plan[-1].stop)
        if not start.lease:
            return None
        _, arrays = start.checkpoints.restore(best)
        own = model if start.strategy.num_replicas_in_sync == 1 else None
        try:
            model = exportable(start.recipe, exported_weights(arrays), own)
        except ValueError as error:
            raise FinalError(f"{start.run.uri}/{state_name(best)}: is not the state of this run: {error}") from None
        export_keras(start.run, model)
        finished = trained(start.recipe, model, f"{start.run.uri}/{MODEL}")
        metrics = evaluate(start.run, start.data, start.manifest, start.recipe.cache, trained=finished)
        say(f"committed, exported and evaluated in {time.monotonic() - over:.1f} s")
        return metrics


def _train_all(
    start: Start, asked: StopRequest, report: Report, began: float, profiled: Told | None
) -> tuple[int, keras.Sequential, float]:
    """Train from the newest checkpoint, or from the start, to the end; the step of the best one, the model, and when the
    last step was done."""
    with start.strategy.scope():
        state = _build_state(start)
    position, arrays = first_position(start, digest(state.model.layers[0].weights))
    profiler = Profiler(start.run, profiled if start.lease else None)
    with profiler, closing(Progress(start, state, position, report, began)) as progress:
        _loop(start, state, progress, arrays, asked, profiler)
        over = time.monotonic()
        with profiler.spent("checkpoint"):
            return progress.finish(), state.model, over


def _no_memory(start: Start) -> RunError:
    recipe, replicas = start.recipe, start.strategy.num_replicas_in_sync
    side, batch = recipe.data.side, recipe.data.global_batch
    return RunError(
        f"no memory is left on {devices(replicas // start.group.workers)} for a global batch of {batch} pictures of"
        f" {side} x {side} px on {replicas} replicas in {recipe.run.precision}: end what else runs there, or train on more"
        " replicas, and the run goes on; or begin another with a smaller data.global_batch or data.side"
    )


def _loop(
    start: Start,
    state: TrainingState,
    progress: Progress,
    arrays: Arrays | None,
    asked: StopRequest,
    profiler: Profiler,
) -> None:
    """Take the steps that are left of the run, from the arrays of the checkpoint that it goes on from, if there is one.

    At the top of each turn `step` steps are done. The turn validates if an epoch ends there, saves if it is time to, and
    takes the next step; so neither the end of the run nor a restart at any step needs code of its own.
    """
    # A snapshot belongs to the phase of the step that it was taken after.
    first, step = progress.position.step, max(progress.position.step - 1, 0)
    predict = make_predict_step(start.strategy, state.model)  # of pictures, in whatever phase
    phase = Phase(start, state, predict, span_after(start.plan, step), first, progress.window, profiler)
    if arrays is not None:
        try:
            state.restore(arrays)
        except ValueError as error:
            raise FinalError(f"{start.run.uri}/{state_name(first)}: is not the state of this run: {error}") from None
    agreement = StopAgreement(start.group, asked)
    total = start.plan[-1].stop
    try:
        for step in range(first, total + 1):
            if progress.validation_due(step):
                with profiler.spent("validation"), state.averaged():
                    metrics = phase.validate(agreement.reached_alone)
                if metrics is not None:
                    with profiler.spent("checkpoint"):
                        progress.validated(step, metrics)
            elif progress.save_due(step):
                with profiler.spent("checkpoint"):
                    progress.save(step)
            if agreement.reached():
                with profiler.spent("checkpoint"):
                    raise progress.committed_stop(step, asked)
            if step == total:
                break
            start.check()
            if step == phase.span.stop:
                phase = Phase(start, state, predict, span_after(start.plan, step), step, progress.window, profiler)
                progress.window.start_phase()
            outcome = phase.step(step, agreement.asked())
            agreement.add(outcome["stopping"])
            progress.stepped(step + 1, phase.span, outcome)
    except Closed:  # by a signal, while shards were waited for
        raise progress.committed_stop(step, asked) from None


def _build_state(start: Start) -> TrainingState:
    recipe = start.recipe
    model = build(recipe.model, recipe.data.side, seed=recipe.run.seed, precision=recipe.run.precision)
    for phase in recipe.phases:
        unfreeze(model, phase.unfreeze)  # told now, not hours later, if a phase asks for more blocks than there are
    if recipe.model.from_scratch:
        make_stateless(model, synchronize=start.strategy.num_replicas_in_sync > 1)
    return TrainingState(model, recipe, recipe.run.precision)
