"""A bucket in Google Cloud Storage, or in an emulator that STORAGE_EMULATOR_HOST names.

Every request is made once, with short timeouts, by the client; what is retried, and for how long, is decided here.
"""

import base64
import contextlib
import errno
import fcntl
import functools
import io
import json
import os
import re
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import CancelledError, ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, TypeVar
from urllib.parse import urlsplit

from catdog.errors import CallerError, RunError, one_line, warn
from catdog.storage.bucket import Bucket, Changed, Stat, Unavailable, crc32c, nobody
from catdog.storage.causes import Answer, answer, cause, is_misaddressed, is_refused, library_words, readable

if TYPE_CHECKING:
    from google.api_core.exceptions import GoogleAPICallError
    from google.auth.exceptions import GoogleAuthError
    from google.cloud import storage
    from requests import Response
    from requests.adapters import HTTPAdapter
    from urllib3.response import HTTPResponse

TIMEOUT = (5.0, 20.0)
"""Seconds until a connection stands, and between two packets of an answer."""
SLOWEST = 10_000
"""Bytes a second that a transfer must bring on the whole, or it is begun anew on another connection."""
RANGE = 16 << 20
"""Bytes that one connection fetches of a large object, while others fetch the rest."""
CONNECTIONS = 4
"""Ranges of one object that are fetched at a time."""
FETCHES = 3
"""Times that an object is fetched whole before its bytes are taken to be wrong in the store, or never to stay."""

PAYER = "GOOGLE_CLOUD_QUOTA_PROJECT"
"""Google's own variable for the project that pays, as a bucket whose reader pays wants it."""
SILENT = 5.0
"""Seconds of faults after which the person who waits is told."""


_POOL = 256
_TEMPORARY = "catdog-part-"
"""What temporary files start with; eight characters of Python's follow, and the suffix of the object's name."""
_OURS = re.compile(rf"{_TEMPORARY}[a-z0-9_]{{8}}(\.[^.]*)?")
_JUST_MADE = 60.0
"""Seconds in which a temporary file may not be locked yet."""
_BLOCK = 1 << 20
_HELD = 1 << 20
"""Bytes that the kernel may still hold, on a slow line, of those that it has been given to send."""

T = TypeVar("T")


class _Broken(ConnectionError):
    """A transfer that brought other than what was asked for; as a ConnectionError it is retried."""


class _NotThere(FileNotFoundError):
    """An object that the store says is not there, and not a file of this machine."""


class _Clock:
    """How many seconds the store's clock is ahead of this machine's, as its newest answer tells."""

    ahead = 0.0

    def note(self, response: "Response", *_: Any, **__: Any) -> None:
        with contextlib.suppress(KeyError, ValueError):
            ahead = parsedate_to_datetime(response.headers["Date"]).timestamp() - time.time()
            self.ahead = ahead if abs(ahead) > _DATE_PRECISION else 0.0


_CLOCK = _Clock()
_DATE_PRECISION = 2.0
"""Seconds by which a right answer's date may be off: it tells no fractions, and was some time on its way."""


