"""The one loop: phases, logging, validation, checkpoints, signals."""

import math
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from typing import Any

import tensorflow as tf

from catdog import recipe as recipes
from catdog.data import pipeline
from catdog.data.cache import open_cache
from catdog.data.fetching import Closed
from catdog.data.order import Order, Share, check_replicas
from catdog.data.records import Records
from catdog.data.room import require_room, required_bytes
from catdog.data.shards import CLASSES, Manifest, load_manifest, pinned
from catdog.errors import CallerError, FinalError
from catdog.evaluation.evaluate import evaluate
from catdog.evaluation.history import Line
from catdog.model import build, make_stateless, unfreeze
from catdog.recipe import Recipe
from catdog.run import METRICS, MODEL, RECIPE, recipe_of
from catdog.storage import Bucket, open_bucket
from catdog.training.checkpoint import Checkpoints, Position
from catdog.training.group import Group, StopAgreement, make_group, together
from catdog.training.lease import Lease, hold
from catdog.training.log import MetricsLog, Screen, kept_lines, say
from catdog.training.schedule import Span, spans
from catdog.training.signals import Stopped, StopRequest, listening
from catdog.training.state import TrainingState, exported_weights
from catdog.training.step import Batch, Outcome, StepSettings, make_train_step
from catdog.training.strategy import distributed, fastest_precision
from catdog.training.validation import make_validation
from catdog.training.window import Window

Report = Callable[[Line, int | None], None]
"""Told of each line of metrics, with the step of the last commit so far, which the chief alone knows."""


Listen = Callable[[], AbstractContextManager[StopRequest]]
"""Gives a request to stop that may be made for as long as the block lasts."""


def train(
    recipe: Recipe, listen: Listen = listening, report: Report = lambda line, committed: None
) -> dict[str, Any] | None:
    """Run the recipe from its newest checkpoint, or from the start, to its evaluation on the test split.

    Called by each of the workers that TF_CONFIG names, it trains with all of them, and the first alone writes the run.
    Every worker listens for a request to stop, by default for SIGTERM and Ctrl-C, from when the group is together until
    training is done; and calls `report` with each line of metrics, and once more with the last when all is committed.
    Returns what evaluation/test/metrics.json then holds, but to the other workers None. Raises CallerError for what the
    caller can mend, RunError for a run that can't go on, and Stopped once it was asked to stop and the state is
    committed.
    """
    if not recipe.run.uri:
        raise CallerError("run.uri is empty: name the run's folder with --run")
    run, data = (open_bucket(uri, patience=recipe.storage.patience) for uri in (recipe.run.uri, recipe.data.uri))
    manifest = load_manifest(data)
    for split, use in (("val", "choose the best weights by"), ("test", "evaluate on")):
        if not any(shard.examples for shard in manifest.split(split)):
            raise CallerError(f"{data.uri}: has no {split} split to {use}; prepare it with --{split} above 0")
    order = _order(recipe, manifest)
    group = make_group(recipe.run.strategy)
    check_replicas(recipe, group.strategy.num_replicas_in_sync)
    if data.local("") is None:
        require_room(recipe.cache, _held_at_once(recipe, manifest))
    pins = pinned(data, [*manifest.split("train"), *manifest.split("val")])
    if recipe.run.deterministic:
        tf.config.experimental.enable_op_determinism()
    leased = hold(run, say) if group.chief else nullcontext()
    with leased as lease, open_cache(data, pins, recipe.cache) as cache:
        with (
            together(group.worker, group.workers),
            Checkpoints(run, recipe.checkpoint.keep, lease.require if lease else lambda: None) as checkpoints,
        ):
            newest = None
            if lease:
                recipe, newest = _begin(run, recipe, manifest, checkpoints, lease)
            recipe, newest = _as_chief(group, recipe, manifest, run, newest)
            records = {split: Records(manifest.split(split), cache) for split in ("train", "val")}
            job = _Job(
                recipe, run, manifest, order, records["train"], records["val"], group, checkpoints, lease, report
            )
            with listen() as asked:
                if group.workers == 1:
                    asked.wake = cache.close
                best = _loop(job, asked, newest)
            if group.total(int(asked.signal is not None)):  # asked for after the last step was agreed on
                raise Stopped(asked.signal or signal.SIGTERM, job.plan[-1].stop)
        if not lease:
            return None
        _export(job, best)
        return evaluate(run, data, manifest, recipe.cache)


