import hashlib
import random
import threading
from pathlib import Path

import keras
import numpy as np
import pytest
from keras.src.applications import efficientnet
from keras.src.legacy.saving import legacy_h5_format
from pictures import SHARED
from sklearn.linear_model import LogisticRegression

from catdog.data.images import decode
from catdog.errors import CallerError
from catdog.model import BUNDLED, _official, build, logits, unfreeze
from catdog.recipe import Model

FULL, PHOTOS = SHARED / "weights" / "efficientnetb0-lite0.weights.h5", SHARED / "photos"
IMAGES = np.random.default_rng(0).integers(0, 256, (2, 96, 96, 3)).astype(np.float32)


@pytest.fixture(scope="module")
def bundled() -> keras.Sequential:
    return build(Model(), 96)


def trainable_layers(model: keras.Sequential) -> list[str]:
    return [layer.name for layer in model.layers[0].layers if layer.trainable_variables]


def test_output_is_the_sigmoid_of_the_logits_in_float32(bundled: keras.Sequential) -> None:
    probabilities = bundled.predict(IMAGES, verbose=0)
    assert probabilities.shape == (2, 1)
    assert probabilities.dtype == np.float32
    np.testing.assert_allclose(probabilities[:, 0], 1 / (1 + np.exp(-logits(bundled, IMAGES).numpy())), rtol=1e-5)


def test_the_same_seed_gives_the_same_head() -> None:
    settings = Model(weights="none")
    one, same, other = (build(settings, 32, seed=seed).get_weights() for seed in (1, 1, 2))
    assert all(np.array_equal(a, b) for a, b in zip(one, same, strict=True))
    assert not all(np.array_equal(a, b) for a, b in zip(one, other, strict=True))


def test_the_same_seed_gives_the_same_model_while_other_threads_draw_random_numbers() -> None:
    settings, over = Model(weights="none"), threading.Event()

    def draw() -> None:
        while not over.wait(0.001):
            random.random()

    undisturbed = build(settings, 32).get_weights()
    drawing = threading.Thread(target=draw)
    drawing.start()
    try:
        disturbed = build(settings, 32).get_weights()
    finally:
        over.set()
        drawing.join()
    assert all(np.array_equal(a, b) for a, b in zip(undisturbed, disturbed, strict=True))


def test_a_narrow_precision_still_answers_in_float32_and_leaves_the_global_policy() -> None:
    model = build(Model(weights="none"), 32, precision="mixed_bfloat16")
    assert model.layers[0].compute_dtype == "bfloat16"
    assert model(IMAGES[:, :32, :32]).dtype == "float32"
    assert keras.config.dtype_policy().name == "float32"


def test_frozen_trains_the_head_only(bundled: keras.Sequential) -> None:
    unfreeze(bundled, "none")
    assert trainable_layers(bundled) == []
    assert len(bundled.trainable_variables) == 4


def test_a_number_of_blocks_trains_those_at_the_end_without_batch_norm(bundled: keras.Sequential) -> None:
    unfreeze(bundled, 2)
    names = trainable_layers(bundled)
    assert {name.partition("_")[0] for name in names} == {"block6d", "block7a", "top"}
    assert not any("bn" in name for name in names)


def test_all_trains_every_block_and_batch_norm_only_when_asked(bundled: keras.Sequential) -> None:
    unfreeze(bundled, "all")
    names = trainable_layers(bundled)
    assert "stem_conv" in names
    assert not any("bn" in name for name in names)
    unfreeze(bundled, "all", batch_norm=True)
    assert "stem_bn" in trainable_layers(bundled)


def test_more_blocks_than_there_are_is_refused(bundled: keras.Sequential) -> None:
    with pytest.raises(CallerError, match="16 blocks"):
        unfreeze(bundled, 17)


@pytest.mark.skipif(not FULL.is_file(), reason="the float32 weights are not here")
def test_bundled_weights_are_the_full_ones_rounded_to_float16(bundled: keras.Sequential) -> None:
    full = keras.applications.EfficientNetB0(include_top=False, weights=None, input_shape=(96, 96, 3))
    full.load_weights(FULL)
    for ours, theirs in zip(bundled.layers[0].get_weights(), full.get_weights(), strict=True):
        np.testing.assert_array_equal(ours, theirs.astype(np.float16).astype(theirs.dtype))