@dataclass(frozen=True)
class GoogleBucket(Bucket):
    """The objects of a bucket in Google Cloud Storage under a prefix."""

    def now(self) -> float:
        return time.time() + _CLOCK.ahead

    def times(self, prefix: str = "", faults: dict[str, str] | None = None) -> dict[str, float]:
        return self._listed(prefix, lambda name, blob: blob.updated.timestamp())

    def stat(self, name: str) -> Stat | None:
        def attempt() -> Stat:
            blob = self._blob(name)
            blob.reload(**_once())
            return self._stat(name, blob)

        try:
            return self._call("read", name, attempt)
        except FileNotFoundError:
            return None

    def stats(self, names: Sequence[str]) -> dict[str, Stat]:
        wanted = set(names)
        prefix = os.path.commonprefix(names)  # noqa: RUF071 (a prefix of names, not of folders)
        listed = self._listed(prefix, lambda name, blob: self._stat(name, blob) if name in wanted else None)
        return {name: stat for name, stat in listed.items() if stat is not None}

    def fetch(self, name: str, stat: Stat, path: Path, tell: Callable[[int], None] = nobody) -> None:
        found = ""
        for _ in range(FETCHES):
            with open(path, "wb") as file:
                file.truncate(stat.size)
            try:
                self._fetch_ranges(name, stat, path, tell)
            except _NotThere:
                raise Changed(f"{self.uri}/{name}: was deleted while this one relied on it") from None
            except FileNotFoundError as error:
                raise RunError(f"{path}: was deleted while it was written: {error.strerror}") from None
            except OSError as error:
                error.filename = error.filename or str(path)  # a full disk does not tell which
                raise
            if (found := crc32c(path)) == stat.crc32c:
                return
            tell(-stat.size)
        raise RunError(
            f"{self.uri}/{name}: crc32c {stat.crc32c or 'unknown to the store'} expected, {found} found,"
            f" each of {FETCHES} times that it was fetched"
        )

    @contextlib.contextmanager
    def reading(self, name: str) -> Iterator[Path]:
        with self._temporary(name) as path:
            self._fetch_newest(name, path)
            yield path

    def read(self, name: str, limit: int | None = None) -> bytes:
        with self._temporary(name) as path:
            self._fetch_newest(name, path, limit)
            return path.read_bytes()

    @contextlib.contextmanager
    def writing(self, name: str, *, new: bool = False) -> Iterator[Path]:
        with self._temporary(name) as path:
            yield path
            if new:
                self._replace(name, path, 0)
            else:
                self._upload(name, path)

    def swap(self, name: str, content: bytes, expected: Stat | None) -> Stat:
        with self._temporary(name) as path:
            path.write_bytes(content)
            return self._replace(name, path, 0 if expected is None else expected.generation or None)

    def delete(self, name: str) -> None:
        with contextlib.suppress(FileNotFoundError):
            self._call("delete", name, lambda: self._blob(name).delete(**_once()))

    def sweep(self, ours: Callable[[str], bool]) -> None:
        """Remove the temporary files that killed processes left on this machine, whatever they were to become; in the
        store they have left nothing."""
        for path in self.scratch().glob(f"{_TEMPORARY}*"):
            if not _OURS.fullmatch(path.name):
                continue
            with contextlib.suppress(OSError), open(path, "rb") as file:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if time.time() - os.fstat(file.fileno()).st_mtime > _JUST_MADE:
                    path.unlink()

    def local(self, name: str) -> None:
        return None

    def scratch(self) -> Path:
        return Path(tempfile.gettempdir())

    @property
    def _prefix(self) -> str:
        path = self.uri.removeprefix("gs://").partition("/")[2]
        return f"{path}/" if path else ""

    @property
    def _bucket_name(self) -> str:
        return self.uri.removeprefix("gs://").partition("/")[0]

    @property
    def _bucket(self) -> "storage.Bucket":
        emulator = os.environ.get("STORAGE_EMULATOR_HOST")
        try:
            client = _client(emulator)
        except CallerError:
            raise
        except Exception as error:  # a key file may hold anything, on which Google's library raises anything
            if emulator:
                raise
            file = os.environ.get("GOOGLE_APPLICATION_CREDENTIALS")
            words = f"{f'GOOGLE_APPLICATION_CREDENTIALS={file}: ' if file else ''}{library_words(error)}"
            advice = f"; {_LOG_IN}" if "not found" in words else ""
            raise CallerError(f"{self.uri}: no Google credentials: {words}{advice}") from None
        return client.bucket(self._bucket_name, user_project=os.environ.get(PAYER) or None)

    def _stat(self, name: str, blob: "storage.Blob") -> Stat:
        """What is known of an object. Raises CallerError for one whose bytes are not those of the file that it was."""
        if blob.content_encoding:
            raise CallerError(
                f"{self.uri}/{name}: is stored with Content-Encoding: {readable(blob.content_encoding)}, as"
                " `gsutil cp -Z` does, so its bytes are not those of the file; upload the file again without"
            )
        checksum = base64.b64decode(blob.crc32c).hex() if blob.crc32c else ""
        return Stat(int(blob.size), checksum, blob.generation or 0)

    def _key(self, name: str) -> str:
        return self._prefix + name

    def _blob(self, name: str) -> "storage.Blob":
        return self._bucket.blob(self._key(name))

    def _listed(self, prefix: str, of: Callable[[str, "storage.Blob"], T]) -> dict[str, T]:
        """What `of` makes of each object, by its name; those that are empty and stand for folders are left out."""
        fields = "items(name,size,crc32c,generation,updated,contentEncoding),nextPageToken"

        def attempt() -> dict[str, T]:
            blobs = self._bucket.list_blobs(prefix=self._key(prefix), fields=fields, **_once())
            named = ((blob.name.removeprefix(self._prefix), blob) for blob in blobs if not blob.name.endswith("/"))
            return {name: of(name, blob) for name, blob in named}

        return self._call("list", prefix, attempt)

    @contextlib.contextmanager
    def _temporary(self, name: str) -> Iterator[Path]:
        handle, text = tempfile.mkstemp(prefix=_TEMPORARY, suffix=Path(name).suffix)
        try:
            with contextlib.suppress(OSError):  # where nothing can be locked, nothing is swept either
                fcntl.flock(handle, fcntl.LOCK_EX)  # for as long as this process lives, no other sweeps the file away
            yield Path(text)
        finally:
            Path(text).unlink(missing_ok=True)
            os.close(handle)

    def _upload(self, name: str, path: Path, generation: int | None = None) -> None:
        def attempt() -> None:
            # The reply comes only when all that the kernel still holds is on its way, and blocks wait for that as well.
            held = min(path.stat().st_size, _HELD) / SLOWEST
            timeout = (TIMEOUT[0] + held, TIMEOUT[1] + held)
            self._blob(name).upload_from_filename(
                str(path), checksum="crc32c", if_generation_match=generation, **_once() | {"timeout": timeout}
            )

        self._call("write", name, attempt)

    def _replace(self, name: str, path: Path, generation: int | None) -> Stat:
        """Upload only if what is there is of that generation: 0 for nothing, None for anything."""
        ours = (path.stat().st_size, crc32c(path))
        # An upload whose answer was lost is refused when it is tried again: then what is there is ours.
        with contextlib.suppress(Changed):
            self._upload(name, path, generation)
        found = self.stat(name)
        if found is None or (found.size, found.crc32c) != ours:
            raise Changed(f"{self.uri}/{name}: was written by another process")
        return found

    def _fetch_newest(self, name: str, path: Path, limit: int | None = None) -> None:
        """Fetch what there is now; who reads relies on no generation, so one that is replaced meanwhile is let go."""
        for left in reversed(range(FETCHES)):
            if (stat := self.stat(name)) is None:
                raise _NotThere(errno.ENOENT, os.strerror(errno.ENOENT), f"{self.uri}/{name}")
            if limit is not None and stat.size > limit:
                raise self._too_large(name, limit)
            try:
                return self.fetch(name, stat, path)
            except Changed:
                if not left:
                    raise

    def _fetch_ranges(self, name: str, stat: Stat, path: Path, tell: Callable[[int], None]) -> None:
        starts, over = range(0, stat.size, RANGE), threading.Event()
        if len(starts) <= 1:
            return self._fetch_range(name, stat, path, 0, tell)

        def tell_or_end(count: int) -> None:
            if over.is_set():  # for another range of the object cannot be had
                raise CancelledError
            tell(count)

        with ThreadPoolExecutor(min(CONNECTIONS, len(starts)), thread_name_prefix="range") as pool:
            ranges = [pool.submit(self._fetch_range, name, stat, path, start, tell_or_end) for start in starts]
            try:
                for done in as_completed(ranges):
                    done.result()
            except BaseException:
                over.set()
                pool.shutdown(wait=False, cancel_futures=True)
                raise

    def _fetch_range(self, name: str, stat: Stat, path: Path, start: int, tell: Callable[[int], None]) -> None:
        """Bring one range into its place in the file; what has come of it when a transfer breaks off stays."""
        at, stop = start, min(start + RANGE, stat.size)

        def attempt() -> None:
            nonlocal at
            tell(0)
            with open(path, "r+b") as file:
                file.seek(at)
                sink = _Sink(file, stop - at, tell)
                try:
                    self._blob(name).download_to_file(
                        sink,
                        start=at,
                        end=stop - 1,
                        raw_download=True,
                        checksum=None,
                        if_generation_match=stat.generation or None,
                        **_once(),
                    )
                finally:
                    at += sink.written
            if at < stop:
                raise _Broken(f"{stop - at} bytes are missing at the end of the answer")

        while at < stop:
            before = at
            try:
                self._call("read", name, attempt)
            except Unavailable:
                if at == before:  # else the store is there, however often it breaks off
                    raise

    def _call(self, what: str, name: str, attempt: Callable[[], T]) -> T:
        """Do what may fail in passing until it succeeds or patience ends, and tell all else in our own terms."""
        from google.api_core import exceptions as api
        from google.auth.exceptions import DefaultCredentialsError, GoogleAuthError
        from google.cloud.storage.exceptions import DataCorruption
        from google.cloud.storage.retry import DEFAULT_RETRY
        from requests.exceptions import ConnectionError as RequestsConnectionError
        from requests.exceptions import ContentDecodingError, RequestException
        from urllib3.exceptions import HTTPError

        place = f"{self.uri}/{name}"

        def checked() -> T:
            try:
                return attempt()
            except json.JSONDecodeError as error:
                raise _Broken(f"the answer is not JSON: {readable(error.doc)[:80]!r}") from error
            except (DataCorruption, ContentDecodingError) as error:
                raise _Broken(one_line(error)) from error
            except api.GoogleAPICallError as error:
                # A success that the client does not take for one is a reply to an upload without what it asked for.
                if error.code == 200 or _DAMAGED in str(error):
                    raise _Broken(one_line(error)) from error
                if _may_pass(error):
                    raise _Broken(f"the store answers: {answer(error)}") from error
                raise
            except (RequestsConnectionError, GoogleAuthError) as error:
                if _UNTRUSTED in str(error):
                    told = one_line(error).partition(_UNTRUSTED)[2].strip(" ]()'\"")
                    raise CallerError(f"{place}: {_NOT_TRUSTED} ({told[:200]})") from None
                if _TURNED_AWAY.search(words := cause(error)) or is_misaddressed(error):
                    raise CallerError(f"{place}: {words}") from None
                if isinstance(error, GoogleAuthError) and _passes(error):
                    raise _Broken(f"no token could be had: {library_words(error)}") from error
                raise
            except (RequestException, HTTPError):
                raise
            except (RecursionError, TypeError, ValueError, KeyError, AttributeError) as error:  # JSON, and no object's
                raise _Broken(f"the answer is none of a store: {readable(error)[:120]}") from error

        began, has_told = time.monotonic(), threading.Event()

        def tell(error: Exception) -> None:
            if time.monotonic() - began > SILENT and not has_told.is_set():
                has_told.set()
                warn(f"{place}: cannot {what} it yet, for up to {self.patience:.0f} s more: {_why(error)}")

        try:
            retry = DEFAULT_RETRY.with_delay(0.2, 8.0, 2.0).with_timeout(self.patience)
            return retry(checked, on_error=tell)()
        except GoogleAuthError as error:
            advice = f"; {_LOG_IN}" if isinstance(error, DefaultCredentialsError) else ""
            raise CallerError(f"{place}: no valid credentials: {library_words(error)}{advice}") from None
        except api.RetryError as error:
            answered = isinstance(error.cause, (api.GoogleAPICallError, _Broken))
            could_not = what if answered else f"be reached to {what}"
            raise Unavailable(
                f"{place}: could not {could_not} it for {self.patience:.0f} s: {_why(error.cause or error)}"
            ) from error
        except api.GoogleAPICallError as error:
            raise self._refusal(what, place, answer(error)) from None
        except (RequestException, HTTPError) as error:  # an address or a proxy's that is none, redirects without end
            raise CallerError(f"{place}: cannot be asked for: {cause(error)}") from None

    def _refusal(self, what: str, place: str, told: Answer) -> Exception:
        """What to raise for an answer that says that asking again is of no use."""
        if not told.by_store:
            through = f", through the proxy {proxy}," if (proxy := _proxy(told.server)) else ""
            return CallerError(f"{place}: what answers at {told.server}{through} is no store: {told}")
        if told.status == 412 and told.reason in _NOT_AS_EXPECTED:
            return Changed(f"{place}: was replaced by another process while this one relied on it")
        if told.status == 404:
            # To list or to write needs nothing but the bucket; not every store says that it is the bucket that is missing.
            if "bucket does not exist" in told.words or (what in ("list", "write") and not told.words):
                return CallerError(f"{place}: there is no bucket {self._bucket_name}; create it, or mend the URI")
            if what in ("read", "delete"):
                return _NotThere(errno.ENOENT, os.strerror(errno.ENOENT), place)
        if told.status == 401:
            return CallerError(f"{place}: no valid credentials: {told}; {_LOG_IN}")
        if told.wants_payer:
            return CallerError(f"{place}: {told}; let {PAYER} name the project that pays")
        if told.status == 403 and told.of_permission:
            needed = f"it needs {_PERMISSIONS[what]} on bucket {self._bucket_name}"
            return CallerError(f"{place}: this account may not {what} here: {needed} ({told.words})")
        if told.status in _PERSISTENT:
            return CallerError(f"{place}: the store refuses to {what} it: {told}")
        return RunError(f"{place}: could not {what} it: {told}")