@dataclass(frozen=True)
class _Job:
    """What stays the same from the first step of a run to its last."""

    recipe: Recipe
    run: Bucket
    manifest: Manifest
    order: Order
    train: Records
    val: Records
    group: Group
    checkpoints: Checkpoints
    lease: Lease | None
    """The chief's; no other worker writes."""
    report: Report

    @property
    def strategy(self) -> tf.distribute.Strategy:
        return self.group.strategy

    @property
    def plan(self) -> tuple[Span, ...]:
        return spans(self.recipe.phases, self.order.steps_per_epoch)


def _loop(job: _Job, stop: StopRequest, newest: int | None) -> int:
    """Train from the newest checkpoint, or from the start, to the end; the step of the best one.

    At the top of each turn `step` steps are done. The turn validates if an epoch ends there, saves if it is time to,
    and takes the next step; so neither the end of the run nor a restart at any step needs code of its own.
    """
    recipe, per_epoch, plan = job.recipe, job.order.steps_per_epoch, job.plan
    total = plan[-1].stop
    with job.strategy.scope():
        state = _build_state(job)
    position, arrays = job.checkpoints.restore(newest) if newest is not None else (_start(job), None)
    if position.best_step is not None and position.best_step not in job.checkpoints.steps():
        raise FinalError(f"{job.run.uri}: its best checkpoint, step {position.best_step}, is gone; start a new run")
    span = _span(plan, max(position.step - 1, 0))  # a snapshot belongs to the phase of the step that it was taken after
    train_step, batches = _start_phase(job, state, span, position.step)
    if arrays is not None:
        state.restore(arrays)
    log = MetricsLog(job.run if job.lease else None, _lines_so_far(job.run, position))
    validation = make_validation(job.strategy, state.model, job.val, recipe)
    screen = Screen(total, position.step, shown=job.group.chief)
    screen.say(f"{total} steps, replicas: {job.strategy.num_replicas_in_sync}, precision: {recipe.run.precision}")
    if newest is not None:
        screen.say(f"going on from step {newest} of {total}")
    window = Window(recipe.data.global_batch, position.window)
    agreement = StopAgreement(job.group, stop)
    saved_at, saved_step = time.monotonic(), newest

    def save(now: Position) -> None:
        nonlocal saved_at, saved_step
        if job.lease:
            job.checkpoints.save(replace(now, window=window.sums()), state.snapshot(), log.objects())
        saved_at, saved_step = time.monotonic(), now.step

    def show(line: Line) -> None:
        screen.show(line := log.add(line))
        job.report(line, job.checkpoints.newest)

    def committed_stop(step: int) -> Stopped:
        number = stop.signal or signal.SIGTERM  # another worker was asked to
        screen.say(f"{signal.Signals(number).name}: saving step {step}; a second one ends it without")
        window.take_all()
        if saved_step != step:  # else the state may be that of the next phase already
            save(replace(position, step=step))
        job.checkpoints.wait()
        job.group.of_chief(0)  # the others wait for the chief to have committed
        return Stopped(number, step)

    try:
        for step in range(position.step, total + 1):
            if step > 0 and step % per_epoch == 0 and position.validated < step:
                with state.averaged():
                    metrics = validation(agreement.reached_alone)
                if metrics is not None:
                    _require_finite(metrics, step)
                    position = _validated(replace(position, step=step), metrics["loss"])
                    show(_line(plan, step, per_epoch, "val", metrics))
                    save(position)
                    window.restart_clock()
            elif step > position.step and _due(recipe, step, saved_at):
                window.take_all()
                save(position := replace(position, step=step))
            if agreement.reached():
                raise committed_stop(step)
            if step == total:
                break
            job.checkpoints.check()
            if job.lease:
                job.lease.check()
            if step == span.stop:
                span = _span(plan, step)
                train_step, batches = _start_phase(job, state, span, step)
                window.start_phase()
            with window.waiting():
                batch = next(batches)
            outcome = train_step(batch, span.learning_rate(step), step, agreement.asked())
            agreement.add(outcome["stopping"])
            window.add(step + 1, outcome)
            screen.step(step + 1, span.phase.name)
            if (step + 1) % recipe.run.log_every == 0 or (step + 1) % per_epoch == 0:
                window.take_all()
                if not window.empty:
                    numbers = window.close() | {"learning_rate": span.learning_rate(step)}
                    show(_line(plan, step + 1, per_epoch, "train", numbers))
        job.checkpoints.wait()
        if log.last is not None:
            job.report(log.last, job.checkpoints.newest)
        if job.lease:
            for name, content in log.objects().items():
                job.run.write(name, content)
    except Closed:  # by a signal, while shards were waited for
        raise committed_stop(step) from None
    finally:
        screen.close()
        log.close()
    assert position.best_step is not None
    return position.best_step


