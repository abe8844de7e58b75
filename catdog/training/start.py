"""What a run begins with: data, devices, room for the shards, and what all its workers agree on."""

import contextlib
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import dataclass, replace

import tensorflow as tf

from catdog.data.cache import ShardCache, open_cache, require_limit, required_bytes
from catdog.data.order import Order
from catdog.data.records import Records
from catdog.data.shards import Manifest, load_manifest, pinned
from catdog.errors import CallerError, FinalError, RunError
from catdog.model import require_weights
from catdog.parsing import SMALL
from catdog.recipe import (
    Recipe,
    as_begun,
    check_replicas,
    differences,
    digest_of_0_1_0,
    from_table,
    override,
    rows_of_a_replica,
    to_table,
    to_toml,
)
from catdog.runs.folder import MODEL, RECIPE, REPORT, Position, evaluation, recipe_of, require_ours, work_of_a_run
from catdog.storage import Bucket, open_bucket
from catdog.storage.lease import Lease, hold
from catdog.training.checkpoint import Arrays, Checkpoints
from catdog.training.precision import fastest_precision
from catdog.training.schedule import Span, spans
from catdog.training.screen import say
from catdog.training.worker_group import WorkerGroup, make_group, together


@dataclass(frozen=True)
class Start:
    """What stays the same from the first step of a run to its last."""

    recipe: Recipe
    run: Bucket
    data: Bucket
    manifest: Manifest
    order: Order
    train: Records
    val: Records
    cache: ShardCache
    group: WorkerGroup
    checkpoints: Checkpoints
    lease: Lease | None
    """The chief's; no other worker writes."""
    newest: int | None
    """Step of the checkpoint to go on from; None where there is none."""

    @property
    def strategy(self) -> tf.distribute.Strategy:
        return self.group.strategy

    @property
    def plan(self) -> tuple[Span, ...]:
        return spans(self.recipe.phases, self.order.steps_per_epoch)

    def check(self) -> None:
        """Raise what came in the way of a save, or that the run's lease is lost."""
        self.checkpoints.check()
        if self.lease:
            self.lease.check()


@contextlib.contextmanager
def started(recipe: Recipe) -> Iterator[Start]:
    """A run of the recipe, begun or gone on with by all its workers, whose lease and shards are held while the block lasts.

    The order in which a run starts anew is this: what the recipe leaves to the run, data and devices, the lease, the newest
    commit with the recipe that the run was begun with, and then the chief's word on both to the others. Raises CallerError
    for what the caller can mend, a run of another recipe or data set among it, and RunError where the store or another
    worker does not answer.
    """
    run, data = (open_bucket(uri, patience=recipe.storage.patience) for uri in (recipe.run.uri, recipe.data.uri))
    recipe = as_begun(recipe, recipe_of(run))
    manifest = load_manifest(data)
    order = require_trainable(recipe, data, manifest)
    if (kind := recipe.run.strategy.partition(":"))[0] == "cpu":
        check_replicas(recipe, int(kind[2]))  # before so many devices are made
    group = make_group(recipe.run.strategy)
    check_replicas(recipe, group.strategy.num_replicas_in_sync)
    if group.chief:
        require_ours(run)
    pins = pinned(data, [*manifest.split("train"), *manifest.split("val")])
    for warning in manifest.one_sided() if group.chief else ():
        say(f"warning: {warning}")
    if recipe.run.deterministic:
        tf.config.experimental.enable_op_determinism()
    leased = hold(run, say) if group.chief else nullcontext()
    with leased as lease, open_cache(data, pins, recipe.cache) as cache:
        checkpoints = Checkpoints(run, recipe.checkpoint.keep, lease.require if lease else lambda: None)
        with _no_run_of_what_is_refused(run, lease):
            with together(group.worker, group.workers):
                newest = None
                if lease:
                    rows = rows_of_a_replica(recipe, group.strategy.num_replicas_in_sync)
                    recipe, newest = _begin(run, recipe, manifest, checkpoints, lease, rows)
                recipe, newest = _as_chief(group, recipe, manifest, run, newest)
            train, val = (Records(manifest.split(split), cache) for split in ("train", "val"))
            yield Start(recipe, run, data, manifest, order, train, val, cache, group, checkpoints, lease, newest)


@contextlib.contextmanager
def _no_run_of_what_is_refused(run: Bucket, lease: Lease | None) -> Iterator[None]:
    """Where the block begins a run and is refused before any of its work lies there, take back the recipe that it wrote:
    else the same command without the mistake would be refused for a run that differs."""
    begins = lease is not None and not run.exists(RECIPE)
    try:
        yield
    except CallerError:
        with contextlib.suppress(CallerError, RunError, OSError):
            if lease is not None and begins and not work_of_a_run(run):
                lease.require()
                run.delete(RECIPE)
        raise


def first_position(start: Start, weights: str) -> tuple[Position, Arrays | None]:
    """Where the run stands when it starts, with the arrays of the checkpoint that it goes on from, if there is one; a new
    one begins with the backbone's weights of this digest.

    Raises FinalError when the best checkpoint so far is gone, for the run could not end with it.
    """
    recipe = to_table(start.recipe)
    if start.newest is None:
        manifest = start.manifest.digest
        return Position(
            0, 0, best_loss=None, best_step=None, window={}, manifest=manifest, recipe=recipe, weights=weights
        ), None
    if start.newest > (last := start.plan[-1].stop):
        raise FinalError(
            f"{start.run.uri}: its newest checkpoint is of step {start.newest}, but its recipe has only {last} steps;"
            " delete the checkpoint's folder, or start a new run"
        )
    position, arrays = start.checkpoints.restore(start.newest)
    if position.best_step is not None and position.best_step not in start.checkpoints.steps():
        raise FinalError(f"{start.run.uri}: its best checkpoint, step {position.best_step}, is gone; start a new run")
    return replace(position, recipe=recipe, digest=""), arrays


