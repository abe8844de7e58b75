"""A bucket in a folder."""

import contextlib
import errno
import fcntl
import os
import shutil
import stat
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from catdog.errors import CallerError, RunError
from catdog.storage.bucket import Bucket, Changed, Stat, crc32c, nobody

_TEMPORARY = ".part-"
_LOCK = ".lock"


@dataclass(frozen=True)
class Folder(Bucket):
    """A bucket in a folder: an object is a file, and a file that is being written has a name that is none."""

    @property
    def _root(self) -> Path:
        return Path(self.uri).expanduser()

    def times(self, prefix: str = "", faults: dict[str, str] | None = None) -> dict[str, float]:
        found: dict[str, float] = {}
        folders = [prefix.rpartition("/")[0]]
        while folders:  # not Path.rglob, which calls itself for each folder in a folder
            folder = folders.pop()
            with _noted(folder, faults), os.scandir(self._root / folder) as entries:
                for entry in entries:
                    name = f"{folder}/{entry.name}" if folder else entry.name
                    with _noted(name, faults):
                        if entry.is_dir(follow_symlinks=False):
                            folders.append(name)
                        elif name.startswith(prefix) and not _hidden(name) and stat.S_ISREG(entry.stat().st_mode):
                            found[name] = entry.stat().st_mtime
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
            handle, text = tempfile.mkstemp(prefix=_TEMPORARY, suffix=target.suffix, dir=target.parent)
        os.close(handle)
        temporary = Path(text)
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

    def swap(self, name: str, content: bytes, expected: Stat | None) -> Stat:
        with self._writable():
            self.local(name).parent.mkdir(parents=True, exist_ok=True)
        with self._alone():
            if self.stat(name) != expected:
                raise _changed(self.local(name))
            with self.writing(name) as path:
                path.write_bytes(content)
                return Stat(len(content), crc32c(path))

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
    def _alone(self) -> Iterator[None]:
        """Alone with the bucket among all who ask for this."""
        with open(self._root / _LOCK, "w") as lock:  # not beside the object, where it might be deleted
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    @contextlib.contextmanager
    def _writable(self) -> Iterator[None]:
        """Turn what the caller can mend into a CallerError; a full disk passes, for that is no mistake."""
        try:
            yield
        except (FileExistsError, FileNotFoundError, NotADirectoryError, PermissionError) as error:
            raise CallerError(f"{self.uri}: cannot be written: {error.strerror}: {error.filename}") from None


def _changed(path: Path) -> Changed:
    return Changed(f"{path}: was written by another process")


@contextlib.contextmanager
def _noted(name: str, faults: dict[str, str] | None) -> Iterator[None]:
    """Pass over what is gone meanwhile, may not be looked into or is a link that leads nowhere; note what is to be told."""
    try:
        yield
    except (FileNotFoundError, NotADirectoryError):
        pass
    except OSError as error:
        if faults is not None:
            faults[name] = error.strerror or str(error)
        elif error.errno not in (errno.EACCES, errno.ELOOP):
            raise


def _hidden(name: str) -> bool:
    return name.rpartition("/")[2].startswith((_TEMPORARY, _LOCK))


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
