"""What `catdog plan` is asked."""

import math
from dataclasses import dataclass

from catdog.errors import CallerError
from catdog.parsing import brief


@dataclass(frozen=True)
class PlanOptions:
    """Hosts to plan for; raises CallerError for a number that none can have."""

    hosts: tuple[int, ...] = (1,)
    """Numbers of hosts."""
    gpus: int | None = None
    """GPUs of each; None stands for those of this machine."""
    cpus: float | None = None
    """Cores of each; None stands for those of this machine."""
    images_per_s: float | None = None
    """What a GPU of theirs trains; None stands for what this one does."""
    link: float = 25.0
    """Gbit/s between a host and the others, and the bucket."""

    def __post_init__(self) -> None:
        for name in ("cpus", "images_per_s", "link"):
            value = getattr(self, name)
            if value is not None and not 0 < value < math.inf:
                raise CallerError(f"--{name.replace('_', '-')} {value:g}: must be above 0")
        if self.gpus is not None and not 0 <= self.gpus <= 1024:
            raise CallerError(f"--gpus {brief(self.gpus)}: must be at least 0 and at most 1024")
        if self.images_per_s is not None and not self.gpus:
            raise CallerError("--images-per-s is that of a GPU: give --gpus, those of each host")


def parse_hosts(text: str) -> tuple[int, ...]:
    """Numbers as in "1,8,64"; raises CallerError for what is none."""
    parts = text.split(",")
    if not all(part.isascii() and part.isdigit() and len(part) <= 6 and int(part) for part in parts):
        raise CallerError(f"--hosts {brief(text)}: must be numbers of at least 1, as in 1,8,64")
    return tuple(map(int, parts))
