"""A bucket in a folder."""

import contextlib
import fcntl
import os
import re
import shutil
import stat
import tempfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from catdog.errors import CallerError, RunError
from catdog.storage.bucket import Bucket, Changed, Stat, crc32c, nobody

_LOCK = ".lock"
_PARTS = ".part-*"
_PART = re.compile(r"\.part-[a-z0-9_]{8}-(.+)", re.DOTALL)
"""Name of a file on its way: eight characters of Python's, and the name of the file that it is to become."""


@dataclass(frozen=True)
class Folder(Bucket):
    """A bucket in a folder: an object is a file. `list` passes over hidden ones, as those are that are being written."""

    @property
    def _root(self) -> Path:
        return Path(self.uri).expanduser()

    def times(self, prefix: str = "") -> dict[str, float]:
        found: dict[str, float] = {}
        for path in (self._root / prefix.rpartition("/")[0]).rglob("*"):
            name = path.relative_to(self._root).as_posix()
            if name.startswith(prefix) and not _hidden(name):
                with contextlib.suppress(FileNotFoundError):  # it may go while the others are looked at
                    if stat.S_ISREG((status := path.stat()).st_mode):
                        found[name] = status.st_mtime
        return found

    def stat(self, name: str) -> Stat | None:
        path = self.local(name)
        return Stat(path.stat().st_size, crc32c(path)) if path.is_file() else None

    def exists(self, name: str) -> bool:
        return self.local(name).is_file()

    def fetch(self, name: str, stat: Stat, path: Path, tell: Callable[[int], None] = nobody) -> None:
        try:
            shutil.copyfile(self.local(name), path)
        except FileNotFoundError:
            raise Changed(f"{self.local(name)}: was deleted by another process while this one relied on it") from None
        tell(stat.size)
        if (found := crc32c(path)) != stat.crc32c:
            raise RunError(f"{self.local(name)}: crc32c {stat.crc32c} expected, {found} found")

    @contextlib.contextmanager
    def reading(self, name: str) -> Iterator[Path]:
        path = self.local(name)
        if not path.is_file():
            raise FileNotFoundError(path)
        yield path

    @contextlib.contextmanager
    def writing(self, name: str, *, new: bool = False) -> Iterator[Path]:
        target = self.local(name)
        with self._writable():
            target.parent.mkdir(parents=True, exist_ok=True)
            handle, temporary = _new_part(target)
        try:
            yield temporary
            _sync(temporary)
            temporary.chmod(0o644)
            with self._alone() if new else contextlib.nullcontext():
                there = self.stat(name) if new else None
                if there is not None and there != Stat(temporary.stat().st_size, crc32c(temporary)):
                    raise _changed(target)
                os.replace(temporary, target)
            _sync(target.parent)
        finally:
            temporary.unlink(missing_ok=True)
            os.close(handle)

    def swap(self, name: str, content: bytes, expected: Stat | None) -> Stat:
        with self._writable():
            self.local(name).parent.mkdir(parents=True, exist_ok=True)
        with self._alone():
            if self.stat(name) != expected:
                raise _changed(self.local(name))
            self._sweep(self.local(name).parent.glob(_PARTS), name.__eq__)
            with self.writing(name) as path:
                path.write_bytes(content)
                return Stat(len(content), crc32c(path))

    def delete(self, name: str) -> None:
        with self._writable():
            self.local(name).unlink(missing_ok=True)
        self._forget_folder(self.local(name).parent)

    def sweep(self, ours: Callable[[str], bool]) -> None:
        self._sweep(list(self._root.rglob(_PARTS)), ours)  # folders go meanwhile

    def local(self, name: str) -> Path:
        return self._root / name

    def scratch(self) -> Path:
        with self._writable():
            self._root.mkdir(parents=True, exist_ok=True)
        return self._root

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        """Alone with the bucket among all who ask for this."""
        with open(self._root / _LOCK, "a") as lock:  # not beside the object, where it might be deleted
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    def _sweep(self, parts: Iterable[Path], ours: Callable[[str], bool]) -> None:
        for path in parts:
            named = _PART.fullmatch(path.name)
            if named and ours(path.with_name(named[1]).relative_to(self._root).as_posix()):
                with contextlib.suppress(OSError), open(path, "r+b") as file:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)  # refused while somebody is writing it
                    path.unlink()
                self._forget_folder(path.parent)

    def _forget_folder(self, folder: Path) -> None:
        """Remove a folder below the bucket's own that has become empty: of no object, there is no folder."""
        if folder != self._root:
            with contextlib.suppress(OSError):
                folder.rmdir()

    @contextlib.contextmanager
    def _writable(self) -> Iterator[None]:
        """Turn what the caller can mend into a CallerError; a full disk passes, for that is no mistake."""
        try:
            yield
        except (FileExistsError, FileNotFoundError, NotADirectoryError, PermissionError) as error:
            raise CallerError(f"{self.uri}: cannot be written: {error.strerror}: {error.filename}") from None


def _changed(path: Path) -> Changed:
    return Changed(f"{path}: was written by another process")


def _hidden(name: str) -> bool:
    return name.rpartition("/")[2].startswith(".")


def _new_part(target: Path) -> tuple[int, Path]:
    """A new file to become `target`, and a handle that keeps it locked, so that nobody sweeps it away while it is open."""
    while True:
        handle, text = tempfile.mkstemp(prefix=".part-", suffix=f"-{target.name}", dir=target.parent)
        with contextlib.suppress(OSError):  # where nothing can be locked, nothing is swept either
            fcntl.flock(handle, fcntl.LOCK_EX)
        if os.fstat(handle).st_nlink:
            return handle, Path(text)
        os.close(handle)  # swept away before it was locked


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
