"""Augmentation: the numbers that decide it, and what they do to a picture."""

import dataclasses

import numpy as np
import pytest
import tensorflow as tf

from catdog.data.augment import (
    BRIGHTNESS,
    CONTRAST,
    CROP_AREA,
    CROP_ASPECT,
    CROP_X,
    CROP_Y,
    DRAWS,
    FLIP,
    MIXUP,
    ROTATION,
    SATURATION,
    augment,
    crop_window,
    draws,
    mixup,
)
from catdog.recipe import Augment

OFF = Augment(min_area=1.0, flip=False, rotation=0.0, brightness=0.0, contrast=0.0, saturation=0.0)
ALL = Augment(rotation=20.0, brightness=0.3, contrast=0.3, saturation=0.3)


@pytest.fixture(autouse=True)
def on_the_cpu():
    """A GPU's matrix products keep fewer digits than these tests ask for."""
    with tf.device("CPU:0"):
        yield


def only(**change) -> Augment:
    return dataclasses.replace(OFF, **change)


def pictures(count: int = 6, side: int = 33, seed: int = 0) -> np.ndarray:
    """Smooth coloured noise, uint8 [count, side, side, 3], away from black and white so that nothing is clipped."""
    coarse = np.random.default_rng(seed).uniform(90, 160, (count, 6, 6, 3)).astype(np.float32)
    return tf.image.resize(coarse, (side, side), method="bicubic").numpy().round().astype(np.uint8)


def numbers(count: int, **columns: float) -> np.ndarray:
    """Draws that change nothing but the named columns."""
    names = {
        "flip": FLIP,
        "rotation": ROTATION,
        "brightness": BRIGHTNESS,
        "contrast": CONTRAST,
        "saturation": SATURATION,
    }
    result = np.full((count, DRAWS), 0.5, np.float32)
    for name, value in columns.items():
        result[:, names[name]] = value
    return result


def test_draws_are_uniform_and_unrelated_to_each_other_and_to_neighbouring_keys():
    base = draws(3, 5, np.arange(20_000))
    assert base.dtype == np.float32 and base.shape == (20_000, DRAWS)
    assert base.min() >= 0 and base.max() < 1
    others = {"epoch": draws(3, 6, np.arange(20_000)), "seed": draws(4, 5, np.arange(20_000)), "example": base[1:]}
    for name, table in others.items():
        correlation = np.corrcoef(base[: len(table)].T, table.T)
        assert np.abs(correlation - np.eye(2 * DRAWS)).max() < 5 / np.sqrt(20_000), name
    for column in base.T:
        assert abs(column.mean() - 1 / 2) < 5 * np.sqrt(1 / 12 / 20_000)
        assert abs(column.var() - 1 / 12) < 0.002
        counts = np.histogram(column, 64, (0, 1))[0]
        assert ((counts - 312.5) ** 2 / 312.5).sum() < 63 + 5 * np.sqrt(2 * 63)


def test_draws_depend_on_the_key_alone():
    whole = draws(9, 2, np.arange(50))
    assert (draws(9, 2, np.array([7, 3, 49])) == whole[[7, 3, 49]]).all()
    assert np.allclose(whole[0, :3], [0.5779406, 0.4717293, 0.223776], atol=1e-7)


def test_with_an_alpha_the_column_of_mixup_is_of_the_beta_distribution_and_the_others_are_as_without():
    plain, mixed = draws(3, 5, np.arange(20_000)), draws(3, 5, np.arange(20_000), alpha=0.3)
    others = np.delete(np.arange(DRAWS), MIXUP)
    assert mixed.dtype == np.float32 and (mixed[:, others] == plain[:, others]).all()
    shares = mixed[:, MIXUP]
    assert shares.min() >= 0 and shares.max() <= 1
    # Beta(a, a) has mean 1/2 and variance 1 / (4 (2 a + 1)).
    assert abs(shares.mean() - 0.5) < 0.015 and abs(shares.var() - 0.25 / 1.6) < 0.005


