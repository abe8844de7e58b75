"""What is said of GPUs, shown on one: `make test-gpu`. Runs here are processes of their own, that see the GPUs."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import tensorflow as tf
from tensorflow.tsl.profiler.protobuf import xplane_pb2

from catdog.recipe import load_recipe
from catdog.storage import Bucket, open_bucket
from catdog.training.devices import devices, why_no_gpu
from catdog.training.precision import fastest_precision, seconds_a_step
from tests.gpu.conftest import PRETEND, Size
from tests.integration.forked import spawned
from tests.integration.processes import Process, assert_same, lines, past

pytestmark = pytest.mark.gpu

Trained = Callable[..., Bucket]


@pytest.fixture
def trained(small_recipe: Path, tmp_path: Path) -> Trained:
    """A run of EfficientNetB0 with some settings, on the GPUs that are named or on all."""

    def run(name: str, *settings: str, gpus: str | None = None) -> Bucket:
        place = open_bucket(str(tmp_path / name))
        environment = dict(os.environ) if gpus is None else os.environ | {"CUDA_VISIBLE_DEVICES": gpus}
        Process(small_recipe, place, *settings, start=spawned, environment=environment).finish()
        return place

    return run


def losses(run: Bucket) -> list[float]:
    return [line[3] for line in lines(run)]  # type: ignore[misc]


@pytest.mark.skipif(PRETEND, reason="needs the driver")
def test_tensorflow_sees_every_gpu_that_the_driver_does() -> None:
    listed = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, check=True).stdout
    assert len(tf.config.list_physical_devices("GPU")) == sum(line.startswith("GPU ") for line in listed.splitlines())
    assert "CPU" not in devices(1)
    assert why_no_gpu("auto") == ""


def test_the_precision_that_is_chosen_is_the_fastest_but_for_a_tenth(
    small_recipe: Path, size: Size, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = [("data.side", str(size.side)), ("data.global_batch", str(size.batch)), ("run.precision", "auto")]
    recipe = load_recipe(small_recipe, settings)
    chosen = fastest_precision(recipe, size.batch)
    policies = ("float32", "mixed_bfloat16", "mixed_float16")
    seconds = {policy: seconds_a_step(recipe, policy, size.batch) for policy in policies}
    with capsys.disabled():
        told = ", ".join(f"{policy} {1000 * value:.1f} ms" for policy, value in seconds.items())
        print(f"\na step of {size.batch} pictures of {size.side} px: {told}; chosen: {chosen}")
    if not PRETEND:
        assert seconds[chosen] < 1.25 * min(seconds.values())


def test_compiled_by_xla_a_run_comes_to_the_losses_that_it_comes_to_without(trained: Trained) -> None:
    assert losses(trained("on", "--run.xla", "on")) == pytest.approx(
        losses(trained("off", "--run.xla", "off")), rel=2e-2
    )


def test_mirrored_on_two_gpus_a_run_comes_to_the_losses_of_one(trained: Trained) -> None:
    if len(tf.config.list_physical_devices("GPU")) < 2:
        pytest.skip("needs two GPUs")
    one, two = trained("one", gpus="0"), trained("two", gpus="0,1")
    assert losses(two) == pytest.approx(losses(one), rel=2e-2)


def test_a_deterministic_run_that_is_killed_ends_with_the_same_bits(
    trained: Trained, small_recipe: Path, tmp_path: Path
) -> None:
    settings = ("--run.deterministic", "true")
    whole, run = trained("whole", *settings), open_bucket(str(tmp_path / "killed"))
    process = Process(small_recipe, run, *settings, start=spawned)
    process.wait_until(past(26))
    process.process.kill()
    process.process.wait()
    assert "going on from step" in Process(small_recipe, run, *settings, start=spawned).finish()
    assert_same(run, whole)


TRACED = """
import sys
from catdog.command.quiet_tensorflow import import_tensorflow
import_tensorflow()
import tensorflow as tf
from catdog.recipe import load_recipe
from catdog.training.strategy import compiles
from catdog.training.timing import TimedStep
recipe = load_recipe(sys.argv[1])
step = TimedStep(recipe, recipe.phases[-1], sys.argv[3], xla=compiles(recipe, 1))
batch = step.batch(recipe.data.global_batch)
for number in range(2):
    step.take(batch, 1e-5, number, False)["loss"].numpy()
tf.profiler.experimental.start(sys.argv[2])
outcomes = [step.take(batch, 1e-5, number, False) for number in range(5)]
tf.profiler.experimental.stop()
"""


@pytest.mark.parametrize("precision", ["float32", "mixed_float16"])
def test_in_a_step_the_host_waits_for_nothing_from_the_device(
    small_recipe: Path, tmp_path: Path, precision: str
) -> None:
    words = [sys.executable, "-c", TRACED, str(small_recipe), str(tmp_path), precision]
    subprocess.run(words, check=True)
    [trace] = tmp_path.rglob("*.xplane.pb")
    space = xplane_pb2.XSpace.FromString(trace.read_bytes())
    on_gpu = [plane for plane in space.planes if plane.name.startswith("/device:GPU")]
    assert PRETEND or on_gpu, "the trace tells nothing of a GPU"
    names = {
        plane.event_metadata[event.metadata_id].name
        for plane in on_gpu
        for line in plane.lines
        for event in line.events
    }
    assert [name for name in names if "MemcpyD2H" in name] == []
