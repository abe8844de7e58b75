"""What figures and stored outputs were got on: versions, device, system."""

import platform
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf

from catdog import __version__


def environment() -> dict[str, str]:
    """What may change a figure in its last digits, by name."""
    return {
        "catdog": __version__,
        "TensorFlow": tf.__version__,
        "Keras": keras.__version__,
        "NumPy": np.__version__,
        "Python": platform.python_version(),
        "device": device_name(),
        "system": f"{platform.system()} {platform.machine()}",
    }


def device_name() -> str:
    """The GPUs that are used as their maker names them, or else the CPU as Linux tells it, elsewhere as Python does."""
    gpus = tf.config.get_visible_devices("GPU")
    names = [tf.config.experimental.get_device_details(gpu).get("device_name", "GPU") for gpu in gpus]
    return ", ".join(names) or _cpu()


def _cpu() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.is_file() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return f"{names[0]}, {len(names)} threads" if names else platform.processor() or platform.machine()
