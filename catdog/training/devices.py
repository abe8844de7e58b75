"""Which devices a run trains on, as a person reads it, and why not on a GPU that is there."""

import contextlib
import os
import subprocess
from collections import Counter
from pathlib import Path

import tensorflow as tf

from catdog.data.process_pool import cores


def devices(replicas: int) -> str:
    """The devices of this worker, which has so many replicas, as in `2 x NVIDIA H200` or `CPU (2 cores)`."""
    gpus = tf.config.get_visible_devices("GPU")
    if not gpus:
        return f"{'CPU' if replicas == 1 else f'{replicas} logical CPUs'} ({cores()} cores)"
    named = Counter(tf.config.experimental.get_device_details(gpu).get("device_name", "GPU") for gpu in gpus)
    return ", ".join(name if count == 1 else f"{count} x {name}" for name, count in named.items())


def why_no_gpu(strategy: str) -> str:
    """Why a GPU of this machine is not trained on, and what would be right; empty where it is, was not asked for, or is none."""
    if strategy != "auto" or tf.config.get_visible_devices("GPU") or not (gpu := _gpu_here()):
        return ""
    hidden = os.environ.get("CUDA_VISIBLE_DEVICES")
    if hidden is not None and hidden.split(",")[0].strip() in ("", "-1"):
        return f"{gpu} is not used: CUDA_VISIBLE_DEVICES={hidden} hides it"
    if not tf.test.is_built_with_cuda():
        return f"{gpu} is not used: this TensorFlow is built without CUDA; install requirements-gpu.lock"
    return (
        f"{gpu} is not used: TensorFlow finds no GPU, and with TF_CPP_MIN_LOG_LEVEL=0 tells why;"
        " requirements-gpu.lock has CUDA's libraries"
    )


def _gpu_here() -> str:
    """A GPU of NVIDIA's that this machine has, whatever TensorFlow makes of it; empty where there is none."""
    with contextlib.suppress(OSError, subprocess.SubprocessError):
        listed = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, timeout=10, check=True).stdout
        if listed.startswith("GPU "):
            return listed.splitlines()[0].partition(" (")[0]
    nodes = sorted(Path("/dev").glob("nvidia[0-9]*"))
    return str(nodes[0]) if nodes else ""
