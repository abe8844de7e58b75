"""The stand-in for Google Cloud Storage that `make bucket` starts, and a data set kept in it."""

import contextlib
import itertools
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from catdog import cli
from catdog.data import drawn_pictures
from catdog.data.options import PrepareOptions
from catdog.data.prepare import prepare
from catdog.data.shards import load_manifest
from catdog.data.verify import verify
from catdog.storage import Bucket, Unavailable, open_bucket
from tests.pace import within

PROGRAM = [sys.executable, "-m", "infra.bucket"]
ROOT = Path(__file__).parents[2]


class Server:
    """`infra.bucket` in a process of its own, on a port that is free when it is first started."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.port = 0
        self.start()

    def start(self) -> None:
        command = [*PROGRAM, "--folder", str(self.folder), "--port", str(self.port)]
        self.process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
        assert self.process.stdout is not None
        name, _, self.host = self.process.stdout.readline().strip().partition("=")
        assert name == "export STORAGE_EMULATOR_HOST"
        self.port = int(self.host.rpartition(":")[2])

    def stop(self, number: signal.Signals) -> int:
        self.process.send_signal(number)
        try:
            self.process.communicate(timeout=within(10))
        finally:
            self.process.kill()
        return self.process.returncode


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    server = Server(tmp_path_factory.mktemp("emulator") / "folder")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("STORAGE_EMULATOR_HOST", server.host)
        yield server
    server.stop(signal.SIGTERM)


@pytest.fixture(scope="module")
def data(server: Server, small_data: Bucket) -> Bucket:
    bucket = open_bucket("gs://catdog/data/small", patience=within(5))
    prepare(load_manifest(small_data).source, bucket, PrepareOptions(side=64, shards=4))
    return bucket


def ended(*arguments: str) -> subprocess.CompletedProcess[str]:
    """The program run to its end."""
    return subprocess.run(
        [*PROGRAM, *arguments], cwd=ROOT, capture_output=True, text=True, timeout=within(30), check=False
    )


def test_a_data_set_in_the_bucket_is_the_one_in_a_folder(data: Bucket, small_data: Bucket) -> None:
    assert {name: data.read(name) for name in data.list()} == {n: small_data.read(n) for n in small_data.list()}
    assert data.stats(data.list()).keys() == small_data.stats(small_data.list()).keys()
    assert verify(data)[1] == []


@pytest.fixture(scope="module")
def twins(server: Server, light_run: Bucket, tmp_path_factory: pytest.TempPathFactory) -> tuple[Bucket, Bucket]:
    """The same finished run in a folder and in the bucket."""
    twins = (
        open_bucket(str(tmp_path_factory.mktemp("twin") / "run")),
        open_bucket("gs://catdog/twin/run", patience=within(5)),
    )
    for name in ("recipe.toml", "model.keras", "metrics.jsonl", "evaluation/test/metrics.json"):
        for twin in twins:
            twin.write(name, light_run.read(name))
    return twins


def printed(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    assert cli.run([*arguments]) == 0, capsys.readouterr().err
    return capsys.readouterr().out


def test_a_run_in_the_bucket_is_evaluated_as_one_in_a_folder(
    twins: tuple[Bucket, Bucket], data: Bucket, small_data: Bucket, capsys: pytest.CaptureFixture[str]
) -> None:
    out, written = [], []
    for run, on in zip(twins, (small_data, data), strict=True):
        out.append(printed(capsys, "evaluate", run.uri, "--data", on.uri, "--split", "val").replace(run.uri, "RUN"))
        found = {name: run.read(name) for name in run.list("evaluation/val/")}
        written.append({name: content.replace(on.uri.encode(), b"DATA") for name, content in found.items()})
    assert out[0] == out[1] and "written to RUN/evaluation/val" in out[0]
    assert written[0] == written[1] and "evaluation/val/predictions.csv" in written[0]


def test_a_run_in_the_bucket_predicts_as_one_in_a_folder(
    twins: tuple[Bucket, Bucket], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for index in range(4):
        (tmp_path / f"{index}.jpg").write_bytes(drawn_pictures.draw(1, index)[0])
    in_folder, in_bucket = (printed(capsys, "predict", run.uri, str(tmp_path), "--json") for run in twins)
    assert in_folder == in_bucket and in_folder.count("probability") == 4


def test_a_fault_in_a_shard_in_the_bucket_is_named(data: Bucket) -> None:
    name = "val-00000-of-00001.tfrecord"
    whole = data.read(name)
    data.write(name, whole[:-1] + bytes([whole[-1] ^ 1]))
    faults = verify(data)[1]
    data.write(name, whole)
    assert faults and all(fault.startswith(name) for fault in faults)


def test_a_folder_with_files_of_something_else_is_not_served(tmp_path: Path) -> None:
    (tmp_path / "catdog").mkdir()
    (tmp_path / "catdog/photo.jpg").write_bytes(b"mine")
    done = ended("--folder", str(tmp_path), "--port", "0", "--", "true")
    assert done.returncode == 2 and done.stderr.count("\n") == 1
    assert "holds catdog but no .meta of a bucket; give another --folder" in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["catdog"]


@pytest.mark.parametrize("size", [0, 1, 300_000, 9 << 20], ids=["empty", "a byte", "in one part", "as a session"])
def test_an_object_of_any_size_is_written_listed_read_replaced_and_deleted(server: Server, size: int) -> None:
    bucket = open_bucket("gs://catdog/some/prefix", patience=within(5))
    content = os.urandom(size)
    for written in (content, b"\r\n--", content):
        bucket.write("ünï/with space.bin", written)
        assert bucket.read("ünï/with space.bin") == written
    assert bucket.list() == ["ünï/with space.bin"]
    assert (server.folder / "catdog/some/prefix/ünï/with space.bin").read_bytes() == content
    bucket.delete("ünï/with space.bin")
    assert bucket.list() == [] and not bucket.exists("ünï/with space.bin")
    assert not (server.folder / "_softdelete").exists()  # where the emulator keeps for a week what is deleted


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_stopped_and_started_again_it_has_all_that_it_had(server: Server, data: Bucket, number: signal.Signals) -> None:
    before = {name: data.read(name) for name in data.list()}
    stats = data.stats(list(before))
    assert server.stop(number) == 0
    server.start()
    assert {name: data.read(name) for name in data.list()} == before
    assert data.stats(list(before)) == stats


def test_killed_while_it_is_written_to_it_has_all_that_was_written(server: Server) -> None:
    bucket = open_bucket("gs://catdog/killed", patience=0.5)
    written: list[str] = []

    def write(writer: int) -> None:
        with contextlib.suppress(Unavailable):
            for number in itertools.count():
                bucket.write(f"{writer}/{number}", b"x" * 10_000)
                written.append(f"{writer}/{number}")

    with ThreadPoolExecutor(4) as pool:
        writers = [pool.submit(write, writer) for writer in range(4)]
        time.sleep(0.5)
        server.stop(signal.SIGKILL)
    for writer in writers:
        writer.result()
    server.start()
    assert written and bucket.stats(bucket.list()).keys() >= set(written)
    assert all(bucket.read(name) == b"x" * 10_000 for name in written)


def test_clients_that_stand_still_hold_up_no_other(server: Server, data: Bucket) -> None:
    upload = b"POST /upload/storage/v1/b/catdog/o?uploadType=media&name=x HTTP/1.1\r\nContent-Length: 9\r\n\r\n1234"
    download = b"GET /storage/v1/b/catdog/o/large?alt=media HTTP/1.1\r\n\r\n"
    open_bucket("gs://catdog").write("large", bytes(32 << 20))  # more than a connection holds on its way
    still = [socket.create_connection(("127.0.0.1", server.port)) for _ in range(3)]
    still[0].sendall(upload)
    still[1].sendall(download)
    assert still[1].recv(1)
    assert data.read("manifest.json")
    for connection in still:
        connection.close()


def test_a_port_or_a_folder_in_use_is_told_in_one_line(server: Server, tmp_path: Path) -> None:
    port = ended("--folder", str(tmp_path), "--port", str(server.port))
    folder = ended("--folder", str(server.folder), "--port", "0")
    for refused, named in ((port, f"port {server.port}"), (folder, str(server.folder))):
        assert (refused.returncode, refused.stdout, refused.stderr.count("\n")) == (2, "", 1)
        assert named in refused.stderr


def test_a_command_finds_the_bucket_is_stopped_with_it_and_gives_its_exit_code(tmp_path: Path) -> None:
    program = """
import os, signal, sys
from catdog.storage import open_bucket
bucket = open_bucket("gs://catdog/x")
bucket.write("y", b"1")
def stopped(*_):
    bucket.write("y", b"2")
    sys.exit(143)
signal.signal(signal.SIGTERM, stopped)
os.kill(os.getppid(), signal.SIGTERM)
signal.pause()
"""
    done = ended("--folder", str(tmp_path), "--port", "0", "--", sys.executable, "-c", program)
    assert done.returncode == 143, done.stderr
    assert (tmp_path / "catdog/x/y").read_bytes() == b"2"
    assert ended("--folder", str(tmp_path), "--port", "0", "--", "sh", "-c", "kill -9 $$").returncode == 137