def _order(recipe: Recipe, manifest: Manifest) -> Order:
    shards = manifest.split("train")
    labels = tuple(shard.labels for shard in shards) if recipe.loss.balance == "oversample" else None
    sizes = tuple(shard.examples for shard in shards)
    return Order(sizes, recipe.data.streams, recipe.data.global_batch, recipe.run.seed, labels)


def _held_at_once(recipe: Recipe, manifest: Manifest) -> int:
    """Bytes of the shards that a step reads from, at most, with those that validation reads at the same time."""
    shards, streams = manifest.split("train"), recipe.data.streams
    rows = None if recipe.loss.balance == "oversample" else recipe.data.global_batch // streams
    of_streams = [shards[stream::streams] for stream in range(streams)]
    return required_bytes(of_streams, rows, manifest.split("val"), recipe.data.global_batch)


def _settle_precision(recipe: Recipe, before: Recipe | None) -> Recipe:
    """The recipe with `auto` replaced: by what was measured when the run began, if it did, or is measured now."""
    if recipe.run.precision != "auto":
        return recipe
    precision = before.run.precision if before is not None else fastest_precision()
    if precision == "mixed_float16" and recipe.model.from_scratch:
        precision = "float32"  # an overflow would stay in BatchNorm's statistics
    return recipes.override(recipe, [("run.precision", precision)])


def _begin(
    run: Bucket, recipe: Recipe, manifest: Manifest, checkpoints: Checkpoints, lease: Lease
) -> tuple[Recipe, int | None]:
    """The recipe with its precision settled, written down, and the checkpoint to go on from; what killed runs left is swept.

    Raises CallerError when the run has another recipe or data set.
    """
    newest, before = max(checkpoints.steps(), default=None), recipe_of(run)
    recipe = _settle_precision(recipe, before)
    if newest is not None:
        _refuse_another_run(recipe, before, checkpoints.position(newest), manifest, run)
    lease.require()
    run.write(RECIPE, recipes.to_toml(recipe).encode())
    checkpoints.sweep()
    return recipe, newest


def _as_chief(
    group: Group, recipe: Recipe, manifest: Manifest, run: Bucket, newest: int | None
) -> tuple[Recipe, int | None]:
    """The recipe with the chief's precision, and the step that it goes on from, on every worker.

    Raises CallerError on a worker that has another recipe or data set than the chief.
    """
    step = group.of_chief(-1 if newest is None else newest)
    digest = group.of_chief(int(manifest.digest[:15], 16))
    if not group.chief:
        written = recipe_of(run)  # by the chief, before it came here
        if written is None:
            raise CallerError(f"{run.uri}: the first worker's {RECIPE} is not there: all must reach the same run")
        recipe = recipes.override(recipe, [("run.precision", written.run.precision)])
        different = recipes.differences(written, recipe)
        if digest != int(manifest.digest[:15], 16):
            different.append(f"the data set at {recipe.data.uri}")
        if different:
            raise CallerError(f"worker {group.worker} differs from the first one in {'; '.join(different)}")
    return recipe, None if step < 0 else step


