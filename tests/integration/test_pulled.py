"""A run that was pulled is a run."""

from pathlib import Path

from processes import Process, assert_same

from catdog.pull import pull
from catdog.storage import Bucket, Folder


def test_a_pulled_run_goes_on_from_its_checkpoint_and_ends_the_same(
    small_recipe: Path, undisturbed: Bucket, tmp_path: Path
) -> None:
    folder = Folder(str(tmp_path / "pulled"))
    pull(undisturbed, folder, "39")
    log = Process(small_recipe, folder).finish()
    assert "going on from step 39 of 40" in log
    assert_same(folder, undisturbed)
