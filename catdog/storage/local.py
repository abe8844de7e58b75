"""A bucket in a folder."""

import contextlib
import errno
import functools
import itertools
import logging
import os
import secrets
import shutil
import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from catdog.errors import CallerError, RunError, naming
from catdog.storage.bucket import Bucket, Changed, Stat, crc32c, nobody
from catdog.storage.lock import alone

_TEMPORARY = ".part-"
_LOCK = ".lock"

_UNWRITABLE = (
    *(errno.EEXIST, errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.EACCES, errno.EPERM, errno.EROFS),
    *(errno.ENAMETOOLONG, errno.ELOOP),
)
"""What another place would mend."""
_NO_SYNC = (errno.EINVAL, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS)
"""What a file system tells that cannot be asked to write something down, as one in memory or over a network."""
_NO_SYNC_OF_FOLDERS = (*_NO_SYNC, errno.EBADF, errno.EACCES, errno.EPERM, errno.EISDIR)
"""What one tells that cannot be asked it of a folder, or lets nobody open this one."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Folder(Bucket):
    """A bucket in a folder: an object is a file, and a file that is being written has a name that is none."""

    @property
    def _root(self) -> Path:
        return expanded(self.uri)

    def times(self, prefix: str = "") -> dict[str, float]:
        found: dict[str, float] = {}
        for path in (self._root / prefix.rpartition("/")[0]).rglob("*"):
            name = path.relative_to(self._root).as_posix()
            if name.startswith(prefix) and not _hidden(name):
                try:
                    status = path.stat()
                except OSError as error:
                    # It may go while the others are looked at, and a link may lead nowhere.
                    if error.errno not in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP):
                        raise
                else:
                    if stat.S_ISREG(status.st_mode):
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
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(path))
        yield path

    @contextlib.contextmanager
    def writing(self, name: str, *, new: bool = False) -> Iterator[Path]:
        target = self.local(name)
        temporary = target.with_name(f"{_TEMPORARY}{secrets.token_hex(4)}{target.suffix}")
        with self._folder(target.parent), naming(target):
            # With the rights that this person gives to new files: on some mounts they cannot be changed later.
            with self._writable():
                temporary.touch(exist_ok=False)
            try:
                yield temporary
                _sync(temporary)
                with self._alone() if new else contextlib.nullcontext():
                    there = self.stat(name) if new else None
                    if there is not None and there != Stat(temporary.stat().st_size, crc32c(temporary)):
                        raise _changed(target)
                    os.replace(temporary, target)
                _sync_folder(target.parent, self.uri)
            finally:
                temporary.unlink(missing_ok=True)

    def swap(self, name: str, content: bytes, expected: Stat | None) -> Stat:
        with self._folder(self._root), self._alone():
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
            if path.parent != self._root:
                with contextlib.suppress(OSError):  # that has other files
                    path.parent.rmdir()

    def local(self, name: str) -> Path:
        return self._root / name

    def scratch(self) -> Path:
        with self._writable():
            self._root.mkdir(parents=True, exist_ok=True)
        return self._root

    def _alone(self) -> contextlib.AbstractContextManager[None]:
        """Alone with the bucket among all who ask for this."""
        return alone(self._root / _LOCK)  # not beside the object, where it might be deleted

    @contextlib.contextmanager
    def _folder(self, folder: Path) -> Iterator[None]:
        """Have a folder, which is made if it isn't there, and gone again if the block ends badly with nothing in it."""
        with self._writable():
            made = list(itertools.takewhile(lambda path: not path.exists(), (folder, *folder.parents)))
        try:
            with self._writable():
                folder.mkdir(parents=True, exist_ok=True)
            yield
        except BaseException:
            for path in made:
                with contextlib.suppress(OSError):
                    path.rmdir()
            raise

    @contextlib.contextmanager
    def _writable(self) -> Iterator[None]:
        """Turn what the caller can mend into a CallerError; a full disk passes, for that is no mistake."""
        try:
            yield
        except OSError as error:
            if error.errno not in _UNWRITABLE:
                raise
            raise CallerError(f"{self.uri}: cannot be written: {error.strerror}: {error.filename}") from None


def _changed(path: Path) -> Changed:
    return Changed(f"{path}: was written by another process")


def _hidden(name: str) -> bool:
    return name.rpartition("/")[2].startswith((_TEMPORARY, _LOCK))


def expanded(path: str) -> Path:
    """A path whose first part may be `~` or `~NAME`, somebody's home; raises CallerError where that is not known."""
    try:
        return Path(path).expanduser()
    except RuntimeError:
        raise CallerError(f"{path}: no home directory is known here: set HOME, or give the whole path") from None


def _sync(path: Path) -> None:
    """Have the disk keep a file."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in _NO_SYNC:
            raise
    finally:
        os.close(handle)


def _sync_folder(path: Path, uri: str) -> None:
    """Have the disk keep the names in a folder of the bucket at a URI.

    The bytes behind them are safe already, and so is the work while the machine goes on: where a folder cannot be synced,
    nothing has to end, but what is wrong with the disk is told.
    """
    try:
        handle = os.open(path, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
    except OSError as error:
        if error.errno not in _NO_SYNC_OF_FOLDERS:
            _tell_unsynced(uri, error.strerror or str(error))


@functools.cache
def _tell_unsynced(uri: str, reason: str) -> None:
    """Once for a bucket and reason."""
    _log.warning(
        "%s: folders cannot be synced: %s: if the machine fails, what was written last may be gone", uri, reason
    )
