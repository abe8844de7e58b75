"""How much of the machine's processors a container may use, as Linux' control groups tell."""

import math
from collections.abc import Iterator
from pathlib import Path, PurePosixPath


def cpu_quota(groups: Path = Path("/proc/self/cgroup"), mount: Path = Path("/sys/fs/cgroup")) -> float:
    """CPUs' worth of time that this process may take: the least that its control group and those above it are given.

    `groups` lists the groups, as cgroups(7) tells, whose files lie below `mount`. Infinity where there is no limit.
    """
    try:
        lines = groups.read_text().splitlines()
    except OSError:
        return math.inf
    return min((quota for line in lines for quota in _quotas(line, mount)), default=math.inf)


def _quotas(line: str, mount: Path) -> Iterator[float]:
    """The limits of one line's group and of those above it; a container may see its own as the topmost one."""
    _, controllers, path = line.split(":", 2)
    if controllers and "cpu" not in controllers.split(","):
        return
    group = PurePosixPath(path.lstrip("/"))
    for part in (group, *group.parents):
        folder = mount / controllers / part
        texts = [folder / "cpu.cfs_quota_us", folder / "cpu.cfs_period_us"] if controllers else [folder / "cpu.max"]
        try:
            quota, period = " ".join(text.read_text() for text in texts).split()
            if float(quota) > 0:
                yield float(quota) / float(period)
        except (OSError, ValueError):  # not a group of this mount, or one without a limit
            continue
