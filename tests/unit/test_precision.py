"""Which precision a recipe trains in where it leaves that open."""

import math
from dataclasses import replace

import pytest
import tensorflow as tf

from catdog.recipe import Data, Model, Optimizer, Phase, Recipe, Run, check_replicas, differences, rows_of_a_replica
from catdog.training import precision, timing
from catdog.training.precision import fastest_precision, seconds_a_step
from catdog.training.strategy import compiles
from tests.integration import small_backbone

RECIPE = Recipe(data=Data(side=32, global_batch=8, streams=4), phases=(Phase("frozen"), Phase("all", unfreeze="all")))
SCRATCH = replace(RECIPE, model=Model(weights="none"), phases=RECIPE.phases[1:])


def test_a_cpu_trains_in_float32() -> None:
    assert fastest_precision(RECIPE, 8) == "float32"


@pytest.mark.parametrize(
    ("major", "float32", "bfloat16", "float16", "chosen"),
    [
        (6, 1.0, 0.1, 0.1, "float32"),
        (7, 1.0, 0.1, 0.5, "mixed_float16"),
        (7, 1.0, 0.1, 0.95, "float32"),
        (9, 1.0, 0.5, 0.48, "mixed_bfloat16"),
        (9, 1.0, 0.5, 0.4, "mixed_float16"),
        (9, 1.0, 0.95, 0.95, "float32"),
        (9, math.inf, 0.5, 0.5, "mixed_bfloat16"),
        (9, math.inf, math.inf, math.inf, "float32"),
    ],
)
def test_a_gpu_trains_in_what_is_clearly_faster_there(
    monkeypatch: pytest.MonkeyPatch, major: int, float32: float, bfloat16: float, float16: float, chosen: str
) -> None:
    seconds = {"float32": float32, "mixed_bfloat16": bfloat16, "mixed_float16": float16}
    monkeypatch.setattr(tf.config, "get_visible_devices", lambda kind: [f"{kind}:0"])
    monkeypatch.setattr(tf.config.experimental, "get_device_details", lambda gpu: {"compute_capability": (major, 0)})
    monkeypatch.setattr(precision, "seconds_a_step", lambda recipe, policy, rows: seconds[policy])
    assert fastest_precision(RECIPE, 8) == chosen
    assert fastest_precision(SCRATCH, 8) != "mixed_float16"


@pytest.mark.parametrize("recipe", [RECIPE, SCRATCH], ids=["from weights", "from scratch"])
def test_a_step_is_timed_at_the_recipes_own_shape(recipe: Recipe, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("catdog.model._backbone", small_backbone.backbone)
    assert all(0 < seconds_a_step(recipe, policy, 4) < math.inf for policy in ("float32", "mixed_bfloat16"))
    large = replace(recipe, data=Data(side=256, global_batch=32, streams=4))
    assert seconds_a_step(large, "float32", 32) > 10 * seconds_a_step(recipe, "float32", 4)


def test_a_step_is_timed_whatever_the_replicas_of_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("catdog.model._backbone", small_backbone.backbone)
    recipe = replace(
        RECIPE,
        data=Data(side=32, global_batch=32, streams=8),
        augment=replace(RECIPE.augment, mixup=0.2),
        optimizer=Optimizer(accumulate=6),
    )
    check_replicas(recipe, 3)
    assert seconds_a_step(recipe, "float32", rows_of_a_replica(recipe, 3)) < math.inf


@pytest.mark.parametrize("error", ["ResourceExhaustedError", "InternalError"])
def test_a_precision_for_which_memory_lacks_is_not_chosen(monkeypatch: pytest.MonkeyPatch, error: str) -> None:
    def lacks(*_: object) -> None:
        raise getattr(tf.errors, error)(None, None, "Dst tensor is not initialized.")

    monkeypatch.setattr("catdog.model._backbone", small_backbone.backbone)
    monkeypatch.setattr(timing, "make_train_step", lambda *_: lacks)
    assert seconds_a_step(RECIPE, "float32", 4) == math.inf


@pytest.mark.parametrize(
    ("xla", "gpus", "weights", "compiled"),
    [
        ("auto", 0, "bundled", False),
        ("auto", 1, "bundled", True),
        ("auto", 2, "bundled", False),
        ("auto", 1, "none", False),
        ("on", 0, "bundled", True),
        ("off", 1, "bundled", False),
    ],
)
def test_xla_compiles_the_steps_of_one_gpu_unless_told_otherwise(
    xla: str, gpus: int, weights: str, compiled: bool
) -> None:
    recipe = SCRATCH if weights == "none" else RECIPE
    assert compiles(replace(recipe, run=Run(xla=xla)), gpus) == compiled  # type: ignore[arg-type]


def test_steps_compiled_or_not_are_parts_of_one_run() -> None:
    assert differences(RECIPE, replace(RECIPE, run=Run(xla="on"))) == []
