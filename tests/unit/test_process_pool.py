"""How many processes there are to a pool."""

import math
import os
from pathlib import Path

import pytest

from catdog.data import process_pool
from catdog.data.cpu_quota import cpu_quota


def quota(tmp_path: Path, groups: str, **files: str) -> float:
    """What is found where these are the process's control groups and these the files below their mount."""
    (tmp_path / "cgroup").write_text(groups)
    for name, text in files.items():
        path = tmp_path / "mount" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return cpu_quota(tmp_path / "cgroup", tmp_path / "mount")


@pytest.mark.parametrize(
    ("groups", "files", "found"),
    [
        ("0::/\n", {"cpu.max": "200000 100000\n"}, 2),
        ("0::/\n", {"cpu.max": "max 100000\n"}, math.inf),
        ("0::/\n", {}, math.inf),
        ("0::/pod/own\n", {"pod/own/cpu.max": "max 100000\n", "pod/cpu.max": "150000 100000\n"}, 1.5),
        ("0::/pod/own\n", {"pod/own/cpu.max": "50000 100000\n", "pod/cpu.max": "150000 100000\n"}, 0.5),
        ("0::/seen/from/outside\n", {"cpu.max": "300000 100000\n"}, 3),
        ("0::/\n", {"cpu.max": "nonsense"}, math.inf),
        (
            "5:memory:/a\n4:cpu,cpuacct:/a\n0::/\n",
            {"cpu,cpuacct/a/cpu.cfs_quota_us": "400000\n", "cpu,cpuacct/a/cpu.cfs_period_us": "100000\n"},
            4,
        ),
        ("1:cpu:/\n", {"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, math.inf),
    ],
)
def test_the_quota_is_the_least_of_a_group_and_those_above_it(
    groups: str, files: dict[str, str], found: float, tmp_path: Path
) -> None:
    assert quota(tmp_path, groups, **files) == found


def test_where_there_are_no_control_groups_there_is_no_quota(tmp_path: Path) -> None:
    assert cpu_quota(tmp_path / "cgroup", tmp_path) == math.inf


@pytest.mark.parametrize(("allowed", "share", "cores"), [(64, 2.0, 2), (64, 1.5, 2), (64, 0.1, 1), (4, math.inf, 4)])
def test_a_pool_is_no_wider_than_the_share_of_a_container(
    allowed: int, share: float, cores: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "process_cpu_count", lambda: allowed, raising=False)
    monkeypatch.setattr(process_pool, "cpu_quota", lambda: share)
    assert process_pool.cores() == cores
    with process_pool.process_pool() as pool:
        assert pool._max_workers == cores
