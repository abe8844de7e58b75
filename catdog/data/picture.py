"""What is known of a picture while a data set is made, and of what is left out."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Picture:
    """One picture as it will be stored; its bytes lie in the spool file."""

    name: str
    label: int
    digest: str
    """SHA-256 of the stored JPEG: the picture's identity, on which split and order rest."""
    height: int
    width: int
    offset: int
    length: int
    hash: bytes = b""
    """What `near_duplicates.difference_hash` gives."""
    folder: str = ""
    """The split of the source's own that it lies in; empty for none."""


@dataclass(frozen=True)
class Skipped:
    """A file of the source that is left out."""

    name: str
    reason: str
