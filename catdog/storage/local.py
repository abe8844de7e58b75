"""A bucket in a folder."""

import contextlib
import errno
import fcntl
import functools
import itertools
import os
import re
import secrets
import shutil
import stat
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import BinaryIO

from catdog.errors import CallerError, RunError, naming, warn
from catdog.storage.bucket import Bucket, Changed, Stat, crc32c, crc32c_of, nobody
from catdog.storage.lock import alone

_LOCK = ".lock"
_PARTS = ".part-"
_PART = re.compile(r"\.part-[a-z0-9_]{8}-(.+)", re.DOTALL)
"""Name of a file on its way: eight random characters, and the name of the file that it is to become."""

_UNWRITABLE = (
    *(errno.EEXIST, errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.EACCES, errno.EPERM, errno.EROFS),
    *(errno.ENAMETOOLONG, errno.ELOOP),
)
"""What another place would mend."""
_NO_SYNC = (errno.EINVAL, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS)
"""What a file system tells that cannot be asked to write something down, as one in memory or over a network."""
_NO_SYNC_OF_FOLDERS = (*_NO_SYNC, errno.EBADF, errno.EACCES, errno.EPERM, errno.EISDIR)
"""What one tells that cannot be asked it of a folder, or lets nobody open this one."""

_KINDS = (
    (stat.S_ISREG, "a file"),
    (stat.S_ISDIR, "a folder"),
    (stat.S_ISFIFO, "a pipe"),
    (stat.S_ISSOCK, "a socket"),
)


@dataclass(frozen=True)
class Folder(Bucket):
    """A bucket in a folder: an object is a file. `list` passes over hidden ones, as those are that are being written."""

    @property
    def _root(self) -> Path:
        return expanded(self.uri)

    def times(self, prefix: str = "", faults: dict[str, str] | None = None) -> dict[str, float]:
        found: dict[str, float] = {}
        for name, entry in self._entries(prefix, faults):
            with _noted(name, faults):
                if name.startswith(prefix) and not _hidden(name) and stat.S_ISREG(entry.stat().st_mode):
                    found[name] = entry.stat().st_mtime
        return found

    def stat(self, name: str) -> Stat | None:
        if not self.exists(name):
            return None
        with open(self.local(name), "rb", buffering=0, opener=unwaiting) as file:
            status = os.fstat(file.fileno())  # before the bytes are read, so that what is written meanwhile shows
            return Stat(status.st_size, crc32c_of(file), written=_written(status))

    def open_pinned(self, name: str, stat: Stat) -> tuple[BinaryIO, Stat]:
        """An object's file with the bytes that `stat` tells, open for reading, and what is known of it now.

        The bytes are looked at only if the file's times are other than `stat` tells: it may have been touched, copied
        or linked. Raises Changed when they are others, and when the file is gone.
        """
        with contextlib.ExitStack() as closing:
            try:
                file = closing.enter_context(open(self.local(name), "rb", opener=unwaiting))
            except FileNotFoundError:
                raise _deleted(self.local(name)) from None
            written = _written(os.fstat(file.fileno()))
            if written != stat.written:
                if (found := crc32c_of(file)) != stat.crc32c:
                    raise Changed(
                        f"{self.local(name)}: was written anew while this process relied on it:"
                        f" crc32c {stat.crc32c} expected, {found} found"
                    )
                stat = replace(stat, written=written)
            closing.pop_all()
            return file, stat

    def exists(self, name: str) -> bool:
        return self.local(name).is_file()

    def fetch(self, name: str, stat: Stat, path: Path, tell: Callable[[int], None] = nobody) -> None:
        try:
            shutil.copyfile(self._whole(name), path)
        except FileNotFoundError:
            raise _deleted(self.local(name)) from None
        tell(stat.size)
        if (found := crc32c(path)) != stat.crc32c:
            raise RunError(f"{self.local(name)}: crc32c {stat.crc32c} expected, {found} found")

    @contextlib.contextmanager
    def reading(self, name: str) -> Iterator[Path]:
        if not self.exists(name):
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(self.local(name)))
        yield self._whole(name)

    @contextlib.contextmanager
    def writing(self, name: str, *, new: bool = False) -> Iterator[Path]:
        target = self.local(name)
        with self._folder(target.parent), naming(target):
            with self._writable():
                handle, temporary = _new_part(target)
            try:
                yield temporary
                _sync(temporary)
                with self._alone() if new else contextlib.nullcontext():
                    there = self.stat(name) if new else None
                    if there is not None and there != Stat(temporary.stat().st_size, crc32c(temporary)):
                        raise _changed(target)
                    self.require_free([name])
                    os.replace(temporary, target)
                _sync_folder(target.parent, self.uri)
            finally:
                temporary.unlink(missing_ok=True)
                os.close(handle)

    def swap(self, name: str, content: bytes, expected: Stat | None) -> Stat:
        with self._folder(self._root), self._alone():
            if self.stat(name) != expected:
                raise _changed(self.local(name))
            self._sweep(list(self.local(name).parent.glob(f"{_PARTS}*")), name.__eq__)
            with self.writing(name) as path:
                path.write_bytes(content)
                return Stat(len(content), crc32c(path))

    def delete(self, name: str) -> None:
        path = self.local(name)
        with self._writable(), contextlib.suppress(FileNotFoundError):
            if stat.S_ISREG(path.stat().st_mode):
                # A folder that is a link goes as one: what it leads to may be another run's.
                (path.parent if path.parent != self._root and path.parent.is_symlink() else path).unlink()
        self._forget_folder(path.parent)

    def sweep(self, ours: Callable[[str], bool]) -> None:
        entries = self._entries("", {}, follow=False)
        # All at first, for folders go meanwhile.
        self._sweep([self._root / name for name, entry in entries if entry.name.startswith(_PARTS)], ours)

    def local(self, name: str) -> Path:
        return self._root / name

    def scratch(self) -> Path:
        with self._writable():
            self._root.mkdir(parents=True, exist_ok=True)
        return self._root

    def require_free(self, names: Iterable[str]) -> None:
        with self._writable():
            for name in names:
                for part in reversed([name, *map(str, PurePosixPath(name).parents[:-1])]):
                    wanted = "a file" if part == name else "a folder"
                    if (found := _kind(self.local(part))) not in ("", wanted):
                        raise CallerError(
                            f"{self.local(part)}: is {found}, where {wanted} of catdog's would lie;"
                            " move it, or name another folder"
                        )

    def _whole(self, name: str) -> Path:
        """The file to read for an object. What in /proc waits for bytes or gives them without end declares to be empty, and
        a link to it is read as that."""
        path = self.local(name)
        return path if path.stat().st_size else Path(os.devnull)

    def _entries(
        self, prefix: str, faults: dict[str, str] | None, *, follow: bool = True
    ) -> Iterator[tuple[str, "os.DirEntry[str]"]]:
        """What lies below a folder, but for folders, with its name in the bucket, in folders that `prefix` leads to.

        Links to folders are followed last, and no folder is entered twice, so loops end.
        """
        entered: set[tuple[int, int]] = set()
        linked = deque([prefix.rpartition("/")[0]])
        while linked:
            folders = [linked.popleft()]
            while folders:  # no call for each folder in a folder: Python allows a thousand, and a path may be deeper
                folder = folders.pop()
                with _noted(folder, faults), os.scandir(self._root / folder) as entries:
                    status = (self._root / folder).stat()
                    if (status.st_dev, status.st_ino) in entered:
                        continue
                    entered.add((status.st_dev, status.st_ino))
                    for entry in entries:
                        name = f"{folder}/{entry.name}" if folder else entry.name
                        with _noted(name, faults):
                            if not entry.is_dir(follow_symlinks=follow):
                                yield name, entry
                            elif f"{name}/".startswith(prefix):
                                (linked if entry.is_symlink() else folders).append(name)

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        """Alone with the bucket among all who ask for this."""
        with contextlib.ExitStack() as held:
            with self._writable():
                # Not beside the object, where it might be deleted.
                held.enter_context(alone(self._root / _LOCK, self.patience))
            yield

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
        except OSError as error:
            if error.errno not in _UNWRITABLE:
                raise
            a_file = error.errno in (errno.EEXIST, errno.ENOTDIR)
            why = "a file is where a folder must be" if a_file else error.strerror
            raise CallerError(f"{self.uri}: cannot be written: {why}: {error.filename}") from None


