"""What a run's model tells of files."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import tensorflow as tf
from brightness import draw, rows
from PIL import Image

from catdog.data.shards import load_manifest
from catdog.errors import CallerError, RunError
from catdog.evaluation.evaluate import evaluate
from catdog.evaluation.predict import predict
from catdog.evaluation.trained_model import BATCH, Trained, load_trained
from catdog.recipe import Cache
from tests.pace import within


def test_a_file_gets_the_probability_that_evaluation_gave_it(world):
    evaluate(world.run, world.data, load_manifest(world.data), Cache())
    got = {p.path.relative_to(world.photos).as_posix(): p for p in predict(world.run, [world.photos])}
    assert len(got) == 48
    for row in rows(world.run):
        prediction = got[row["filename"]]
        dog = float(row["probability_dog"])
        assert prediction.predicted == row["predicted"]
        assert prediction.probability == pytest.approx(max(dog, 1 - dog), abs=2e-6)


def test_a_run_without_a_model_is_refused_before_the_first_prediction_is_taken(world):
    world.run.delete("model.keras")
    with pytest.raises(CallerError, match="run `catdog train` again to finish"):
        predict(world.run, [world.photos])


def test_pictures_for_which_a_device_has_no_memory_end_it_with_one_line(world):
    broken = Trained(load_trained(world.run).recipe, lambda images: tf.zeros([2**23, 2**23]))
    with pytest.raises(RunError, match=r"^no memory is left for 3 pictures of "):
        broken.probabilities(tf.zeros([3, 32, 32, 3], tf.uint8))


def test_unreadable_files_are_told_in_their_place_and_stop_nothing(world, tmp_path):
    folder = tmp_path / "mixed"
    good = [draw(folder / name, 7, bright=True) for name in ("a.png", "sub/f.png", "z.png")]
    (folder / "b.txt").write_text("not a picture")
    (folder / "c.jpg").write_bytes(b"")
    (folder / "d.png").write_bytes(good[0].read_bytes()[:200])
    os.mkfifo(folder / "e.png")
    (folder / "empty").mkdir()
    got = list(predict(world.run, [folder, tmp_path / "missing.jpg", good[2]]))
    names = ["a.png", "b.txt", "c.jpg", "d.png", "e.png", "empty", "sub/f.png", "z.png", "../missing.jpg", "z.png"]
    assert [os.path.relpath(p.path, folder) for p in got] == names
    for prediction in got:
        assert (prediction.predicted == "dog") == (prediction.error is None) == (prediction.path in good)
        assert (prediction.probability is None) == (prediction.predicted is None)
    assert "no such file" in got[8].error
    assert "empty" in got[2].error and "empty" in got[5].error


def test_hidden_files_in_folders_are_passed_over(world, tmp_path):
    draw(tmp_path / "photos/a.png", 1, bright=False)
    (tmp_path / "photos/.DS_Store").write_bytes(b"x")
    assert [p.path.name for p in predict(world.run, [tmp_path / "photos"])] == ["a.png"]


def test_a_picture_that_lies_on_its_side_is_seen_upright(world, tmp_path):
    upright = draw(tmp_path / "upright.png", 3, bright=True, size=(400, 200))
    with Image.open(upright) as image:
        exif = Image.Exif()
        exif[0x0112] = 6  # shown turned by a quarter to the right
        image.transpose(Image.Transpose.ROTATE_90).save(tmp_path / "turned.png", exif=exif)
    one, other = predict(world.run, [upright, tmp_path / "turned.png"])
    assert one.probability == other.probability


def test_files_are_read_only_as_predictions_are_taken(world, tmp_path):
    first = draw(tmp_path / "many/000.png", 1, bright=False, size=(40, 40))
    for index in range(1, 2 * BATCH):
        shutil.copy(first, tmp_path / f"many/{index:03d}.png")
    predictions = predict(world.run, [tmp_path / "many"])
    assert next(predictions).predicted == "cat"
    (tmp_path / f"many/{2 * BATCH - 1:03d}.png").write_text("changed meanwhile")
    rest = list(predictions)
    assert [p.path.name for p in rest] == [f"{index:03d}.png" for index in range(1, 2 * BATCH)]
    assert [p.error is None for p in rest] == [True] * (2 * BATCH - 2) + [False]


def test_a_link_back_to_its_own_folder_is_not_followed(world, tmp_path):
    draw(tmp_path / "photos/a.png", 1, bright=False)
    (tmp_path / "photos/again").symlink_to(tmp_path / "photos")
    assert [p.path.name for p in predict(world.run, [tmp_path / "photos"])] == ["a.png"]


def test_folders_that_lie_very_deep_in_each_other_are_told_and_stop_nothing(world, deep_folder):
    good = draw(deep_folder / "z.png", 1, bright=True)
    got = list(predict(world.run, [deep_folder]))
    assert got[-1].path == good and got[-1].predicted == "dog"


@pytest.mark.parametrize("round", range(3))
def test_pictures_of_all_formats_are_loaded_side_by_side(tmp_path: Path, round: int) -> None:
    """In a new process: what a thread imports while another one forks is imported once."""
    for index in range(4):
        for suffix in ("jpg", "tif", "webp"):
            Image.new("RGB", (64, 64), (index, 0, 200)).save(tmp_path / f"{index}.{suffix}")
    load = (
        "import sys; from concurrent.futures import ThreadPoolExecutor; from pathlib import Path\n"
        "from catdog.data.images import decode\n"
        "paths = sorted(Path(sys.argv[1]).iterdir())\n"
        "print(len(list(ThreadPoolExecutor(4).map(lambda path: decode(path.read_bytes(), 64), paths))))"
    )
    done = subprocess.run([sys.executable, "-c", load, tmp_path], capture_output=True, text=True, timeout=within(60))
    assert done.stdout == "12\n", done.stderr
