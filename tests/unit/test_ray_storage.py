"""A run in object storage as Ray Train sees it."""

import os
import pickle

import pytest
from ray.train import Checkpoint
from ray.train.v2._internal.execution.storage import StorageContext

from catdog.errors import CallerError
from catdog.recipe import Recipe, Run
from catdog.storage import open_bucket
from job.ray_storage import claim, ray_storage, release
from tests.stand_ins.fake_store import FakeStore

RUN = Recipe(run=Run(uri="gs://bucket/runs/photos"))


@pytest.mark.usefixtures("store")
def test_ray_keeps_its_notes_in_the_run_and_they_are_removed_from_there() -> None:
    claim(RUN)
    storage = ray_storage(RUN)
    context = StorageContext(storage["storage_path"], storage["name"], storage["storage_filesystem"])
    assert context.experiment_fs_path == "bucket/runs/photos"
    assert open_bucket(RUN.run.uri).list() == [".validate_storage_marker"]
    release(RUN)
    assert open_bucket("gs://bucket").list() == []


def test_a_checkpoint_that_ray_is_told_of_can_be_brought_to_a_folder(store: FakeStore) -> None:
    open_bucket(RUN.run.uri).write("checkpoints/step-00000003/state.npz", b"arrays")
    files = pickle.loads(pickle.dumps(ray_storage(RUN)["storage_filesystem"]))
    assert files == ray_storage(RUN)["storage_filesystem"]
    with Checkpoint("bucket/runs/photos/checkpoints/step-00000003", files).as_directory() as folder:
        assert os.listdir(folder) == ["state.npz"]
        with open(os.path.join(folder, "state.npz"), "rb") as file:
            assert file.read() == b"arrays"


@pytest.mark.parametrize("name", ["checkpoint_manager_snapshot.json", "model.keras", "recipe.toml"])
def test_a_place_of_something_else_is_left_alone(store: FakeStore, name: str) -> None:
    store.put("bucket", f"runs/photos/{name}", b"another program's")
    with pytest.raises(CallerError, match=name):
        claim(RUN)
    assert store.get("bucket", f"runs/photos/{name}") == b"another program's"
    assert open_bucket(RUN.run.uri).list() == [name]


@pytest.mark.parametrize(("uri", "path", "name"), [("/data/runs/photos", "/data/runs", "photos"), ("/run", "/", "run")])
def test_a_folder_is_its_own_storage(uri: str, path: str, name: str) -> None:
    assert ray_storage(Recipe(run=Run(uri=uri))) == {"storage_path": path, "name": name}


def test_a_whole_bucket_is_refused() -> None:
    with pytest.raises(CallerError, match=r"run\.uri = 'gs://bucket': must name a folder in the bucket"):
        ray_storage(Recipe(run=Run(uri="gs://bucket")))
