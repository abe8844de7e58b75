"""A folder that refuses what some mounts refuse, for processes that are started with these variables."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest


def odd_mount(folder: Path, shim: Path, **calls: int) -> dict[str, str]:
    """An environment in which calls, of those that odd_mount.c names, fail below a folder with these errors.

    `shim` is where the library that does it is written.
    """
    compiler = shutil.which("gcc") or shutil.which("cc")
    if compiler is None or not Path("/proc/self/fd").is_dir():
        pytest.skip("needs a C compiler and Linux's /proc")
    source = Path(__file__).with_suffix(".c")
    subprocess.run([compiler, "-shared", "-fPIC", "-o", shim, source, "-ldl"], check=True)
    told = " ".join(f"{call}={number}" for call, number in calls.items())
    return os.environ | {"LD_PRELOAD": str(shim), "ODD_FOLDER": str(folder), "ODD_CALLS": told}
