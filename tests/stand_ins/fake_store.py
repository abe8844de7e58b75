"""A small Google Cloud Storage on 127.0.0.1 for tests, which misbehaves when it is told to.

It speaks those parts of the JSON API that `google.cloud.storage.Client` uses, over real sockets: what is tested
with it is what our code does when a connection dies, hangs or lies, and a mock of the client cannot show that.

    with FakeStore(buckets=("bucket",)) as store:
        store.put("bucket", "photo.jpg", b"content")
        store.faults.add(Fault("download", "reset", at=3, name="photo", times=2))
        options = {"api_endpoint": store.host}
        client = storage.Client(project="none", credentials=AnonymousCredentials(), client_options=options)

Its parts are the script of faults (`Fault`, `Faults`), what a well-behaved store answers (`_Objects`), and how an
answer gets onto the wire (`FakeStore` with its `_Handler`), which is where most faults happen.

Mind that the client of today asks for a bucket's metadata on its own, in a thread and with retries, before its
first request and after a 404, unless DISABLE_GCS_PYTHON_CLIENT_OTEL_BUCKET_METADATA=1 is in the environment.
"""

import base64
import fcntl
import functools
import gzip
import hashlib
import itertools
import json
import re
import socket
import struct
import termios
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import KW_ONLY, dataclass, field
from datetime import UTC, datetime
from email.message import Message
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Literal, NoReturn, Self
from urllib.parse import parse_qsl, quote, unquote, urlencode, urlsplit

import google_crc32c

Kind = Literal["metadata", "download", "upload", "delete", "list", "bucket"]
What = Literal[
    "none",
    "status",
    "reset",
    "stall",
    "trickle",
    "truncate",
    "short",
    "flip",
    "no_hash",
    "replace",
    "lost_reply",
    "unread",
    "flip_sent",
]


@dataclass(frozen=True)
class Request:
    """One request as it arrived. The start of a resumable upload is one, and so is each of its chunks."""

    method: str
    kind: Kind
    bucket: str
    name: str
    range: str  # the Range header of a download, the Content-Range header of a chunk, or nothing
    time: float  # of time.monotonic()
    query: Mapping[str, str]  # the URL's, with the preconditions
    crc32c: str  # of what is uploaded, if the client tells it

    @property
    def resumes(self) -> bool:
        """Whether it is about a range that starts above byte 0."""
        return re.match(r"bytes[= ]0*[1-9]\d*-", self.range) is not None


@dataclass(frozen=True)
class Fault:
    """What goes wrong (`what`), and with which requests.

    none        Nothing does: these requests pass, whatever the faults that were added later have in store.
    status      Nothing is done; the answer is status `code`, perhaps with a Retry-After, and Google's JSON body with
                `message` and `reason`; or with `content` in its place, as of a proxy or another server.
    reset       The headers and `at` bytes are sent, then RST. An upload or a delete is reset before it is done.
    stall       The headers and `at` bytes are sent, then nothing for `seconds`, then the connection is closed.
    trickle     One byte at a time, `seconds` apart: no read ever times out, and yet the end does not come.
    truncate    `at` bytes are sent under a Content-Length that promises all, and the connection is closed.
    short       `at` bytes are sent under a Content-Length that agrees with them, as by a proxy that lies.
    flip        A bit of the body's byte `at` is flipped; the headers and the hash are those of the true bytes.
    no_hash     There is no x-goog-hash header, and neither crc32c nor md5Hash in the metadata.
    replace     Right before the request is served, the object gets `content` and a new generation.
    lost_reply  Everything is done, and the connection is reset before the first byte of the reply.
    unread      No more than the head and `at` bytes of an upload are read, then nothing for `seconds`, then RST.
    flip_sent   A bit of byte `at` of what is uploaded is flipped on its way to the store.

    But for the last two, `at` counts bytes of the response's body, which for a Range request is only a part of the object.
    """

    kind: Kind
    what: What
    _: KW_ONLY
    name: str = ""  # a regular expression, searched for in the object's name
    times: int | None = 1  # how many requests it hits, None for all
    after: int = 0  # how many it lets pass first
    only_ranges: bool | None = None  # True: only requests that resume (see Request); False: only those that do not
    at: int = 0
    seconds: float = 0.0
    code: int = 503
    retry_after: int | None = None
    content: bytes = b""
    message: str = ""  # "" for one that only tells the code
    reason: str = ""  # "" for Google's most general one of that code

    def matches(self, request: Request) -> bool:
        in_range = self.only_ranges is None or self.only_ranges == request.resumes
        return self.kind == request.kind and in_range and re.search(self.name, request.name) is not None


