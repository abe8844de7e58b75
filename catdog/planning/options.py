"""What `catdog plan` is asked."""

from dataclasses import dataclass

from catdog.errors import CallerError
from catdog.parsing import brief


@dataclass(frozen=True)
class PlanOptions:
    """Hosts to plan for; raises CallerError for a number that none can have."""

    hosts: tuple[int, ...] = (1,)
    """Numbers of hosts."""
    gpus: int = -1
    """GPUs of each; -1 stands for those of this machine."""
    cpus: float = 0.0
    """Cores of each; 0 stands for those of this machine."""
    images_per_s: float = 0.0
    """What a GPU of theirs trains; 0 stands for what this one does."""
    link: float = 25.0
    """Gbit/s between a host and the others, and the bucket."""
    price: float = 0.0
    """Of a host for an hour; 0 where nobody asks."""

    def __post_init__(self) -> None:
        for name in ("cpus", "images_per_s", "link", "price"):
            value, open_to_us = getattr(self, name), name != "link"
            if not (1e-3 <= value <= 1e6 or (open_to_us and value == 0)):
                raise CallerError(f"--{name.replace('_', '-')} {value:g}: must be at least 0.001 and at most 1e6")
        if not -1 <= self.gpus <= 1024:
            raise CallerError(
                f"--gpus {brief(self.gpus)}: must be at least 0 and at most 1024, or -1 for those of here"
            )
        if self.images_per_s and self.gpus < 1:
            raise CallerError("--images-per-s is that of a GPU: give --gpus, those of each host")


def parse_hosts(text: str) -> tuple[int, ...]:
    """Numbers as in "1,8,64"; raises CallerError for what is none."""
    parts = text.split(",")
    if not all(part.isascii() and part.isdigit() and len(part) <= 6 and int(part) for part in parts):
        raise CallerError(f"--hosts {brief(text)}: must be numbers of at least 1, as in 1,8,64")
    return tuple(map(int, parts))