@pytest.mark.skipif(not (FULL.is_file() and PHOTOS.is_dir()), reason="the float32 weights and the photos are not here")
def test_rounding_the_bundled_weights_to_float16_costs_no_accuracy(bundled: keras.Sequential) -> None:
    files = [path for name in ("cat", "dog") for path in sorted((PHOTOS / name).iterdir())[:100]]
    images = np.stack([np.asarray(decode(path.read_bytes()).resize((96, 96))) for path in files]).astype(np.float32)
    labels = np.arange(200) // 100
    full, rounded = (
        keras.Sequential(model.layers[:2]).predict(images, verbose=0)
        for model in (build(Model(weights=str(FULL)), 96), bundled)
    )
    half = np.arange(200) % 2 == 0  # a probe is fitted to these under the full weights, and tried on the others
    probe = LogisticRegression(C=0.01, max_iter=1000).fit(full[half], labels[half])
    right, rounded_right = (probe.score(features[~half], labels[~half]) for features in (full, rounded))
    assert right > 0.8
    assert abs(right - rounded_right) <= 0.01


def test_weights_of_another_shape_are_refused_in_one_line() -> None:
    with pytest.raises(CallerError, match="does not fit EfficientNetB1") as error:
        build(Model(backbone="EfficientNetB1", weights=str(BUNDLED)), 96)
    assert "\n" not in str(error.value)


def test_a_missing_weights_file_is_named() -> None:
    with pytest.raises(CallerError, match="nowhere/file"):
        build(Model(weights="nowhere/file.weights.h5"), 96)


@pytest.fixture
def official(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where Keras looks for EfficientNetB0's ImageNet file, in an empty home and with no network."""
    monkeypatch.setattr("keras.src.utils.file_utils.config.keras_home", lambda: str(tmp_path))
    monkeypatch.setattr("catdog.model.keras_home", lambda: str(tmp_path))

    def offline(url: str, *_: object) -> None:
        raise Exception(f"URL fetch failure on {url}: None -- no network")

    monkeypatch.setattr("keras.src.utils.file_utils.urlretrieve", offline)
    return tmp_path / "models" / "efficientnetb0_notop.h5"


def test_imagenet_without_network_tells_where_the_file_must_be_and_its_md5(official: Path) -> None:
    with pytest.raises(CallerError) as error:
        build(Model(weights="imagenet"), 96)
    assert str(official) in str(error.value)
    assert efficientnet.WEIGHTS_HASHES["b0"][1] in str(error.value)
    assert "\n" not in str(error.value)


def test_imagenet_uses_the_file_that_is_there_and_refuses_it_by_path(
    official: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = keras.applications.EfficientNetB0(include_top=False, weights=None, input_shape=(96, 96, 3))
    official.parent.mkdir(exist_ok=True)
    import h5py

    with h5py.File(official, "w") as file:
        legacy_h5_format.save_weights_to_hdf5_group(file, source)
    md5 = hashlib.md5(official.read_bytes()).hexdigest()
    monkeypatch.setitem(efficientnet.WEIGHTS_HASHES, "b0", ("", md5))
    backbone = build(Model(weights="imagenet"), 96).layers[0]
    kinds = [type(layer).__name__ for layer in backbone.layers]
    assert kinds.count("Rescaling") == 2  # the official weights need the second one
    np.testing.assert_array_equal(
        backbone.get_layer("top_conv").get_weights()[0], source.get_layer("top_conv").get_weights()[0]
    )
    renamed = official.with_name("mine.h5")
    official.rename(renamed)
    with pytest.raises(CallerError, match="'imagenet'"):
        build(Model(weights=str(renamed)), 96)


@pytest.mark.parametrize("name", ["EfficientNetV2B0", "EfficientNetV2S"])
def test_official_files_are_named_as_keras_names_them(name: str, official: Path) -> None:
    with pytest.raises(CallerError, match="URL fetch failure") as error:
        build(Model(backbone=name, weights="imagenet"), 96)
    file, md5 = _official(name)
    assert f"/{file}: None" in str(error.value)
    assert len(md5) == 32