class Faults:
    """The script. A request comes to the faults in their order until one hits it: one request, one fault."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._faults: list[Fault] = []
        self._seen: list[int] = []  # how many requests came to each

    def add(self, *faults: Fault) -> None:
        with self._lock:
            self._faults += faults
            self._seen += [0] * len(faults)

    def clear(self) -> None:
        with self._lock:
            self._faults, self._seen = [], []

    @property
    def left(self) -> list[Fault]:
        """Those that have not hit as often as they are to, however often that is for those that hit all."""
        with self._lock:
            hits = [seen - fault.after for fault, seen in zip(self._faults, self._seen, strict=True)]
            return [fault for fault, hit in zip(self._faults, hits, strict=True) if hit < (fault.times or 1)]

    def take(self, request: Request) -> Fault:
        """The fault that hits this request."""
        with self._lock:
            for i, fault in enumerate(self._faults):
                if fault.matches(request):
                    self._seen[i] += 1
                    turn = self._seen[i] - fault.after
                    if turn > 0 and (fault.times is None or turn <= fault.times):
                        return fault
        return Fault(request.kind, "none")


@dataclass(frozen=True)
class _Reply:
    status: int
    body: bytes = b""
    headers: Mapping[str, str] = field(default_factory=dict)


def _json(value: dict[str, Any], status: int = 200, **headers: str) -> _Reply:
    return _Reply(status, json.dumps(value).encode(), {"Content-Type": "application/json", **headers})


def _error(status: int, message: str, reason: str = "", **headers: str) -> _Reply:
    """An error in Google's form."""
    reasons = {
        400: "invalid",
        401: "authError",
        403: "forbidden",
        404: "notFound",
        412: "conditionNotMet",
        429: "rateLimitExceeded",
    }
    errors = [{"message": message, "domain": "global", "reason": reason or reasons.get(status, "backendError")}]
    return _json({"error": {"code": status, "message": message, "errors": errors}}, status, **headers)


def _crc32c(content: bytes) -> str:
    return base64.b64encode(google_crc32c.Checksum(content).digest()).decode()


@dataclass(frozen=True)
class _Object:
    bucket: str
    name: str
    content: bytes
    generation: str
    updated: str
    encoding: str = ""  # the Content-Encoding that it was stored with

    @functools.cached_property
    def hashes(self) -> dict[str, str]:
        md5 = base64.b64encode(hashlib.md5(self.content).digest()).decode()
        return {"crc32c": _crc32c(self.content), "md5": md5}

    def metadata(self, host: str) -> dict[str, str]:
        encoding = {"contentEncoding": self.encoding} if self.encoding else {}
        url = f"{host}/download/storage/v1/b/{self.bucket}/o/{quote(self.name, safe='')}"
        return {
            "bucket": self.bucket,
            "name": self.name,
            "mediaLink": f"{url}?generation={self.generation}&alt=media",  # which the client prefers to its own URL
            "generation": self.generation,
            "updated": self.updated,
            "size": str(len(self.content)),
            "crc32c": self.hashes["crc32c"],
            "md5Hash": self.hashes["md5"],
            **encoding,
        }

    def media(self, wanted: str) -> _Reply:
        """The bytes, or the range of them that a Range header wants; the hash is that of the whole in any case."""
        size = len(self.content)
        headers = {
            "Content-Type": "application/octet-stream",
            "x-goog-hash": ",".join(f"{kind}={digest}" for kind, digest in self.hashes.items()),
            "x-goog-generation": self.generation,
            "x-goog-stored-content-length": str(size),
            **({"Content-Encoding": self.encoding} if self.encoding else {}),
        }
        found = re.fullmatch(r"bytes=(\d*)-(\d*)", wanted)
        if found is None:
            return _Reply(200, self.content, headers)
        first, last = found.groups()
        start = int(first) if first else max(0, size - int(last))
        stop = min(int(last) + 1, size) if first and last else size
        if start >= stop:
            return _error(416, "The requested range cannot be satisfied.", **{"Content-Range": f"bytes */{size}"})
        return _Reply(206, self.content[start:stop], headers | {"Content-Range": f"bytes {start}-{stop - 1}/{size}"})