def test_crops_keep_the_drawn_part_of_the_area_and_lie_inside():
    random = np.random.default_rng(0).random((2000, DRAWS), np.float32)
    height, width, smallest = 300, 450, 0.3
    windows = tf.data.Dataset.from_tensor_slices(random).map(lambda n: crop_window(height, width, n, smallest))
    top, left, tall, wide = np.array(list(windows.as_numpy_iterator())).T
    assert (top >= 0).all() and (left >= 0).all() and (top + tall <= height).all() and (left + wide <= width).all()
    area = tall * wide / (height * width)
    assert np.abs(area - (smallest + (1 - smallest) * random[:, CROP_AREA])).max() < 0.01
    aspect = np.log((wide / tall) / (width / height))
    assert np.abs(aspect).max() < np.log(4 / 3) + 0.02 and np.abs(aspect).max() > 0.25 and abs(aspect.mean()) < 0.02
    # The place is uniform over all places, the edges too.
    place = (left / np.maximum(width - wide, 1))[width - wide > 20]
    assert abs(place.mean() - 0.5) < 0.03 and place.min() == 0 and place.max() == 1
    assert np.corrcoef(random[:, CROP_ASPECT], aspect)[0, 1] > 0.8
    assert np.corrcoef(random[:, CROP_X], left)[0, 1] > 0.5 and np.corrcoef(random[:, CROP_Y], top)[0, 1] > 0.5


@pytest.mark.parametrize(("height", "width"), [(1, 1), (2, 500), (33, 32)])
def test_crops_of_odd_pictures_are_at_least_a_pixel(height, width):
    for value in (0.0, 0.5, np.float32(1 - 2**-24)):
        number = tf.fill([DRAWS], tf.cast(value, tf.float32))
        top, left, tall, wide = crop_window(height, width, number, 0.01).numpy()
        assert tall >= 1 and wide >= 1 and 0 <= top <= height - tall and 0 <= left <= width - wide


@pytest.mark.parametrize("settings", [OFF, ALL])
def test_draws_in_the_middle_leave_a_picture_as_it_is(settings):
    images = pictures()
    result = augment(tf.constant(images), tf.constant(numbers(len(images), flip=0.9)), settings)
    assert result.dtype == tf.float32
    assert np.abs(result.numpy() - images).max() < 1e-3


def test_nothing_switched_on_is_exactly_the_identity():
    images = pictures()
    random = np.random.default_rng(1).random((len(images), DRAWS), np.float32)
    assert (augment(tf.constant(images), tf.constant(random), OFF).numpy() == images).all()


@pytest.mark.parametrize("side", [32, 33])
def test_a_flip_mirrors_exactly_and_half_of_the_draws_flip(side):
    images = pictures(side=side)
    flipped = augment(tf.constant(images), tf.constant(numbers(6, flip=0.2)), only(flip=True)).numpy()
    kept = augment(tf.constant(images), tf.constant(numbers(6, flip=0.7)), only(flip=True)).numpy()
    assert (flipped == images[:, :, ::-1]).all()
    assert (kept == images).all()


def test_the_largest_draw_rotates_by_the_largest_angle_about_the_centre():
    images = pictures(side=33)
    turned = augment(tf.constant(images), tf.constant(numbers(6, rotation=1.0)), only(rotation=90.0)).numpy()
    back = augment(tf.constant(images), tf.constant(numbers(6, rotation=0.0)), only(rotation=90.0)).numpy()
    quarter = np.rot90(images, axes=(1, 2)).astype(np.float32)
    assert np.abs(turned - quarter).max() < 0.1
    assert np.abs(back - images[:, ::-1].transpose(0, 2, 1, 3)).max() < 0.1