def _refuse_another_run(
    recipe: Recipe, before: Recipe | None, position: Position, manifest: Manifest, run: Bucket
) -> None:
    different = recipes.differences(before, recipe) if before is not None else []
    if not different and position.recipe != (digest := recipes.digest(recipe)):
        different.append(f"the recipe: {position.recipe[:12]} → {digest[:12]}")
    if position.manifest != manifest.digest:
        different.append(f"the data set's manifest: {position.manifest[:12]} → {manifest.digest[:12]}")
    if different:
        raise CallerError(
            f"{run.uri}: holds a run that differs in {'; '.join(different)}: name another folder with --run"
        )


def _build_state(job: _Job) -> TrainingState:
    recipe = job.recipe
    model = build(recipe.model, recipe.data.side, seed=recipe.run.seed, precision=recipe.run.precision)
    for phase in recipe.phases:
        unfreeze(model, phase.unfreeze)  # told now, not hours later, if a phase asks for more blocks than there are
    if job.recipe.model.from_scratch:
        make_stateless(model, synchronize=job.strategy.num_replicas_in_sync > 1)
    return TrainingState(model, recipe, recipe.run.precision)


def _start(job: _Job) -> Position:
    digests = {"manifest": job.manifest.digest, "recipe": recipes.digest(job.recipe)}
    return Position(step=0, validated=0, best_loss=None, best_step=None, window={}, **digests)


def _lines_so_far(run: Bucket, position: Position) -> list[dict[str, Any]]:
    return kept_lines(run.find(METRICS) or b"", position.step, position.validated)


def _require_finite(metrics: dict[str, float], step: int) -> None:
    if not math.isfinite(metrics["loss"]):
        raise FinalError(
            f"validation loss not finite after step {step}: the run stops and its last checkpoint is as it was;"
            " lower phases.learning_rate, or choose another run.precision"
        )


def _validated(position: Position, loss: float) -> Position:
    position = replace(position, validated=position.step)
    if position.best_loss is None or loss < position.best_loss:
        return replace(position, best_loss=loss, best_step=position.step)
    return position


def _span(plan: tuple[Span, ...], step: int) -> Span:
    """The phase that the step after `step` done steps belongs to."""
    return next(span for span in plan if step < span.stop)


def _line(plan: tuple[Span, ...], step: int, per_epoch: int, split: str, numbers: dict[str, float]) -> dict[str, Any]:
    phase = _span(plan, step - 1).phase.name
    return {"step": step, "phase": phase, "epoch": round(step / per_epoch, 4), "split": split, **numbers}


def _due(recipe: Recipe, step: int, saved_at: float) -> bool:
    steps, seconds = recipe.checkpoint.every_steps, recipe.checkpoint.every_seconds
    return (steps > 0 and step % steps == 0) or (seconds > 0 and time.monotonic() - saved_at >= seconds)


def _start_phase(
    job: _Job, state: TrainingState, span: Span, step: int
) -> tuple[Callable[[Batch, float, int, bool], Outcome], Iterator[Batch]]:
    """The compiled step of a phase, and the phase's batches from a step on."""
    unfreeze(state.model, span.phase.unfreeze, batch_norm=job.recipe.model.from_scratch)
    with job.strategy.scope():
        state.start_phase()
    counts = [job.manifest.per_class("train")[name] for name in CLASSES]
    cat, dog = (sum(counts) / (len(counts) * count) for count in counts)
    settings = StepSettings(job.recipe, job.recipe.model.from_scratch, (cat, dog))

    def dataset(share: Share) -> tf.data.Dataset:
        return pipeline.train_dataset(job.order, job.train, job.recipe, start=step, stop=span.stop, share=share)

    return make_train_step(job.strategy, state, settings), pipeline.surfaced(
        distributed(job.strategy, dataset), job.train
    )


def _export(job: _Job, best: int) -> None:
    """model.keras out of the best checkpoint, in float32 and with nothing in it that is ours."""
    _, arrays = job.checkpoints.restore(best)
    model = build(job.recipe.model, job.recipe.data.side)
    model.set_weights(exported_weights(arrays))
    with job.run.writing(MODEL) as path:
        model.save(path)
