"""A run's folder as Ray Train's storage: it takes only checkpoints below its own folder for checkpoints of its run."""

import os
from datetime import timedelta
from typing import Any

from catdog.errors import CallerError
from catdog.recipe import Recipe
from catdog.storage import open_bucket

_RAYS_OWN = ("checkpoint_manager_snapshot.json", ".validate_storage_marker")


def ray_storage(recipe: Recipe) -> dict[str, Any]:
    """The arguments of Ray's RunConfig that make the run's folder its storage; raises CallerError for a whole bucket."""
    scheme, _, place = recipe.run.uri.rpartition("://")
    parent, _, name = place.rstrip("/").rpartition("/")
    if not scheme:
        return {"storage_path": parent or "/", "name": name}
    if not parent:
        raise CallerError(
            f"run.uri = {recipe.run.uri!r}: must name a folder in the bucket, as in gs://bucket/runs/photos"
        )
    return {"storage_path": parent, "name": name, "storage_filesystem": _google(recipe.storage.patience)}


def forget(recipe: Recipe) -> None:
    """Remove what Ray keeps in a run: it refuses to begin where a checkpoint that it was told of is there no more."""
    run = open_bucket(recipe.run.uri, patience=recipe.storage.patience)
    for name in _RAYS_OWN:
        run.delete(name)


def _google(patience: float) -> Any:
    from pyarrow.fs import GcsFileSystem

    limit = timedelta(seconds=patience)
    if not (emulator := os.environ.get("STORAGE_EMULATOR_HOST")):
        return GcsFileSystem(retry_time_limit=limit)
    scheme, _, host = emulator.rpartition("://")
    return GcsFileSystem(
        anonymous=True, scheme=scheme or "http", endpoint_override=host.rstrip("/"), retry_time_limit=limit
    )
