"""Ray Train accepts only checkpoints below its storage folder, so a run's folder is made that folder."""

import io
from typing import Any

from fsspec import AbstractFileSystem
from pyarrow.fs import FSSpecHandler, PyFileSystem

from catdog.errors import CallerError
from catdog.recipe import Recipe
from catdog.runs.folder import RECIPE, require_ours
from catdog.storage import Bucket, open_bucket
from job.ray_private.names import CHECKPOINT_SNAPSHOT, STORAGE_MARKER


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
    files = PyFileSystem(FSSpecHandler(_Objects(recipe.storage.patience)))
    return {"storage_path": parent, "name": name, "storage_filesystem": files}


def claim(recipe: Recipe) -> None:
    """Ready a run for Ray: it is there, can be written, and holds none of Ray's notes, for Ray refuses to begin where a
    checkpoint that it was told of is there no more. Raises CallerError where the place is not this run's to take, and
    CallerError and RunError as the run's bucket does."""
    run = _run(recipe)
    require_ours(run)
    if run.exists(CHECKPOINT_SNAPSHOT) and not run.exists(RECIPE):
        raise CallerError(
            f"{run.uri}: holds {CHECKPOINT_SNAPSHOT} but no {RECIPE} that tells whose: name another folder"
        )
    release(recipe)
    run.write(STORAGE_MARKER, b"")


def release(recipe: Recipe) -> None:
    """Remove what Ray keeps in a run."""
    for name in (STORAGE_MARKER, CHECKPOINT_SNAPSHOT):
        _run(recipe).delete(name)


def _run(recipe: Recipe) -> Bucket:
    return open_bucket(recipe.run.uri, patience=recipe.storage.patience)


class _Objects(AbstractFileSystem):
    """Object storage as files, with the retries and checks of our own bucket; a path is `bucket/name`."""

    def __init__(self, patience: float) -> None:
        super().__init__(patience)
        self._patience = patience

    def info(self, path: str, **_: Any) -> dict[str, Any]:
        bucket, name = self._find(path)
        if (stat := bucket.stat(name)) is not None:
            return {"name": path, "size": stat.size, "type": "file"}
        if bucket.list(f"{name}/"):
            return {"name": path, "size": 0, "type": "directory"}
        raise FileNotFoundError(path)

    def ls(self, path: str, detail: bool = True, **_: Any) -> list[Any]:
        bucket, name = self._find(path)
        below = {found.removeprefix(f"{name}/").partition("/")[0] for found in bucket.list(f"{name}/")}
        paths = [f"{path.rstrip('/')}/{each}" for each in sorted(below)]
        return [self.info(each) for each in paths] if detail else paths

    def rm_file(self, path: str) -> None:
        bucket, name = self._find(path)
        bucket.delete(name)

    def _open(self, path: str, mode: str = "rb", **_: Any) -> io.BytesIO:
        bucket, name = self._find(path)
        return io.BytesIO(bucket.read(name)) if mode == "rb" else _Written(bucket, name)

    def _find(self, path: str) -> tuple[Bucket, str]:
        parent, _, name = path.strip("/").rpartition("/")
        return open_bucket(f"gs://{parent}", patience=self._patience), name


class _Written(io.BytesIO):
    """What is written becomes the object when it is closed."""

    def __init__(self, bucket: Bucket, name: str) -> None:
        super().__init__()
        self._bucket = bucket
        self._name = name

    def close(self) -> None:
        if not self.closed:
            self._bucket.write(self._name, self.getvalue())
        super().close()