class _Objects:
    """The buckets with their objects, and the answers of a store that behaves. All that it does is atomic."""

    def __init__(self, buckets: Sequence[str], page_size: int) -> None:
        self.host = ""  # known once there is a port
        self.requester_pays = False  # whether each request must name the project that pays for it
        self.ahead = 0.0  # seconds that the store's clock is ahead of the tests'
        self._page_size = page_size
        self._lock = threading.RLock()
        self._buckets: dict[str, dict[str, _Object]] = {bucket: {} for bucket in buckets}
        self._uploads: dict[
            str, bytes | _Reply
        ] = {}  # resumable ones: what has arrived, or the reply to the last of it
        self._generations = itertools.count(1_700_000_000_000_000)  # as long as Google's

    def put(self, bucket: str, name: str, content: bytes, encoding: str = "") -> int:
        """Store an object, whatever is there; returns its generation."""
        with self._lock:
            now = datetime.fromtimestamp(time.time() + self.ahead, UTC)
            updated = now.isoformat(timespec="milliseconds").replace("+00:00", "Z")
            generation = next(self._generations)
            self._buckets[bucket][name] = _Object(bucket, name, content, str(generation), updated, encoding)
            return generation

    def get(self, bucket: str, name: str) -> bytes:
        """The object's bytes; raises KeyError."""
        with self._lock:
            return self._buckets[bucket][name].content

    def delete(self, bucket: str, name: str) -> None:
        """Remove an object; raises KeyError."""
        with self._lock:
            del self._buckets[bucket][name]

    def names(self, bucket: str) -> list[str]:
        with self._lock:
            return sorted(self._buckets[bucket])

    def _answer(self, request: Request, content: bytes) -> _Reply:
        with self._lock:
            objects = self._buckets.get(request.bucket)
            if objects is None:
                return _error(404, "The specified bucket does not exist.")
            if self.requester_pays and not request.query.get("userProject"):
                return _error(400, "Bucket is a requester pays bucket but no user project provided.", "required")
            if request.kind == "bucket":
                return _json({"id": request.bucket, "name": request.bucket})
            if request.kind == "list":
                return self._list(objects, request.query)
            if request.kind == "upload":
                return self._upload(objects, request, content)
            found = objects.get(request.name)
            if found is None or request.query.get("generation", found.generation) != found.generation:
                return _error(404, f"No such object: {request.bucket}/{request.name}")
            if refusal := _refusal(request, found):
                return refusal
            if request.kind == "delete":
                del objects[request.name]
                return _Reply(204)
            return found.media(request.range) if request.kind == "download" else _json(found.metadata(self.host))

    def _list(self, objects: dict[str, _Object], query: Mapping[str, str]) -> _Reply:
        """One page. Names that go on after a delimiter are merged into an entry of their own, without an object."""
        prefix, delimiter = query.get("prefix", ""), query.get("delimiter") or "\0"
        after = base64.urlsafe_b64decode(query.get("pageToken", "")).decode()
        size = min(int(query.get("maxResults", self._page_size)), self._page_size)
        entries: dict[str, _Object | None] = {}
        for name, item in objects.items():
            if name.startswith(prefix):
                stem, end, _ = name[len(prefix) :].partition(delimiter)
                entries[prefix + stem + end] = None if end else item
        rest = sorted(entry for entry in entries if entry > after)
        page, more = rest[:size], rest[size:]
        items = [found.metadata(self.host) for entry in page if (found := entries[entry]) is not None]
        prefixes = [entry for entry in page if entries[entry] is None]
        token = {"nextPageToken": base64.urlsafe_b64encode(page[-1].encode()).decode()} if more else {}
        return _json({"items": items, "prefixes": prefixes, **token})

    def _upload(self, objects: dict[str, _Object], request: Request, content: bytes) -> _Reply:
        """Store a whole upload, or start or go on with a resumable one. Preconditions count in the end only."""
        key = request.query.get("upload_id")
        if request.query["uploadType"] == "resumable":
            if key is None:
                query = {**request.query, "name": request.name, "upload_id": str(len(self._uploads))}
                self._uploads[query["upload_id"]] = b""
                url = f"{self.host}/upload/storage/v1/b/{request.bucket}/o?{urlencode(query)}"
                return _Reply(200, headers={"Location": url})
            # A chunk is `bytes 0-99/*`, or with the size at the end; `bytes */100` asks how far the upload has come.
            before, wanted = self._uploads.get(key), re.fullmatch(r"bytes (?:(\d+)-\d+|\*)/(\d+|\*)", request.range)
            if isinstance(before, _Reply):
                return before
            if before is None or wanted is None or int(wanted[1] or 0) > len(before):
                return _error(404 if before is None else 400, f"No such upload, or not at {request.range}")
            content = self._uploads[key] = before[: int(wanted[1])] + content if wanted[1] else before
            if wanted[2] != str(len(content)):
                return _Reply(308, headers={"Range": f"bytes=0-{len(content) - 1}"} if content else {})
        if request.crc32c not in ("", crc32c := _crc32c(content)):
            return _error(400, f'Provided CRC32C "{request.crc32c}" doesn\'t match calculated CRC32C "{crc32c}".')
        if refusal := _refusal(request, objects.get(request.name)):
            return refusal
        self.put(request.bucket, request.name, content)
        reply = _json(objects[request.name].metadata(self.host))
        if key:
            self._uploads[key] = reply
        return reply


