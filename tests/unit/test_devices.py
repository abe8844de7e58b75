"""What a run says of its devices."""

from pathlib import Path
from types import SimpleNamespace

import pytest
import tensorflow as tf

from catdog.training import devices as module
from catdog.training.devices import devices, why_no_gpu


def see(monkeypatch: pytest.MonkeyPatch, *names: str) -> None:
    """Have TensorFlow see GPUs of these names."""
    monkeypatch.setattr(tf.config, "get_visible_devices", lambda kind: list(names) if kind == "GPU" else ["cpu"])
    monkeypatch.setattr(tf.config.experimental, "get_device_details", lambda name: {"device_name": name})


def have(monkeypatch: pytest.MonkeyPatch, folder: Path, listed: str) -> None:
    """Have the machine's driver list these GPUs, and let there be no other program."""
    program = folder / "nvidia-smi"
    program.write_text(f"#!/bin/sh\necho '{listed}'\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:/bin:/usr/bin")


H200 = "GPU 0: NVIDIA H200 (UUID: GPU-1)"


@pytest.mark.parametrize(
    ("names", "replicas", "told"),
    [
        ([], 1, "CPU (3 cores)"),
        ([], 2, "2 logical CPUs (3 cores)"),
        (["NVIDIA H200"], 1, "NVIDIA H200"),
        (["NVIDIA H200"] * 2, 2, "2 x NVIDIA H200"),
        (["NVIDIA L4", "NVIDIA H200"], 2, "NVIDIA L4, NVIDIA H200"),
    ],
)
def test_devices_are_named(monkeypatch: pytest.MonkeyPatch, names: list[str], replicas: int, told: str) -> None:
    monkeypatch.setattr(module, "cores", lambda: 3)
    see(monkeypatch, *names)
    assert devices(replicas) == told


@pytest.mark.parametrize(
    ("hidden", "cuda", "told"),
    [
        ("-1", True, "CUDA_VISIBLE_DEVICES=-1 hides it"),
        ("", True, "CUDA_VISIBLE_DEVICES= hides it"),
        (None, False, "this TensorFlow is built without CUDA; install requirements-gpu.lock"),
        ("0", True, "TensorFlow finds no GPU, and with TF_CPP_MIN_LOG_LEVEL=0 tells why"),
    ],
)
def test_a_gpu_that_is_there_and_not_used_is_told_with_what_would_be_right(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, hidden: str | None, cuda: bool, told: str
) -> None:
    see(monkeypatch)
    have(monkeypatch, tmp_path, H200)
    monkeypatch.setattr(tf.test, "is_built_with_cuda", lambda: cuda)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if hidden is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", hidden)
    assert why_no_gpu("auto").startswith(f"GPU 0: NVIDIA H200 is not used: {told}")


def test_nothing_is_told_of_gpus_that_are_used_not_wanted_or_none(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    have(monkeypatch, tmp_path, H200)
    see(monkeypatch, "NVIDIA H200")
    assert why_no_gpu("auto") == ""
    see(monkeypatch)
    assert why_no_gpu("cpu:1") == ""
    have(monkeypatch, tmp_path, "No devices were found")
    monkeypatch.setattr(module, "Path", lambda _: SimpleNamespace(glob=lambda _: []))
    assert why_no_gpu("auto") == ""