class _Sink:
    """The file that a transfer is written to: no more of it than was asked for."""

    def __init__(self, file: BinaryIO, size: int, tell: Callable[[int], None]) -> None:
        self._file = file
        self._size = size
        self._tell = tell
        self.written = 0

    def write(self, block: bytes) -> int:
        if self.written + len(block) > self._size:
            raise _Broken("the answer is longer than what was asked for")
        self._tell(len(block))
        self._file.write(block)
        self.written += len(block)
        return len(block)


_LOG_IN = "run `gcloud auth application-default login`, or let GOOGLE_APPLICATION_CREDENTIALS name a key file"
_DAMAGED = "match calculated CRC32C"
"""What is told of an upload that has come with other bytes than were sent."""
_NOT_AS_EXPECTED = ("", "conditionNotMet", "PreconditionFailed")
"""What is told of an object that is not of the generation that was expected; other reasons are of other conditions."""
_PERSISTENT = (400, 403, 405, 411, 413, 414, 431, 451)
_TURNED_AWAY = re.compile(r"Tunnel connection failed: 4\d\d")
"""What is told of a proxy that refuses, for good."""
_UNTRUSTED = "CERTIFICATE_VERIFY_FAILED"
_NOT_TRUSTED = "its TLS certificate is not trusted here; let REQUESTS_CA_BUNDLE name a file with that of who signed it"
_PERMISSIONS = {
    "read": "storage.objects.get and storage.objects.list (roles/storage.objectViewer)",
    "list": "storage.objects.list (roles/storage.objectViewer)",
    "write": "storage.objects.create and storage.objects.delete (roles/storage.objectUser)",
    "delete": "storage.objects.delete (roles/storage.objectUser)",
}


