"""What each worker of the group does: the trainer's loop, which tells Ray of what it has come to."""

import logging
import os
import socket
import sys
import time
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from typing import Any

import ray
from ray import train as ray_train
from ray.train import CheckpointUploadMode
from ray.util.metrics import Gauge

from catdog.command.quiet_tensorflow import import_tensorflow
from catdog.errors import Stopped, tell
from catdog.recipe import Recipe, parse_recipe
from catdog.runs.folder import checkpoint_folder
from catdog.runs.metrics_file import Line
from job.ray_private.pieces import RUN_PATH
from job.stopping import stop_request


def work(config: dict[str, Any]) -> dict[str, Any] | Stopped | None:
    """Train a recipe as one of Ray Train's workers; `config` holds it in TOML, and the coordinator.

    Gives what the trainer gives; a stop is not raised, for Ray would take it for a failure.
    """
    began = time.monotonic()
    recipe = parse_recipe(config["recipe"].encode(), "recipe")
    context = ray_train.get_context()
    rank, workers = context.get_world_rank(), context.get_world_size()
    gpus = len(ray.get_runtime_context().get_accelerator_ids().get("GPU", []))
    host = f"{socket.gethostname()} ({ray.util.get_node_ip_address()})"
    tell(f"worker {rank} of {workers} on {host}, GPUs: {gpus}", file=sys.stderr)
    logging.getLogger("ray.train").setLevel(logging.CRITICAL)  # the driver tells what fails here
    if not gpus:
        os.environ["CUDA_VISIBLE_DEVICES"] = "-1"  # Ray hides none from a worker that reserves none
    config["coordinator"].begin.remote()
    import_tensorflow()
    from catdog.training.trainer import train

    reports = _Reports(recipe, rank, config["coordinator"])
    try:
        ended: dict[str, Any] | Stopped | None = train(
            recipe, partial(stop_request, config["coordinator"]), reports.add, began
        )
    except Stopped as stopped:
        ended = stopped
    reports.finish()
    return ended


class _Reports:
    """Tells Ray of validations and commits, in the background: a report waits for all workers, and takes seconds. The
    driver is told once of the first steps."""

    def __init__(self, recipe: Recipe, rank: int, coordinator: Any) -> None:
        self._chief = rank == 0
        self._coordinator, self._advanced = coordinator, False
        self._tags = {"run": recipe.run.uri}
        self._gauges: dict[str, Gauge] = {}
        self._pool = ThreadPoolExecutor(1, "report")
        self._last: Future[None] | None = None

    def add(self, line: Line, committed: int | None) -> None:
        """Show a line of metrics; of a validation Ray Train is told as well, with the last commit so far."""
        if self._chief:
            self._show(line)
        if line["split"] == "train" and not self._advanced:
            self._coordinator.advance.remote()
            self._advanced = True
        if line["split"] == "val":
            self.finish()
            self._last = self._pool.submit(self._report, line, committed)

    def finish(self) -> None:
        """Wait for the last report; raises what it raised."""
        if self._last is not None:
            self._last.result()

    def _show(self, line: Line) -> None:
        """On the dashboard's metrics, as gauges catdog_SPLIT_NAME."""
        for name, value in line.items():
            if isinstance(value, int | float) and name != "time":
                gauge = f"catdog_{line['split']}_{name}"
                if gauge not in self._gauges:
                    self._gauges[gauge] = Gauge(gauge, f"{name} on the {line['split']} split", tag_keys=("run",))
                self._gauges[gauge].set(value, self._tags)

    def _report(self, line: Line, committed: int | None) -> None:
        checkpoint = None
        if self._chief and committed is not None:
            storage = ray_train.get_context().get_storage()
            place = os.path.join(RUN_PATH.of(storage), checkpoint_folder(committed))
            checkpoint = ray_train.Checkpoint(place, storage.storage_filesystem)
        ray_train.report(line, checkpoint, checkpoint_upload_mode=CheckpointUploadMode.NO_UPLOAD)
