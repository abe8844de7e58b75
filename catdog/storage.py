"""`Bucket`: whole objects under a folder, written so that a reader sees all of one or nothing of it."""

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import google_crc32c

from catdog.errors import CallerError

_TEMPORARY = ".part-"


def crc32c(path: Path) -> str:
    """CRC-32C of a file's bytes, as 8 hexadecimal digits."""
    checksum = google_crc32c.Checksum()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            checksum.update(block)
    return checksum.hexdigest().decode()


@dataclass(frozen=True)
class Bucket:
    """The objects under one URI. Names are relative, with `/` between their parts."""

    uri: str

    def __post_init__(self) -> None:
        if not self.uri:
            raise CallerError("an empty URI: give a folder's path")
        if "://" in self.uri:
            scheme = self.uri.partition("://")[0]
            raise CallerError(f"{self.uri}: {scheme}:// is not supported by this version; give a folder's path")

    def path(self, name: str) -> Path:
        """Where the object lies on this machine's disk, for readers that need a file."""
        return Path(self.uri).expanduser() / name

    def list(self, prefix: str = "") -> list[str]:
        """Names of all whole objects that start with `prefix`, sorted."""
        root = Path(self.uri).expanduser()
        start = root / prefix.rpartition("/")[0]
        names = (p.relative_to(root).as_posix() for p in start.rglob("*") if p.is_file())
        return sorted(n for n in names if n.startswith(prefix) and not n.rpartition("/")[2].startswith(_TEMPORARY))

    def exists(self, name: str) -> bool:
        return self.path(name).is_file()

    def read(self, name: str) -> bytes:
        """The object's bytes; raises FileNotFoundError."""
        return self.path(name).read_bytes()

    def write(self, name: str, content: bytes) -> None:
        """Put an object in place, replacing what is there; durable when this returns."""
        with self.writing(name) as temporary:
            temporary.write_bytes(content)

    @contextlib.contextmanager
    def writing(self, name: str) -> Iterator[Path]:
        """A file to write; it becomes the object when the block ends well and is gone when it ends badly."""
        target = self.path(name)
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            handle, text = tempfile.mkstemp(prefix=_TEMPORARY, suffix=target.suffix, dir=target.parent)
        except OSError as error:
            raise CallerError(f"{self.uri}: cannot be written: {error.strerror}: {error.filename}") from None
        os.close(handle)
        temporary = Path(text)
        try:
            yield temporary
            _sync(temporary)
            temporary.chmod(0o644)
            os.replace(temporary, target)
            _sync(target.parent)
        finally:
            temporary.unlink(missing_ok=True)

    def delete(self, name: str) -> None:
        """Delete an object; it is no error when it is not there."""
        try:
            self.path(name).unlink(missing_ok=True)
        except NotADirectoryError:
            raise CallerError(f"{self.uri}: cannot be written: a part of this path is a file") from None

    def sweep(self) -> None:
        """Remove what killed writers left behind."""
        for path in Path(self.uri).expanduser().rglob(f"{_TEMPORARY}*"):
            path.unlink(missing_ok=True)

    def delete_all(self, prefix: str) -> None:
        """Delete every object whose name starts with `prefix/`, and what killed writers left there."""
        shutil.rmtree(self.path(prefix), ignore_errors=True)


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
