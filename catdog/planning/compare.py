"""A recipe, its data set and this machine's speed → a plan for each number of hosts."""

from collections.abc import Callable

import tensorflow as tf

from catdog.data.process_pool import cores
from catdog.data.shards import Manifest, load_manifest
from catdog.errors import CallerError
from catdog.planning.calibration import calibrate
from catdog.planning.options import PlanOptions
from catdog.planning.plan import Hosts, Job, Plan, faster, plan
from catdog.recipe import Recipe
from catdog.storage import Bucket, open_bucket
from catdog.training.start import order_of


def compare(recipe: Recipe, options: PlanOptions, tell: Callable[[str], None]) -> tuple[list[Plan], list[str]]:
    """The plans, and a line for each number of hosts that the recipe cannot be trained on; `tell` is given lines of what
    is measured. Raises CallerError where this machine has no GPU to be measured, and none is told of."""
    here = len(tf.config.list_physical_devices("GPU"))
    gpus = here if options.gpus is None else options.gpus
    if gpus and not here and options.images_per_s is None:
        raise CallerError(
            f"--gpus {gpus}: there is no GPU here to be measured; give --images-per-s, as `catdog train` prints it on one"
        )
    if not gpus:
        tf.config.set_visible_devices([], "GPU")
    data = open_bucket(recipe.data.uri, patience=recipe.storage.patience)
    manifest = load_manifest(data)
    job = job_of(recipe, data, manifest)
    speed = calibrate(recipe, data, manifest, tell)
    if options.images_per_s is not None:
        speed = faster(speed, recipe, options.images_per_s)
    plans, refused = [], []
    for count in options.hosts:
        hosts = Hosts(count, gpus or 1, options.cpus or cores(), options.link * 1e9 / 8)
        try:
            plans.append(plan(job, speed, hosts))
        except CallerError as error:
            refused.append(f"{count} hosts: {error}")
    return plans, refused


def job_of(recipe: Recipe, data: Bucket, manifest: Manifest) -> Job:
    """What is to be done; raises CallerError where the data set does not fit the recipe."""
    train, val = manifest.split("train"), manifest.split("val")
    return Job(
        recipe,
        order_of(recipe, manifest).steps_per_epoch,
        train=sum(shard.examples for shard in train),
        val=sum(shard.examples for shard in val),
        shards=sum(shard.bytes for shard in (*train, *val)),
        in_bucket=data.local("") is None,
    )
