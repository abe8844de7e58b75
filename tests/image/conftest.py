"""The image, built by `make image` on the base that its Dockerfile names, or on one like it where no registry answers."""

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TOOLS = ("buildah", "podman", "runc", "debootstrap")
BASE = re.findall(r"^ARG BASE=(\S+)$", (ROOT / "Dockerfile").read_text(), re.MULTILINE)[0]
STAND_IN = "localhost/catdog-base"
IMAGE = "localhost/catdog:test"
# What a build needs of this machine to install packages, where it needs anything: pip's settings, certificates.
BORROWED = ("/etc/pip.conf", "/etc/ssl/certs")


def ran(*words: str, timeout: float = 600, **options: object) -> str:
    """Run a command that has to succeed; what it prints."""
    done = subprocess.run(words, capture_output=True, text=True, timeout=timeout, **options)  # type: ignore[call-overload]
    assert done.returncode == 0, f"{' '.join(words)}\n{done.stdout}{done.stderr}"
    return str(done.stdout)


@pytest.fixture(scope="session")
def image(tmp_path_factory: pytest.TempPathFactory) -> str:
    if missing := [tool for tool in TOOLS if shutil.which(tool) is None]:
        pytest.skip(f"{', '.join(missing)}: missing; apt-get install buildah podman runc debootstrap")
    if os.getuid() != 0:
        pytest.skip("a stand-in for the base image, and a bridge network, need root")
    build(base(tmp_path_factory.mktemp("base")))
    return IMAGE


def base(folder: Path) -> str:
    """The Dockerfile's base if its registry answers, else a Debian with Python in it."""
    pulled = subprocess.run(["buildah", "pull", "--quiet", BASE], capture_output=True, timeout=300)
    if pulled.returncode == 0:
        return BASE
    if not ran("buildah", "images", "--quiet", "--filter", f"reference={STAND_IN}"):
        root = folder / "root"
        packages = "ca-certificates,python3,python3-pip,python3-venv"
        ran("debootstrap", "--variant=minbase", f"--include={packages}", "bookworm", str(root), *mirror(), timeout=900)
        container = ran("buildah", "from", "scratch").strip()
        ran("buildah", "add", container, str(root), "/")
        ran("buildah", "commit", "--rm", container, STAND_IN)
        shutil.rmtree(root)
    return STAND_IN


def mirror() -> list[str]:
    """Where this machine gets Debian's packages from, if it tells."""
    sites = ran("apt-get", "indextargets", "--format", "$(SITE)", "Created-By: Packages", "Codename: bookworm").split()
    return sites[:1]


def build(base: str) -> None:
    borrowed = [f"--volume={path}:{path}:ro" for path in BORROWED if os.path.exists(path)]
    words = ["make", "image", "BUILDER=buildah", f"IMAGE={IMAGE}", f"BASE={base}", f"ARGS={' '.join(borrowed)}"]
    ran(*words, cwd=ROOT, timeout=1800)
