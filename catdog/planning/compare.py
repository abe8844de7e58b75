"""A recipe, its data set and this machine's speed → a plan for each number of hosts."""

from collections.abc import Callable

import tensorflow as tf

from catdog.data.process_pool import cores
from catdog.data.shards import Manifest, load_manifest
from catdog.errors import CallerError
from catdog.planning.calibration import calibrate
from catdog.planning.options import PlanOptions
from catdog.planning.plan import Hosts, Job, Plan, faster, plan
from catdog.recipe import Recipe, check_replicas, check_strategy
from catdog.storage import Bucket, open_bucket
from catdog.training.start import require_trainable
from catdog.training.strategy import compiles


def compare(recipe: Recipe, options: PlanOptions, tell: Callable[[str], None]) -> tuple[list[Plan], list[str]]:
    """The plans, and a line for each number of hosts that the recipe cannot be trained on; `tell` is given lines of what
    is measured.

    Raises CallerError where that is all of them, where the data set does not fit the recipe, and where this machine has no
    GPU to be measured and none is told of; RunError where memory lacks.
    """
    data = open_bucket(recipe.data.uri, patience=recipe.storage.patience)
    manifest = load_manifest(data)
    job = job_of(recipe, data, manifest)
    gpus, replicas = _devices(recipe, options)
    possible, refused = [], []
    for count in options.hosts:
        try:
            check_strategy(recipe.run.strategy, count)
            check_replicas(recipe, count * replicas)
            possible.append(Hosts(count, replicas, options.cpus or cores(), options.link * 1e9 / 8))
        except CallerError as error:
            refused.append(f"{count} host{'s' if count > 1 else ''}: {error}")
    if not possible:
        raise CallerError("; ".join(refused))
    if not gpus:
        tf.config.set_visible_devices([], "GPU")
    speed = calibrate(recipe, data, manifest, tell, xla=compiles(recipe, gpus))
    if options.images_per_s:
        speed = faster(speed, recipe, options.images_per_s)
    return [plan(job, speed, hosts) for hosts in possible], refused


def job_of(recipe: Recipe, data: Bucket, manifest: Manifest) -> Job:
    """What is to be done; raises CallerError where the data set does not fit the recipe."""
    train, val = manifest.split("train"), manifest.split("val")
    return Job(
        recipe,
        require_trainable(recipe, data, manifest).steps_per_epoch,
        train=sum(shard.examples for shard in train),
        val=sum(shard.examples for shard in val),
        shards=sum(shard.bytes for shard in (*train, *val)),
        in_bucket=data.local("") is None,
    )


def _devices(recipe: Recipe, options: PlanOptions) -> tuple[int, int]:
    """GPUs and replicas of a host."""
    here = len(tf.config.list_physical_devices("GPU"))
    if recipe.run.strategy != "auto":
        if options.gpus > 0:
            raise CallerError(f"--gpus {options.gpus}: run.strategy = {recipe.run.strategy!r} trains on no GPU")
        return 0, int(recipe.run.strategy.removeprefix("cpu:"))
    gpus = here if options.gpus < 0 else options.gpus
    if gpus and not here and not options.images_per_s:
        raise CallerError(
            f"--gpus {gpus}: there is no GPU here to be measured; give --images-per-s, as of a run on one"
        )
    return gpus, gpus or 1