def _why(error: Exception) -> str:
    """What has gone wrong for so long."""
    from google.api_core.exceptions import GoogleAPICallError

    if isinstance(error, GoogleAPICallError):
        told = answer(error)
        return f"{'the store' if told.by_store else told.server} answers: {told}"
    if isinstance(error, _Broken):
        return readable(error)
    emulator = os.environ.get("STORAGE_EMULATOR_HOST")
    if emulator and is_refused(error):
        return f"Connection refused by {emulator}; does `make bucket` still run?"
    return cause(error)


def _may_pass(error: "GoogleAPICallError") -> bool:
    """Whether asking again may help, beside the answers that Google's library takes to pass."""
    if error.code == 403:
        return answer(error).reason in ("rateLimitExceeded", "userRateLimitExceeded")
    # The store may lose an upload in parts, each of which is a PUT; it is then begun anew.
    return error.code in (404, 410) and error.response is not None and error.response.request.method == "PUT"


def _proxy(server: str) -> str:
    """The proxy that may itself answer requests to a server, as HOST:PORT; empty where there is none."""
    from requests.utils import get_environ_proxies, select_proxy

    if not server.startswith("http://"):
        return ""  # with HTTPS it only passes on what it cannot read
    return urlsplit(select_proxy(server, get_environ_proxies(server)) or "").netloc.rpartition("@")[2]


