"""What a run begins with: data, devices, room for the shards, and what all its workers agree on."""

import contextlib
from collections.abc import Iterable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass

import tensorflow as tf

from catdog.data.cache import ShardCache, open_cache, require_limit, required_bytes
from catdog.data.order import Order
from catdog.data.records import Records
from catdog.data.shards import Manifest, load_manifest, pinned
from catdog.errors import CallerError
from catdog.recipe import Recipe, as_begun, check_replicas, differences, from_table, override, to_toml
from catdog.runs.folder import RECIPE, Position, recipe_of
from catdog.runs.lease import Lease, hold
from catdog.storage import Bucket, open_bucket
from catdog.training.checkpoint import Checkpoints
from catdog.training.schedule import Span, spans
from catdog.training.screen import say
from catdog.training.strategy import fastest_precision
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

    The order in which a run starts anew is this: data and devices, the lease, the newest commit, the recipe that the run
    was begun with, and then the chief's word on both to the others. Raises CallerError for what the caller can mend, a
    run of another recipe or data set among it, and RunError where the store or another worker does not answer.
    """
    run, data = (open_bucket(uri, patience=recipe.storage.patience) for uri in (recipe.run.uri, recipe.data.uri))
    manifest = load_manifest(data)
    for split, use in (("val", "choose the best weights by"), ("test", "evaluate on")):
        if not any(shard.examples for shard in manifest.split(split)):
            raise CallerError(f"{data.uri}: has no {split} split to {use}; prepare it with --{split} above 0")
    order = _order(recipe, manifest)
    group = make_group(recipe.run.strategy)
    check_replicas(recipe, group.strategy.num_replicas_in_sync)
    if data.local("") is None:
        require_limit(recipe.cache, _held_at_once(recipe, manifest))
    pins = pinned(data, [*manifest.split("train"), *manifest.split("val")])
    if recipe.run.deterministic:
        tf.config.experimental.enable_op_determinism()
    leased = hold(run, say) if group.chief else nullcontext()
    with leased as lease, open_cache(data, pins, recipe.cache) as cache:
        checkpoints = Checkpoints(run, recipe.checkpoint.keep, lease.require if lease else lambda: None)
        with together(group.worker, group.workers):
            newest = None
            if lease:
                recipe, newest = _begin(run, recipe, manifest, checkpoints, lease)
            recipe, newest = _as_chief(group, recipe, manifest, run, newest)
        train, val = (Records(manifest.split(split), cache) for split in ("train", "val"))
        yield Start(recipe, run, data, manifest, order, train, val, cache, group, checkpoints, lease, newest)


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
    run: Bucket, recipe: Recipe, manifest: Manifest, checkpoints: Checkpoints, lease: Lease
) -> tuple[Recipe, int | None]:
    """The recipe with nothing left open, written down, and the step to go on from; what killed runs left is swept.

    Raises CallerError when the run has another recipe or data set.
    """
    newest, begun = max(checkpoints.steps(), default=None), [recipe_of(run)]
    position = checkpoints.position(newest) if newest is not None else None
    if position is not None and position.recipe:
        begun.append(from_table(position.recipe, run.uri, of_run=True))
    before = next(filter(None, begun), None)
    recipe = _settle_precision(as_begun(recipe, before), before)
    if position is not None:
        _refuse_another_run(recipe, begun, position, manifest, run)
    lease.require()
    run.write(RECIPE, to_toml(recipe).encode())
    checkpoints.sweep()
    return recipe, newest


def _settle_precision(recipe: Recipe, before: Recipe | None) -> Recipe:
    """The recipe with `auto` replaced: by what was measured when the run began, if it did, or is measured now."""
    if recipe.run.precision != "auto":
        return recipe
    precision = before.run.precision if before is not None else fastest_precision()
    if precision == "mixed_float16" and recipe.model.from_scratch:
        precision = "float32"  # an overflow would stay in BatchNorm's statistics
    return override(recipe, [("run.precision", precision)])


def _refuse_another_run(
    recipe: Recipe, begun: Iterable[Recipe | None], position: Position, manifest: Manifest, run: Bucket
) -> None:
    """The recipe is compared with what the run's file tells and with what its commit does, for the file can be edited."""
    told = list(filter(None, begun))
    if not told:
        raise CallerError(
            f"{run.uri}: holds checkpoints but no {RECIPE} that tells whose: name another folder with --run"
        )
    different = list(dict.fromkeys(text for before in told for text in differences(before, recipe)))
    if position.manifest != manifest.digest:
        different.append(f"the data set's manifest: {position.manifest[:12]} → {manifest.digest[:12]}")
    if different:
        raise CallerError(
            f"{run.uri}: holds a run that differs in {'; '.join(different)}: name another folder with --run"
        )


def _as_chief(
    group: WorkerGroup, recipe: Recipe, manifest: Manifest, run: Bucket, newest: int | None
) -> tuple[Recipe, int | None]:
    """The recipe with what the chief has settled of it, and the step that it goes on from, on every worker.

    Raises CallerError on a worker that has another recipe or data set than the chief.
    """
    step = group.of_chief(-1 if newest is None else newest)
    digest = group.of_chief(int(manifest.digest[:15], 16))
    if not group.chief:
        written = recipe_of(run)  # by the chief, before it came here
        if written is None:
            raise CallerError(f"{run.uri}: the first worker's {RECIPE} is not there: all must reach the same run")
        recipe = override(as_begun(recipe, written), [("run.precision", written.run.precision)])
        different = differences(written, recipe)
        if digest != int(manifest.digest[:15], 16):
            different.append(f"the data set at {recipe.data.uri}")
        if different:
            raise CallerError(f"worker {group.worker} differs from the first one in {'; '.join(different)}")
    return recipe, None if step < 0 else step