def unwaiting(path: str, flags: int) -> int:
    """An opener of files that waits for nothing, as what a link leads to in /proc may have it."""
    return os.open(path, flags | os.O_NONBLOCK)


def _changed(path: Path) -> Changed:
    return Changed(f"{path}: was written by another process")


def _deleted(path: Path) -> Changed:
    return Changed(f"{path}: was deleted by another process while this one relied on it")


def _written(status: os.stat_result) -> tuple[int, int]:
    """A file's times; no inode, for some network mounts number them anew each time that they look."""
    return status.st_mtime_ns, status.st_ctime_ns


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


def _kind(path: Path) -> str:
    """What lies at a path, a link to it followed, in words; empty for nothing."""
    try:
        mode = path.stat().st_mode
    except OSError as error:
        if path.is_symlink():
            return f"a link that cannot be followed ({error.strerror})"
        if isinstance(error, (FileNotFoundError, NotADirectoryError)):
            return ""
        raise
    return next((words for is_one, words in _KINDS if is_one(mode)), "a device")


def _hidden(name: str) -> bool:
    return name.rpartition("/")[2].startswith(".")


def _new_part(target: Path) -> tuple[int, Path]:
    """A new file to become `target`, and a handle that keeps it locked, so that nobody sweeps it away while it is open."""
    while True:
        part = target.with_name(f".part-{secrets.token_hex(4)}-{target.name}")
        # With the rights that this person gives to new files: on some mounts they cannot be changed later.
        handle = os.open(part, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o666)
        with contextlib.suppress(OSError):  # where nothing can be locked, nothing is swept either
            fcntl.flock(handle, fcntl.LOCK_EX)
        if os.fstat(handle).st_nlink:
            return handle, part
        os.close(handle)  # swept away before it was locked


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
    warn(f"{uri}: folders cannot be synced: {reason}: if the machine fails, what was written last may be gone")