def _refusal(request: Request, found: _Object | None) -> _Reply | None:
    """What is answered if the request's preconditions do not hold for the object there is."""
    generation = found.generation if found else "0"
    if request.query.get("ifGenerationMatch", generation) != generation:
        return _error(412, "At least one of the pre-conditions you specified did not hold.")
    if request.query.get("ifGenerationNotMatch") == generation:
        return _Reply(304) if request.method == "GET" else _error(412, "The object is of that generation.")
    return None


def _parse(method: str, target: str, headers: Message, body: bytes) -> tuple[Request, bytes]:
    """The request and its content. The name of what is uploaded is in the body, with a chunk in the URL we gave."""
    url = urlsplit(target)
    path = re.fullmatch(r"/(upload/|download/)?storage/v1/b/([^/]+)(/o)?(?:/(.+))?", url.path)
    assert path, f"the fake store does not know {target}"
    query, name, text, crc32c = dict(parse_qsl(url.query)), unquote(path[4] or ""), body, ""
    kind: Kind = "list" if path[3] else "bucket"
    if path[1] == "upload/":
        kind = "upload"
        if query["uploadType"] == "multipart":
            boundary = f"--{headers.get_boundary()}".encode()
            _, first, rest = body.split(boundary, 2)
            text = first.partition(b"\r\n\r\n")[2]
            body = rest.partition(b"\r\n\r\n")[2].rpartition(b"\r\n" + boundary)[0]
        if method == "PUT":
            name, crc32c = query["name"], headers.get("x-goog-hash", "").removeprefix("crc32c=")
        else:
            metadata = json.loads(text)
            name, crc32c = metadata["name"], metadata.get("crc32c", "")
    elif name:
        kind = "delete" if method == "DELETE" else "download" if query.get("alt") == "media" else "metadata"
    wanted = headers.get("Content-Range" if kind == "upload" else "Range", "")
    return Request(method, kind, unquote(path[2]), name, wanted, time.monotonic(), query, crc32c), body