def _passes(error: "GoogleAuthError") -> bool:
    """Whether whoever gives out tokens could not be reached or was busy, so that the credentials may be good."""
    from google.auth.exceptions import TransportError

    return error.retryable or any(isinstance(part, TransportError) for part in (error, error.__cause__, *error.args))


def _once() -> dict[str, Any]:
    """What makes the client send a request once."""
    return {"timeout": TIMEOUT, "retry": None}


@functools.cache
def _client(emulator: str | None) -> "storage.Client":
    """The client of this process, which all threads share; it finds the emulator in the environment by itself."""
    from google.cloud import storage

    if emulator and not _is_address(emulator):
        raise CallerError(f"STORAGE_EMULATOR_HOST={emulator}: is no address of the form http://HOST:PORT")
    # Else the client looks the bucket up in a thread of its own, for a tracing that nobody has asked for.
    os.environ.setdefault("DISABLE_GCS_PYTHON_CLIENT_OTEL_BUCKET_METADATA", "1")
    client = storage.Client(project=None)
    for scheme in ("http://", "https://"):
        client._http.mount(scheme, _adapter())
    client._http.hooks["response"].append(_CLOCK.note)
    return client


def _is_address(text: str) -> bool:
    try:
        parts = urlsplit(text)
        return parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        return False


