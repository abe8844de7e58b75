"""The life of a shard in the cache.

Idle -> Seeking              a fetcher takes it
Seeking -> Fetching          it is not on the disk, and space for it is reserved
Fetching -> Seeking          the disk is full, below the cache's limit
Seeking, Fetching -> Held    its file is there, and whole
Seeking, Fetching -> Failed  it is needed now, and something came in the way
Seeking, Fetching -> Idle    there is no space for what is wanted later only, or its fetch failed, or nobody needs it now
Idle, Failed -> Held         it is needed now, and its file is there and is the one that was found whole before
Held -> Idle                 it is not needed now, or its file was deleted or has become another
Failed -> Idle               nobody wants it, someone asks for it again, or another file is there now
"""

from dataclasses import dataclass
from typing import BinaryIO

from catdog.storage import Stat


@dataclass(frozen=True)
class Idle:
    """Nobody has it in hand; its file may lie on the disk."""


@dataclass(frozen=True)
class Seeking:
    """A fetcher looks for its file on the disk and checks it, or waits for space to fetch it."""


@dataclass(frozen=True)
class Fetching:
    """A fetcher has its space reserved, and fetches it."""


@dataclass(frozen=True)
class Held:
    """A shared lock keeps its file on the disk."""

    file: BinaryIO


@dataclass(frozen=True)
class Failed:
    """It could not be brought, and is not tried again before someone who knows of that asks for it."""

    error: BaseException
    told: bool = False
    """Whether a caller that opened it got the error."""


@dataclass(eq=False)
class CachedShard:
    """A shard of the store, and how it stands with its local copy."""

    name: str
    pin: Stat
    path: str
    """Where its file lies, once it is there."""
    state: Idle | Seeking | Fetching | Held | Failed = Idle()
    verified: tuple[int, ...] = ()
    """Which file was fetched, or found whole, last; empty before one was."""
    marked: bool = False
    """Whether its file, when last looked for, was there, and is marked as wanted."""

    @property
    def in_hand(self) -> bool:
        """Whether a fetcher has it."""
        return isinstance(self.state, Seeking | Fetching)

    def become(self, state: Idle | Seeking | Fetching | Held | Failed) -> None:
        """Change its state; a lock ends with being held."""
        if isinstance(self.state, Held):
            self.state.file.close()
        self.state = state
