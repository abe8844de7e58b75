"""The training step on a small model: reduce, agree, clip, apply."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from tensorflow.python.eager import context

from catdog.data.augment import DRAWS
from catdog.data.order import Share, replica_rows
from catdog.model import make_stateless, moments
from catdog.recipe import Augment, Data, Loss, Model, Optimizer, Phase, Recipe
from catdog.training.state import INITIAL_SCALE, TrainingState
from catdog.training.step import StepSettings, losses, make_predict_step, make_train_step
from catdog.training.strategy import make_strategy
from catdog.training.timing import TimedStep

SIDE, BATCH, STREAMS = 32, 16, 4
RECIPE = Recipe(
    data=Data(side=SIDE, global_batch=BATCH, streams=STREAMS),
    model=Model(units=8, dropout=0.5),
    augment=Augment(min_area=1.0),
)


def small_model(precision: str = "float32") -> keras.Sequential:
    keras.utils.set_random_seed(3)
    layers = keras.layers
    inputs = keras.Input((SIDE, SIDE, 3))
    x = layers.Rescaling(1 / 255, dtype=precision)(inputs)
    x = layers.Conv2D(6, 3, strides=2, use_bias=False, dtype=precision)(x)
    x = layers.BatchNormalization(dtype=precision)(x)
    outputs = layers.Activation("swish", dtype=precision)(x)
    return keras.Sequential(
        [
            keras.Model(inputs, outputs),
            layers.GlobalAveragePooling2D(dtype=precision),
            layers.Dense(8, activation="relu", dtype=precision),
            layers.Dropout(0.5, dtype=precision),
            layers.Dense(1, activation="sigmoid", dtype="float32"),
        ]
    )


class Harness:
    """A state and its step on `cpu:N`, fed with the same canonical batches for every N."""

    def __init__(
        self,
        replicas: int,
        recipe: Recipe = RECIPE,
        precision: str = "float32",
        batch_norm: bool = False,
        xla: bool = False,
    ):
        self.replicas, self.recipe = replicas, recipe
        self.strategy = make_strategy(f"cpu:{replicas}")
        with self.strategy.scope():
            model = small_model(precision)
            model.layers[0].layers[3].trainable = batch_norm
            if batch_norm:
                make_stateless(model, synchronize=replicas > 1)
            self.state = TrainingState(model, recipe, precision)
            self.state.start_phase()
        self.step = make_train_step(self.strategy, self.state, StepSettings(recipe, batch_norm, xla=xla))

    def run(self, step: int, spoil: dict[int, float] | None = None, rate: float = 1e-2) -> dict[str, Any]:
        outcome = self.step(self.batch(step, spoil or {}), rate, step)
        return {name: value.numpy() for name, value in outcome.items()}

    def batch(self, step: int, weights: dict[int, float]) -> Any:
        """Batch `step`, with the weight of some global rows set to what is given."""
        rng = np.random.default_rng(step)
        label = rng.integers(0, 2, BATCH).astype(np.float32)
        image = (rng.integers(0, 128, (BATCH, SIDE, SIDE, 3)) + 100 * label[:, None, None, None]).astype(np.uint8)
        draws = rng.random((BATCH, DRAWS), np.float32)
        weight = np.array([weights.get(row, 1.0) for row in range(BATCH)], np.float32)
        table = replica_rows(STREAMS, BATCH, Share(replicas=self.replicas))

        def share(context: Any) -> dict[str, tf.Tensor]:
            own = table[context.replica_id_in_sync_group]
            at = np.maximum(own, 0)
            arrays = {"image": image[at], "label": label[at], "draws": draws[at], "weight": weight[at] * (own >= 0)}
            return {n: tf.constant(a) for n, a in arrays.items()} | {"row": tf.constant(own.astype(np.int32))}

        return self.strategy.experimental_distribute_values_from_function(share)

    def weights(self, replica: int = 0) -> list[np.ndarray]:
        return [self.strategy.experimental_local_results(w.value)[replica].numpy() for w in self.state.model.weights]


def assert_close(one: list[np.ndarray], other: list[np.ndarray], tolerance: float) -> None:
    for a, b in zip(one, other, strict=True):
        np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance)


def test_one_device_and_two_replicas_take_the_same_steps() -> None:
    one, two = Harness(1), Harness(2)
    for step in range(6):
        a, b = one.run(step), two.run(step)
        assert a["loss"] == pytest.approx(b["loss"], rel=1e-5)
        assert a["norm"] == pytest.approx(b["norm"], rel=1e-4)
        assert a["correct"] == b["correct"]
    assert_close(one.weights(), two.weights(), 1e-4)
    assert all(np.array_equal(a, b) for a, b in zip(two.weights(0), two.weights(1), strict=True))


@pytest.mark.parametrize("change", [{"accumulate": 2}, {"accumulate": 4}])
def test_accumulation_changes_no_result(change: dict[str, Any]) -> None:
    whole, parts = Harness(1), Harness(1, replace(RECIPE, optimizer=Optimizer(**change)))
    for step in range(3):
        assert whole.run(step)["loss"] == pytest.approx(parts.run(step)["loss"], rel=1e-5)
    assert_close(whole.weights(), parts.weights(), 1e-4)


def test_mixup_is_the_same_on_one_device_and_on_two_replicas() -> None:
    recipe = replace(RECIPE, augment=replace(RECIPE.augment, mixup=0.4))
    one, two, plain = Harness(1, recipe), Harness(2, recipe), Harness(1)
    losses = [(one.run(step)["loss"], two.run(step)["loss"], plain.run(step)["loss"]) for step in range(3)]
    for a, b, without in losses:
        assert a == pytest.approx(b, rel=1e-5)
        assert a != pytest.approx(without, rel=1e-3)


def test_all_options_together_end_alike_on_one_device_and_on_two_replicas() -> None:
    recipe = replace(
        RECIPE,
        augment=replace(RECIPE.augment, mixup=0.4),
        optimizer=Optimizer(name="adamw", weight_decay=0.01, accumulate=2, ema=0.9),
        loss=Loss(label_smoothing=0.1),
    )
    one, two = Harness(1, recipe), Harness(2, recipe)
    for step in range(8):
        assert one.run(step)["loss"] == pytest.approx(two.run(step)["loss"], rel=1e-4)
    assert_close(one.weights(), two.weights(), 1e-3)
    for mean, other in zip(one.state.average, two.state.average, strict=True):
        np.testing.assert_allclose(mean.numpy(), other.numpy(), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("replicas", [1, 2])
@pytest.mark.parametrize(
    "change", [{}, {"accumulate": 2}, {"name": "adamw", "weight_decay": 0.01, "ema": 0.9}, {"clip_norm": 1e-3}]
)
def test_compiled_by_xla_a_step_is_the_same_but_for_the_last_digits(replicas: int, change: dict[str, Any]) -> None:
    recipe = replace(RECIPE, optimizer=Optimizer(**change))
    plain, compiled = Harness(replicas, recipe), Harness(replicas, recipe, xla=True)
    for step in range(4):
        a, b = plain.run(step), compiled.run(step)
        assert a["loss"] == pytest.approx(b["loss"], rel=1e-4)
        assert a["norm"] == pytest.approx(b["norm"], rel=1e-3)
    for replica in range(replicas):
        assert_close(plain.weights(replica), compiled.weights(replica), 1e-3)
    for mean, other in zip(plain.state.average, compiled.state.average, strict=True):
        np.testing.assert_allclose(mean.numpy(), other.numpy(), rtol=1e-3, atol=1e-3)


def test_training_from_scratch_synchronises_batch_norm() -> None:
    one, two = Harness(1, batch_norm=True), Harness(2, batch_norm=True)
    start = one.weights()
    for step in range(4):
        assert one.run(step)["loss"] == pytest.approx(two.run(step)["loss"], rel=1e-4)
    assert_close(one.weights(), two.weights(), 1e-3)
    assert all(np.array_equal(a, b) for a, b in zip(two.weights(0), two.weights(1), strict=True))
    names = [w.path for w in one.state.model.weights]
    moving = next(i for i, name in enumerate(names) if name.endswith("moving_mean"))
    assert not np.array_equal(start[moving], one.weights()[moving])


def test_a_frozen_batch_norm_keeps_its_statistics() -> None:
    harness = Harness(1)
    names = [w.path for w in harness.state.model.weights]
    before = harness.weights()
    harness.run(0)
    for name, old, new in zip(names, before, harness.weights(), strict=True):
        assert np.array_equal(old, new) == ("batch_normalization" in name)


@pytest.mark.parametrize("xla", [False, True])
@pytest.mark.parametrize("replicas", [1, 2])
def test_an_overflow_on_the_last_replica_is_skipped_on_all_and_halves_the_scale(replicas: int, xla: bool) -> None:
    recipe = replace(RECIPE, optimizer=Optimizer(ema=0.9))
    harness = Harness(replicas, recipe, precision="mixed_float16", xla=xla)
    harness.run(0)
    before, slots = harness.weights(), [v.numpy() for v in harness.state.optimizer.variables]
    means = [mean.numpy() for mean in harness.state.average]
    outcome = harness.run(1, spoil={BATCH - 1: np.inf})
    assert not outcome["finite"]
    assert harness.state.loss_scale.numpy() == INITIAL_SCALE / 2
    for replica in range(replicas):
        assert all(np.array_equal(a, b) for a, b in zip(before, harness.weights(replica), strict=True))
    assert all(np.array_equal(a, v.numpy()) for a, v in zip(slots, harness.state.optimizer.variables, strict=True))
    assert all(np.array_equal(a, v.numpy()) for a, v in zip(means, harness.state.average, strict=True))
    assert harness.run(2)["finite"]
    for replica in range(replicas):
        assert all(np.isfinite(w).all() for w in harness.weights(replica))
        assert all(np.array_equal(a, b) for a, b in zip(harness.weights(0), harness.weights(replica), strict=True))


def test_the_scale_doubles_after_enough_good_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("catdog.training.step.SCALE_GROWTH_STEPS", 3)
    harness = Harness(1, precision="mixed_float16")
    scales = [harness.run(step) and float(harness.state.loss_scale.numpy()) for step in range(7)]
    assert scales == [INITIAL_SCALE * factor for factor in (1, 1, 2, 2, 2, 4, 4)]


def test_the_loss_scale_does_not_change_the_norm_that_clips() -> None:
    plain, scaled = Harness(1), Harness(1, precision="mixed_float16")
    assert plain.run(0)["norm"] == pytest.approx(scaled.run(0)["norm"], rel=2e-2)


def test_clipping_bounds_the_reduced_gradient_on_any_number_of_replicas() -> None:
    # A gradient of norm n, cut to c, moves plain numbers less; Adam hides it, so its first moment is what shows it.
    recipe = replace(RECIPE, optimizer=Optimizer(clip_norm=1e-3))
    for replicas in (1, 2):
        harness = Harness(replicas, recipe)
        assert harness.run(0)["norm"] > 1e-2
        moments = [v.numpy() for v in harness.state.optimizer.variables if "momentum" in v.path]
        assert np.sqrt(sum(float((m**2).sum()) for m in moments)) == pytest.approx(0.1 * 1e-3, rel=1e-3)


def test_rows_of_weight_zero_count_for_nothing() -> None:
    spoilt = dict.fromkeys(range(8, BATCH), 0.0)
    harness = Harness(1)
    outcome = harness.run(0, spoil=spoilt)
    assert 0 < outcome["loss"] < 8 * 3
    assert outcome["correct"] <= 8


def test_dropout_depends_on_the_step_and_not_on_the_replicas() -> None:
    harness = Harness(1)
    assert harness.run(0, rate=0.0)["loss"] == harness.run(0, rate=0.0)["loss"]
    batch = harness.batch(0, {})
    same = [harness.step(batch, 0.0, step)["loss"].numpy() for step in (5, 5, 6)]
    assert same[0] == same[1] != same[2]


def test_the_moving_average_of_what_is_frozen_is_that_to_the_last_digit() -> None:
    harness = Harness(1, replace(RECIPE, optimizer=Optimizer(ema=0.9)))
    frozen = harness.state.model.layers[0].layers[3].weights
    values = [np.random.default_rng(0).random(weight.shape, np.float32) for weight in frozen]
    means = dict(zip((weight.path for weight in harness.state.model.weights), harness.state.average, strict=True))
    for weight, value in zip(frozen, values, strict=True):
        weight.assign(value)
        means[weight.path].assign(value)
    for step in range(20):
        harness.run(step)
    for weight, value in zip(frozen, values, strict=True):
        np.testing.assert_array_equal(means[weight.path].numpy(), value)


def test_the_moving_average_follows_the_weights_and_is_what_is_validated() -> None:
    harness = Harness(2, replace(RECIPE, optimizer=Optimizer(ema=0.9)))
    start = harness.weights()
    for step in range(5):
        harness.run(step)
    means = [mean.numpy() for mean in harness.state.average]
    kernel = next(i for i, w in enumerate(harness.state.model.weights) if w.path.endswith("kernel"))
    moved, lag = np.abs(harness.weights()[kernel] - start[kernel]), np.abs(harness.weights()[kernel] - means[kernel])
    assert 0 < lag.mean() < moved.mean()
    own = harness.weights()
    with harness.state.averaged():
        assert all(np.array_equal(a, b) for a, b in zip(harness.weights(1), means, strict=True))
    assert all(np.array_equal(a, b) for a, b in zip(harness.weights(1), own, strict=True))


@pytest.mark.parametrize("xla", [False, True])
def test_a_state_put_back_takes_the_same_steps_bit_for_bit(xla: bool) -> None:
    recipe = replace(RECIPE, optimizer=Optimizer(name="adamw", weight_decay=0.01, ema=0.99))
    first = Harness(1, recipe, "mixed_float16", xla=xla)
    for step in range(2):
        first.run(step)
    arrays = first.state.snapshot()
    second = Harness(1, recipe, "mixed_float16", xla=xla)
    second.state.restore(arrays)
    for step in range(2, 5):
        assert first.run(step) == second.run(step)
    for name, value in first.state.snapshot().items():
        assert value.tobytes() == second.state.snapshot()[name].tobytes(), name


def test_a_snapshot_does_not_change_with_later_steps() -> None:
    harness = Harness(1)
    arrays = harness.state.snapshot()
    copies = {name: value.copy() for name, value in arrays.items()}
    harness.run(0)
    assert all(np.array_equal(arrays[name], copies[name]) for name in copies)
    assert any(not np.array_equal(arrays[n], v) for n, v in harness.state.snapshot().items())


def test_prediction_gives_the_rows_of_all_replicas_in_turn() -> None:
    harness = Harness(2)
    images = np.random.default_rng(0).integers(0, 256, (8, SIDE, SIDE, 3)).astype(np.uint8)
    share = harness.strategy.experimental_distribute_values_from_function(
        lambda context: {
            "image": tf.constant(images[4 * context.replica_id_in_sync_group :][:4]),
            "example": tf.constant(np.arange(4) + 4 * context.replica_id_in_sync_group),
        }
    )
    examples, scores = (t.numpy() for t in make_predict_step(harness.strategy, harness.state.model)(share))
    assert examples.tolist() == list(range(8))
    expected = harness.state.model.predict(images.astype(np.float32), verbose=0)[:, 0]
    np.testing.assert_allclose(1 / (1 + np.exp(-scores)), expected, rtol=1e-5)


LABELS, SCORES = tf.constant([0.0, 1.0, 1.0]), tf.constant([-2.0, -2.0, 3.0])


def cross_entropy(target: np.ndarray, score: np.ndarray) -> np.ndarray:
    p = 1 / (1 + np.exp(-score))
    return -(target * np.log(p) + (1 - target) * np.log(1 - p))


@pytest.mark.parametrize("balance", ["none", "class_weight", "focal"])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_losses_are_what_their_papers_say(balance: str, smoothing: float) -> None:
    settings = Loss(balance=balance, label_smoothing=smoothing)  # type: ignore[arg-type]
    labels, scores = LABELS.numpy(), SCORES.numpy()
    targets = labels * (1 - smoothing) + smoothing / 2
    expected = cross_entropy(targets, scores)
    if balance == "focal":
        expected *= np.abs(targets - 1 / (1 + np.exp(-scores))) ** 2
    if balance != "none":
        expected *= np.where(labels == 1, 0.75, 1.5)
    np.testing.assert_allclose(losses(LABELS, SCORES, settings, (1.5, 0.75)).numpy(), expected, rtol=1e-4)


@pytest.mark.parametrize("balance", ["none", "class_weight", "focal"])
@pytest.mark.parametrize("gamma", [0.5, 2.0])
def test_the_gradient_of_the_losses_is_what_differentiating_them_gives(balance: str, gamma: float) -> None:
    settings = Loss(balance=balance, label_smoothing=0.1, focal_gamma=gamma)  # type: ignore[arg-type]
    scores, labels = (t.reshape(-1) for t in np.meshgrid(np.linspace(-9, 9, 31), [0.0, 0.3, 1.0]))
    upstream = np.linspace(0.5, 2, len(scores))
    eps = 1e-6

    def numeric(score: np.ndarray) -> np.ndarray:
        targets = labels * 0.9 + 0.05
        result = cross_entropy(targets, score)
        if balance == "focal":
            result = result * (np.abs(targets - 1 / (1 + np.exp(-score))) + 1e-7) ** gamma
        return result if balance == "none" else result * ((1 - labels) * 1.5 + labels * 0.75)

    variable = tf.constant(scores, tf.float32)
    with tf.GradientTape() as tape:
        tape.watch(variable)
        told = losses(tf.constant(labels, tf.float32), variable, settings, (1.5, 0.75)) * upstream.astype(np.float32)
    expected = (numeric(scores + eps) - numeric(scores - eps)) / (2 * eps) * upstream
    np.testing.assert_allclose(told.numpy(), numeric(scores) * upstream, rtol=1e-4)
    np.testing.assert_allclose(tape.gradient(told, variable).numpy(), expected, rtol=2e-3, atol=2e-5)


@pytest.mark.parametrize("replicas", [1, 2])
def test_moments_and_their_gradient_are_those_of_the_whole_batch(replicas: int) -> None:
    rng = np.random.default_rng(0)
    inputs, upstream = (tf.constant(rng.normal(3, 2, shape).astype(np.float32)) for shape in ((4, 5, 6, 3), (2, 3)))

    def gradient(own: tf.Tensor, mean_and_variance: Any) -> tuple[tf.Tensor, tf.Tensor]:
        with tf.GradientTape() as tape:
            tape.watch(own)
            found = tf.stack(mean_and_variance(own))
        return found, tape.gradient(found, own, upstream / replicas)  # of a sum over the replicas

    strategy = make_strategy(f"cpu:{replicas}")
    parts = tf.split(inputs, replicas)
    share = strategy.experimental_distribute_values_from_function(lambda c: parts[c.replica_id_in_sync_group])
    run = tf.function(lambda x: strategy.run(gradient, (x, lambda own: moments(own, replicas > 1))), autograph=False)
    found, ours = (strategy.experimental_local_results(each) for each in run(share))
    expected, theirs = gradient(inputs, lambda x: tf.nn.moments(x, [0, 1, 2]))
    np.testing.assert_allclose(found[-1].numpy(), expected.numpy(), rtol=1e-4)
    np.testing.assert_allclose(tf.concat(ours, 0).numpy(), theirs.numpy() * replicas, rtol=1e-4, atol=1e-6)


def sums_of_more_than_two(take: Callable[[], object]) -> list[str]:
    """The AddN of three or more inputs in what TensorFlow makes of a step, by name."""
    context.enable_graph_collection()
    try:
        take()
        graphs = context.export_run_metadata().function_graphs
    finally:
        context.disable_graph_collection()
    optimized = [graph.post_optimization_graph for graph in graphs]
    nodes = [node for graph in optimized for node in graph.node]
    nodes += [node for graph in optimized for function in graph.library.function for node in function.node_def]
    assert any(node.op == "Conv2DBackpropFilter" for node in nodes)
    return [node.name for node in nodes if node.op == "AddN" and node.attr["N"].i > 2]


@pytest.mark.parametrize("replicas", [1, 3])
@pytest.mark.parametrize(
    ("options", "batch_norm"),
    [
        ({}, False),
        ({}, True),
        ({"accumulate": 2}, False),
        ({"balance": "focal", "mixup": 0.4, "ema": 0.9, "name": "adamw"}, False),
    ],
)
def test_no_step_adds_more_than_two_at_once_for_their_order_would_be_left_to_chance(
    options: dict[str, Any], batch_norm: bool, replicas: int
) -> None:
    """TensorFlow's AddN begins with whichever input nobody else still holds."""
    changed = {
        field: replace(
            getattr(RECIPE, field), **{k: v for k, v in options.items() if hasattr(getattr(RECIPE, field), k)}
        )
        for field in ("optimizer", "loss", "augment")
    }
    harness = Harness(replicas, replace(RECIPE, **changed), batch_norm=batch_norm)
    assert sums_of_more_than_two(lambda: harness.run(0)) == []


def test_nor_does_one_of_the_whole_backbone() -> None:
    recipe = replace(RECIPE, model=Model(weights="none"), phases=(Phase("all", unfreeze="all"),))
    step = TimedStep(recipe, recipe.phases[0], "float32")
    batch = step.batch(BATCH)
    assert sums_of_more_than_two(lambda: step.take(batch, 0.0, 0, False)) == []