class FakeStore(_Objects):
    """The store and its server, which runs inside the `with`. The attributes may be changed at any time."""

    def __init__(self, buckets: Sequence[str] = ("bucket",), page_size: int = 1000) -> None:
        super().__init__(buckets, page_size)
        self.faults = Faults()
        self.rate: float | None = None  # bytes per second of a download's body, on each connection
        self.upload_rate: float | None = None  # bytes per second at which the body of a request is read
        self.gzip = False  # whether JSON is compressed for clients that take it so, as Google's is
        self.latency = 0.0  # seconds before each response
        self._requests: list[Request] = []
        self._down = False
        self._connections: dict[socket.socket, bool] = {}  # those being served; False: cut, to be given up
        self._changed = threading.Condition()  # guards the two above

    def __enter__(self) -> Self:
        self._server = _Server(("127.0.0.1", 0), _Handler)
        self._server.store = self
        self.host = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        with self._changed:
            self._down = True
            self._cut(socket.SHUT_RDWR)
        self._server.shutdown()
        self._server.server_close()
        with self._changed:
            self._changed.wait_for(lambda: not self._connections, timeout=5)

    @property
    def requests(self) -> list[Request]:
        """All requests so far. One that was reset because the store is down is not among them."""
        return self._requests.copy()

    def count(self, kind: Kind, name_regex: str = "") -> int:
        """How many requests there were of this kind, for objects with such names."""
        return sum(request.kind == kind and bool(re.search(name_regex, request.name)) for request in self.requests)

    @property
    def down(self) -> bool:
        """While this is True every connection is reset, those that are open included."""
        return self._down

    @down.setter
    def down(self, down: bool) -> None:
        with self._changed:
            self._down = down
            if down:
                self._cut(socket.SHUT_RD)

    def _cut(self, how: int) -> None:
        """Have all handlers give up. SHUT_RD wakes those that read and tells the client nothing before the RST."""
        for connection in self._connections:
            self._connections[connection] = False
            _reset_on_close(connection)
            with suppress(OSError):
                connection.shutdown(how)
        self._changed.notify_all()

    @contextmanager
    def _serving(self, connection: socket.socket) -> Iterator[None]:
        """Within this the connection can be cut; one that comes while the store is down is cut from the start."""
        with self._changed:
            self._connections[connection] = not self._down
            if self._down:
                _reset_on_close(connection)
        try:
            yield
        finally:
            with self._changed:
                del self._connections[connection]
                self._changed.notify_all()

    def _wait(self, connection: socket.socket, seconds: float = 0.0) -> None:
        """Sleep; raises as soon as the connection is cut."""
        with self._changed:
            if self._changed.wait_for(lambda: not self._connections[connection], seconds):
                raise ConnectionResetError


_HEAD = 1 << 14
"""Bytes of a request's body that tell what it is about."""


class _Server(ThreadingHTTPServer):
    request_queue_size = 128
    store: FakeStore

    def shutdown_request(self, request: Any) -> None:
        """Close the connection at once: the base class sends a FIN first, and a reset would not look like one."""
        self.close_request(request)


