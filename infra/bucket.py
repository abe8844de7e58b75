"""A stand-in for Google Cloud Storage on this machine: gcp-storage-emulator on many threads, its objects in a folder.

It takes no notice of preconditions (`if_generation_match`) and keeps only the newest generation of an object.
"""

import argparse
import contextlib
import io
import logging
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from functools import partial
from http.server import ThreadingHTTPServer
from pathlib import Path
from typing import Any

from gcp_storage_emulator.handlers.buckets import create_bucket
from gcp_storage_emulator.server import RequestHandler, Router
from gcp_storage_emulator.storage import Storage, _FileStore

from infra.folder_lock import Refused, alone_in

_STATE = ".meta"
"""File in which the emulator keeps what it knows of its objects."""


class _Files(_FileStore):
    """Files that are replaced whole, so that what a killed server leaves can be served again."""

    def write_bytes(self, rel: str, content: bytes) -> None:
        super().write_bytes(".part", content)
        path = self._disk_path(rel)
        path.parent.mkdir(parents=True, exist_ok=True)
        os.replace(self._disk_path(".part"), path)


class _Storage(Storage):
    """The emulator's storage, with each object in a file of its own name under FOLDER/BUCKET."""

    def __init__(self, folder: Path) -> None:
        super().__init__(use_memory_fs=True)
        self._store = _Files(use_memory=False, root=folder)
        self._read_config_from_file()


class _Handler(RequestHandler):
    """Takes requests in and sends answers all at once, but lets them to the storage, which knows no threads, in turn."""

    server: "_Server"
    rfile: io.BufferedIOBase
    wfile: io.BufferedIOBase

    def _answer(self) -> None:
        if length := int(self.headers.get("Content-Length", 0)):
            self.rfile = io.BytesIO(self.rfile.read(length))
        client, answer = self.wfile, io.BytesIO()
        self.wfile = answer
        with self.server.turn:
            Router(self).handle(self.command)
        client.write(answer.getbuffer())

    do_GET = do_POST = do_PUT = do_DELETE = do_PATCH = _answer


class _Server(ThreadingHTTPServer):
    """The emulator's own server has one thread, which a connection that stands idle keeps."""

    request_queue_size = 128

    def __init__(self, address: tuple[str, int], storage: Storage) -> None:
        self.turn = threading.Lock()
        super().__init__(address, partial(_Handler, storage))

    def handle_error(self, request: Any, client_address: Any) -> None:
        if not isinstance(sys.exception(), ConnectionError):  # a client may hang up
            super().handle_error(request, client_address)


@contextlib.contextmanager
def serving(folder: Path, port: int, bucket: str, host: str = "127.0.0.1") -> Iterator[str]:
    """Serve a bucket, which is created if it isn't there, for as long as the block lasts; gives the server's address.

    Raises Refused when another process serves the folder or the port, and for a folder with files of something else,
    which an object of the same name would replace.
    """
    _refuse_others(folder)
    with alone_in(folder, "is being served already; give another --folder"):
        storage = _Storage(folder)
        made = create_bucket(bucket, storage) or storage.get_bucket(bucket)
        made["softDeletePolicy"] = {"retentionDurationSeconds": "0"}  # else what is deleted lies there for a week
        try:
            server = _Server((host, port), storage)
        except (OSError, OverflowError) as error:
            why = error.strerror if isinstance(error, OSError) else error
            raise Refused(f"{host} port {port}: {why}; give another --port, or 0 for any that is free") from None
        threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        try:
            yield f"http://{host}:{server.server_port}"
        finally:
            server.shutdown()
            server.turn.acquire()  # for good: what was begun is done, and nothing else begins
            server.server_close()


def _refuse_others(folder: Path) -> None:
    """Raise Refused for a folder that holds something and was never served."""
    with contextlib.suppress(OSError):  # of a folder that is not there, or cannot be read
        there = {path.name for path in folder.iterdir()} - {".lock", ".part"}
        if there and _STATE not in there:
            raise Refused(f"{folder}: holds {min(there)} but no {_STATE} of a bucket; give another --folder")


def run(command: Sequence[str], host: str) -> int:
    """Run a command that finds the server; its exit code, as a shell would tell it."""
    try:
        process = subprocess.Popen(command, env=os.environ | {"STORAGE_EMULATOR_HOST": host})
    except OSError as error:
        raise Refused(f"{command[0]}: {error.strerror}") from None
    signal.signal(signal.SIGINT, lambda *_: None)  # the terminal sends Ctrl-C to the command as well
    signal.signal(signal.SIGTERM, lambda *_: process.terminate())
    code = process.wait()
    return code if code >= 0 else 128 - code


def main() -> int:
    """Serve until Ctrl-C or SIGTERM, or for as long as a command runs."""
    parser = argparse.ArgumentParser("python -m infra.bucket", description=__doc__)
    parser.add_argument("--folder", type=Path, default=Path("bucket/emulator"), help="keeps the objects (%(default)s)")
    parser.add_argument("--port", type=int, default=9023, help="0 for any that is free (%(default)s)")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (%(default)s)")
    parser.add_argument("--bucket", default="catdog", help="name of the bucket (%(default)s)")
    parser.add_argument("command", nargs="*", help="what to run against it, after --; its exit code is given")
    options = parser.parse_args()
    logging.disable(logging.CRITICAL)  # the emulator complains of every object that isn't there
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        with serving(options.folder, options.port, options.bucket, options.host) as host:
            place = f"gs://{options.bucket}/... is {options.folder / options.bucket}/..."
            if options.command:
                print(place, file=sys.stderr)
                return run(options.command, host)
            print(f"export STORAGE_EMULATOR_HOST={host}\n# with that, {place}, until Ctrl-C", flush=True)
            signal.pause()
    except Refused as error:
        parser.exit(2, f"infra.bucket: error: {error}\n")
    except OSError as error:
        parser.exit(1, f"infra.bucket: failed: {error}\n")
    except KeyboardInterrupt:
        pass
    return 0


if __name__ == "__main__":
    sys.exit(main())
