"""`Bucket`: whole objects under one URI, in a folder or in Google Cloud Storage, read and written all or nothing."""

import contextlib
import fcntl
import os
import shutil
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import google_crc32c

from catdog.errors import CallerError, RunError

_TEMPORARY = ".part-"
_LOCK = ".lock"


def open_bucket(uri: str) -> "Bucket":
    """The bucket at a folder's path; raises CallerError for a URI that is neither."""
    if not uri:
        raise CallerError("an empty URI: give a folder's path")
    if "://" in uri:
        scheme = uri.partition("://")[0]
        raise CallerError(f"{uri}: {scheme}:// is not supported by this version; give a folder's path")
    return Folder(uri)


class Changed(RunError):
    """An object is not, or no longer, what it was expected to be."""


@dataclass(frozen=True)
class Stat:
    """What is known of an object without its bytes."""

    size: int
    """Bytes."""
    crc32c: str
    """CRC-32C of the bytes, 8 hexadecimal digits."""
    generation: int = 0
    """Which of the contents that the object has had; 0 where the store does not number them."""


@dataclass(frozen=True)
class Bucket(ABC):
    """The objects under one URI. Names are relative, with `/` between their parts. Make one with `open_bucket`."""

    uri: str

    @abstractmethod
    def list(self, prefix: str = "") -> list[str]:
        """Names of all whole objects that start with `prefix`, sorted."""

    @abstractmethod
    def stats(self, names: Sequence[str]) -> dict[str, Stat]:
        """What is known of each of the objects that are there."""

    @abstractmethod
    def exists(self, name: str) -> bool:
        """Whether there is such an object."""

    @abstractmethod
    def read(self, name: str) -> bytes:
        """The object's bytes; raises FileNotFoundError."""

    @abstractmethod
    def reading(self, name: str) -> contextlib.AbstractContextManager[Path]:
        """A file with the object's bytes, for as long as the block lasts; raises FileNotFoundError."""

    @abstractmethod
    def writing(self, name: str) -> contextlib.AbstractContextManager[Path]:
        """A file to write; it becomes the object, durably, when the block ends well and is gone when it ends badly."""

    @abstractmethod
    def swap(self, name: str, content: bytes, expected: Stat | None) -> Stat:
        """Put an object in place only if it still is as `expected`, or, for None, only if there is none.

        Raises Changed otherwise.
        """

    @abstractmethod
    def delete(self, name: str) -> None:
        """Delete an object; it is no error when it is not there."""

    @abstractmethod
    def delete_all(self, prefix: str) -> None:
        """Delete every object whose name starts with `prefix/`, and what killed writers left there."""

    @abstractmethod
    def sweep(self) -> None:
        """Remove what killed writers left behind."""

    @abstractmethod
    def local(self, name: str) -> Path | None:
        """Where the object lies, or would lie, on this machine's disk; None where it lies elsewhere."""

    @abstractmethod
    def scratch(self) -> Path:
        """A folder on this machine's disk with room for files on their way into the bucket."""

    def write(self, name: str, content: bytes) -> None:
        """Put an object in place, replacing what is there; durable when this returns."""
        with self.writing(name) as temporary:
            temporary.write_bytes(content)


def crc32c(path: Path) -> str:
    """CRC-32C of a file's bytes, as 8 hexadecimal digits."""
    checksum = google_crc32c.Checksum()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            checksum.update(block)
    return checksum.hexdigest().decode()


@dataclass(frozen=True)
class Folder(Bucket):
    """A bucket in a folder: an object is a file, and a file that is being written has a name that is none."""

    @property
    def _root(self) -> Path:
        return Path(self.uri).expanduser()

    def list(self, prefix: str = "") -> list[str]:
        start = self._root / prefix.rpartition("/")[0]
        names = (p.relative_to(self._root).as_posix() for p in start.rglob("*") if p.is_file())
        return sorted(n for n in names if n.startswith(prefix) and not _hidden(n))

    def stats(self, names: Sequence[str]) -> dict[str, Stat]:
        paths = {name: self.local(name) for name in names}
        return {name: _file_stat(path) for name, path in paths.items() if path.is_file()}

    def exists(self, name: str) -> bool:
        return self.local(name).is_file()

    def read(self, name: str) -> bytes:
        return self.local(name).read_bytes()

    @contextlib.contextmanager
    def reading(self, name: str) -> Iterator[Path]:
        path = self.local(name)
        if not path.is_file():
            raise FileNotFoundError(path)
        yield path

    @contextlib.contextmanager
    def writing(self, name: str) -> Iterator[Path]:
        target = self.local(name)
        with self._writable():
            target.parent.mkdir(parents=True, exist_ok=True)
            handle, text = tempfile.mkstemp(prefix=_TEMPORARY, suffix=target.suffix, dir=target.parent)
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

    def swap(self, name: str, content: bytes, expected: Stat | None) -> Stat:
        with self._writable():
            self.local(name).parent.mkdir(parents=True, exist_ok=True)
        with open(self.local(name).with_name(_LOCK), "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if self.stats([name]).get(name) != expected:
                raise Changed(f"{self.local(name)}: was written by another process")
            self.write(name, content)
        return self.stats([name])[name]

    def delete(self, name: str) -> None:
        with self._writable():
            self.local(name).unlink(missing_ok=True)

    def delete_all(self, prefix: str) -> None:
        shutil.rmtree(self.local(prefix), ignore_errors=True)

    def sweep(self) -> None:
        for path in self._root.rglob(f"{_TEMPORARY}*"):
            path.unlink(missing_ok=True)

    def local(self, name: str) -> Path:
        return self._root / name

    def scratch(self) -> Path:
        with self._writable():
            self._root.mkdir(parents=True, exist_ok=True)
        return self._root

    @contextlib.contextmanager
    def _writable(self) -> Iterator[None]:
        """Turn what the caller can mend into a CallerError; a full disk passes, for that is no mistake."""
        try:
            yield
        except (FileExistsError, FileNotFoundError, NotADirectoryError, PermissionError) as error:
            raise CallerError(f"{self.uri}: cannot be written: {error.strerror}: {error.filename}") from None


def _hidden(name: str) -> bool:
    return name.rpartition("/")[2].startswith((_TEMPORARY, _LOCK))


def _file_stat(path: Path) -> Stat:
    return Stat(path.stat().st_size, crc32c(path))


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