def test_rotation_brings_in_reflections_and_no_black_corners():
    white = np.full((2, 40, 40, 3), 200, np.uint8)
    for settings in (only(rotation=45.0), only(rotation=45.0, flip=True)):
        for draw in (0.0, 0.3, 1.0):
            turned = augment(tf.constant(white), tf.constant(numbers(2, rotation=draw, flip=draw)), settings)
            assert np.abs(turned.numpy() - 200).max() < 1e-2


def test_brightness_moves_every_pixel_alike():
    images = pictures()
    brighter = augment(tf.constant(images), tf.constant(numbers(6, brightness=1.0)), only(brightness=0.1)).numpy()
    assert np.abs(brighter - images - 25.5).max() < 1e-3


def test_contrast_spreads_about_the_pictures_own_mean():
    images = pictures()
    result = augment(tf.constant(images), tf.constant(numbers(6, contrast=1.0)), only(contrast=0.3)).numpy()
    mean = images.mean(axis=(1, 2, 3), keepdims=True)
    assert np.abs(result - (mean + 1.3 * (images - mean))).max() < 1e-2


def test_saturation_keeps_the_luma_and_at_its_least_leaves_grey():
    images = pictures()
    result = augment(tf.constant(images), tf.constant(numbers(6, saturation=0.0)), only(saturation=0.999)).numpy()
    luma = images @ np.array([0.299, 0.587, 0.114])
    assert np.abs(result @ np.array([0.299, 0.587, 0.114]) - luma).max() < 1e-2
    assert np.ptp(result, axis=-1).max() < 0.1


def test_values_stay_in_0_to_255():
    images = np.random.default_rng(0).integers(0, 256, (16, 32, 32, 3), np.uint8)
    result = augment(tf.constant(images), tf.constant(draws(0, 0, np.arange(16))), ALL).numpy()
    assert result.min() >= 0 and result.max() <= 255


def test_a_row_is_augmented_alike_in_any_batch_and_in_a_graph():
    images, random = pictures(24), draws(1, 2, np.arange(24))
    whole = augment(tf.constant(images), tf.constant(random), ALL).numpy()
    assert np.abs(whole - images).mean() > 3
    shuffled = np.random.default_rng(0).permutation(24)
    graph = tf.function(lambda image, number: augment(image, number, ALL))
    for part in (*np.split(shuffled, 3), shuffled[:1]):
        alone = graph(tf.constant(images[part]), tf.constant(random[part])).numpy()
        assert np.abs(alone - whole[part]).max() < 1e-3


def test_mixup_mixes_each_row_with_the_next_of_its_stream_and_labels_alike():
    images = tf.constant(pictures(6, 4), tf.float32)
    labels = tf.constant([0.0, 1.0, 1.0, 0.0, 0.0, 1.0])
    share = np.array([1.0, 0.75, 0.5, 0.25, 0.0, 0.9], np.float32)
    table = numbers(6)
    table[:, MIXUP] = share
    mixed, targets = mixup(images, labels, tf.constant(table), rows_per_stream=3)
    partner = [1, 2, 0, 4, 5, 3]
    kept = share[:, None, None, None]
    assert np.allclose(mixed, images * kept + tf.gather(images, partner) * (1 - kept), atol=1e-4)
    assert np.allclose(targets, labels * share + tf.gather(labels, partner) * (1 - share), atol=1e-6)


def test_mixup_is_the_same_however_streams_are_shared_out():
    images, labels = tf.constant(pictures(12, 4), tf.float32), tf.constant(np.arange(12) % 2, tf.float32)
    table = tf.constant(draws(0, 0, np.arange(12)))
    whole = mixup(images, labels, table, rows_per_stream=3)
    for part in (slice(0, 3), slice(3, 9), slice(9, 12)):
        image, label = mixup(images[part], labels[part], table[part], rows_per_stream=3)
        assert (image.numpy() == whole[0][part].numpy()).all() and (label.numpy() == whole[1][part].numpy()).all()