def _adapter() -> "HTTPAdapter":
    """Connections for more threads than the client's own adapter has, whose bytes are handed on as they come.

    The client waits for blocks of 8 KiB, so that a transfer which trickles would keep it busy for days without a word.
    And what it sends must be away as a whole within the timeout of a connection; a file is sent in blocks.
    """
    from requests import PreparedRequest, Response
    from requests.adapters import HTTPAdapter

    class Adapter(HTTPAdapter):
        def send(self, request: PreparedRequest, *args: Any, **kwargs: Any) -> Response:
            if isinstance(request.body, bytes):
                request = request.copy()  # the caller's may be sent again
                request.body = io.BytesIO(request.body)
            response = super().send(request, *args, **kwargs)
            response.raw.stream = functools.partial(_stream, response.raw)
            return response

    return Adapter(pool_maxsize=_POOL)


def _stream(raw: "HTTPResponse", amt: int = _BLOCK, decode_content: bool | None = None) -> Iterator[bytes]:
    """An answer's body as it comes, decoded only if that is asked for; one that comes too slowly is broken off."""
    began, size = time.monotonic(), 0
    while block := raw.read1(_BLOCK, decode_content=decode_content):
        size += len(block)
        if time.monotonic() > began + TIMEOUT[1] + size / SLOWEST:
            raise _Broken(f"the transfer is slower than {SLOWEST} bytes a second")
        yield block