class _Handler(BaseHTTPRequestHandler):
    """Serves one connection, request by request; a ConnectionError ends it."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # else many a reply takes 40 ms
    server: _Server

    def handle(self) -> None:
        with self.server.store._serving(self.connection), suppress(ConnectionError):
            self.server.store._wait(self.connection)
            super().handle()

    def _serve(self) -> None:
        store, length = self.server.store, int(self.headers.get("Content-Length", 0))
        body = self._read(min(length, _HEAD))
        request, _ = _parse(self.command, self.path, self.headers, body)
        fault = store.faults.take(request)
        if fault.what == "unread":
            store._requests.append(request)
            self._read(max(0, min(length, fault.at) - len(body)))
            store._wait(self.connection, fault.seconds)
            self._reset()
        body += self._read(length - len(body))
        request, content = _parse(self.command, self.path, self.headers, body)
        store._requests.append(request)
        store._wait(self.connection, store.latency)
        if fault.what == "reset" and request.kind in ("upload", "delete"):
            self._reset()
        if fault.what == "flip_sent":
            content = _flipped(content, fault.at)
        if fault.what == "replace":
            store.put(request.bucket, request.name, fault.content)
        if fault.what == "status":
            after = {} if fault.retry_after is None else {"Retry-After": str(fault.retry_after)}
            reply = _error(fault.code, fault.message or f"Status {fault.code}, as scripted.", fault.reason, **after)
            if fault.content:
                reply = _Reply(fault.code, fault.content, after)
        else:
            reply = store._answer(request, content)
        if fault.what == "lost_reply":
            self._reset()
        self._send(reply, fault)

    do_GET = do_POST = do_PUT = do_DELETE = _serve

    def _read(self, length: int) -> bytes:
        """So much of the request's body, with a pause after each block that keeps to the rate."""
        body, rate = b"", self.server.store.upload_rate
        while rate and (block := self.rfile.read(min(int(rate / 50), length - len(body)))):
            body += block
            self.server.store._wait(self.connection, len(block) / rate)
        body = body or self.rfile.read(length)
        if len(body) < length:
            raise ConnectionResetError("the client died in the middle of its request")
        return body

    def _send(self, reply: _Reply, fault: Fault) -> None:
        headers, body, what, at = dict(reply.headers), reply.body, fault.what, fault.at
        if what == "no_hash" and headers.pop("x-goog-hash", None) is None:
            body = re.sub(rb', "(crc32c|md5Hash)": "[^"]*"', b"", body)
        if (
            self.server.store.gzip
            and "application/json" in headers.values()
            and "gzip" in self.headers["Accept-Encoding"]
        ):
            headers["Content-Encoding"], body = "gzip", gzip.compress(body)
        if what == "flip":
            body = _flipped(body, at)
        if what == "short":
            body = body[:at]
        self.send_response(reply.status)
        for name, value in {**headers, "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        cut = what in ("reset", "stall", "truncate")
        self.close_connection = self.close_connection or cut
        self._write(memoryview(body)[: at if cut else None], fault)
        if what == "stall":
            self.server.store._wait(self.connection, fault.seconds)
        if what == "reset":
            self._reset()

    def _write(self, body: memoryview, fault: Fault) -> None:
        """Send in blocks, with a pause after each that keeps to the rate, which may change on the way."""
        while body:
            size, pause, rate = 1 << 20, 0.0, self.server.store.rate
            if fault.what == "trickle":
                size, pause = 1, fault.seconds
            elif rate and fault.kind == "download":
                size = max(1, int(rate / 50))
                pause = size / rate
            self.wfile.write(body[:size])
            body = body[size:]
            self.server.store._wait(self.connection, pause if body else 0)

    def _reset(self) -> NoReturn:
        """End the connection with RST, once the client's kernel has what was sent, which else would be thrown away."""
        until = time.monotonic() + 1
        with suppress(OSError):  # not every system can tell
            while any(fcntl.ioctl(self.connection, termios.TIOCOUTQ, bytes(4))) and time.monotonic() < until:
                time.sleep(0.001)
        _reset_on_close(self.connection)
        raise ConnectionResetError

    def date_time_string(self, timestamp: float | None = None) -> str:
        return super().date_time_string(time.time() + self.server.store.ahead)

    def log_message(self, format: str, *args: object) -> None:
        """Nothing: `FakeStore.requests` is the log."""


def _flipped(content: bytes, at: int) -> bytes:
    return content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :]


def _reset_on_close(connection: socket.socket) -> None:
    with suppress(OSError):
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