def require_trainable(recipe: Recipe, data: Bucket, manifest: Manifest) -> Order:
    """The order of the train split; raises CallerError where the recipe can't be trained on the data set."""
    for split, use in (("val", "choose the best weights by"), ("test", "evaluate on")):
        if not any(shard.examples for shard in manifest.split(split)):
            raise CallerError(f"{data.uri}: has no {split} split to {use}; prepare it with --{split} above 0")
    if lacking := [name for name, count in manifest.per_class("train").items() if count == 0]:
        raise CallerError(
            f"{data.uri}: its train split holds no {lacking[0]}; prepare it from pictures of both classes"
        )
    require_weights(recipe.model)
    order = _order(recipe, manifest)
    spans(recipe.phases, order.steps_per_epoch)  # too many of them are told now
    if data.local("") is None:
        require_limit(recipe.cache, _held_at_once(recipe, manifest))
    return order


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


def _begin(
    run: Bucket, recipe: Recipe, manifest: Manifest, checkpoints: Checkpoints, lease: Lease, rows: int
) -> tuple[Recipe, int | None]:
    """The recipe with nothing left open, written down, and the step to go on from; what killed runs left is swept.

    `rows` are those of a replica's share of a batch.
    Raises CallerError when the run has another recipe or data set.
    """
    newest, before = max(checkpoints.steps(), default=None), recipe_of(run)
    recipe = _settle_precision(recipe, before, rows)
    if newest is not None:
        _refuse_another_run(recipe, before, checkpoints.position(newest), manifest, run)
    elif before is not None:
        _refuse_to_begin_again(recipe, before, run)
    run.require_writable()  # else what may be created and not replaced is told only when a checkpoint is to go
    lease.require()
    run.write(RECIPE, to_toml(recipe).encode())
    checkpoints.sweep()
    if newest is not None:
        checkpoints.let_best_say_so(newest)
    return recipe, newest


def _settle_precision(recipe: Recipe, before: Recipe | None, rows: int) -> Recipe:
    """The recipe with `auto` replaced: by what was measured when the run began, if it did, or is measured now."""
    if recipe.run.precision != "auto":
        return recipe
    precision = before.run.precision if before is not None else fastest_precision(recipe, rows)
    return override(recipe, [("run.precision", precision)])


def _refuse_another_run(
    recipe: Recipe, before: Recipe | None, position: Position, manifest: Manifest, run: Bucket
) -> None:
    """The recipe is compared with what the run's file tells and with what its commit does, for the file can be edited."""
    if before is None:
        raise CallerError(
            f"{run.uri}: holds checkpoints but no {RECIPE} that tells whose: name another folder with --run"
        )
    different = differences(before, recipe)
    if position.recipe:
        different += differences(from_table(position.recipe, run.uri, of_run=True), recipe)
    elif digest_of_0_1_0(run.read(RECIPE, SMALL)) not in (None, position.digest):
        different.append(f"{RECIPE}, which is another one than at the newest commit")
    if position.manifest != manifest.digest:
        different.append(f"the data set's manifest: {position.manifest[:12]} → {manifest.digest[:12]}")
    if different:
        told = "; ".join(dict.fromkeys(different))
        raise CallerError(f"{run.uri}: holds a run that differs in {told}: name another folder with --run")


def _refuse_to_begin_again(recipe: Recipe, before: Recipe, run: Bucket) -> None:
    """What a run that has no checkpoint, or none any more, has come to is not written over."""
    if different := differences(before, recipe):
        raise CallerError(
            f"{run.uri}: holds a run that differs in {'; '.join(different)}: name another folder with --run"
        )
    for name in (MODEL, REPORT, f"{evaluation('test')}/metrics.json"):
        if run.exists(name):
            raise CallerError(
                f"{run.uri}: holds {name} of a run whose checkpoints are gone, which can't go on: name another folder with --run"
            )


def _as_chief(
    group: WorkerGroup, recipe: Recipe, manifest: Manifest, run: Bucket, newest: int | None
) -> tuple[Recipe, int | None]:
    """The recipe with what the chief has settled of it, and the step that it goes on from, on every worker.

    Raises CallerError on a worker that has another recipe or data set than the chief.
    """
    step = group.of_chief(-1 if newest is None else newest)
    digest = int(manifest.digest[:15], 16)
    same_data = group.of_chief(digest) == digest
    if not group.chief:
        written = recipe_of(run)  # by the chief, before it came here
        if written is None:
            raise CallerError(f"{run.uri}: the first worker's {RECIPE} is not there: all must reach the same run")
        recipe = override(recipe, [("run.precision", written.run.precision)])
        different = differences(written, recipe)
        if not same_data:
            different.append(f"the data set at {recipe.data.uri}")
        if different:
            raise CallerError(f"worker {group.worker} differs from the first one in {'; '.join(different)}")
    return recipe, None if step < 0 else step
