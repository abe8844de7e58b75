"""Streaming from object storage against the same shards in a folder, as ratios within one run.

Usage: python -m tests.bench.streaming PHOTOS [--rounds 3]
The store is the tests' own, in a process of its own on this machine, so it takes its share of the cores. All files lie in
memory where there is /dev/shm, for a disk that is slower than the decoding would be all that is measured. Prints
examples a second with decoding on, first and second epoch; bytes a second over a link that is capped for each connection;
and memory and disk for a data set of ten times the size.
"""

import argparse
import contextlib
import multiprocessing
import os
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from multiprocessing.connection import Connection
from pathlib import Path

import psutil

from catdog.data.cache import ShardCache, open_cache
from catdog.data.options import PrepareOptions
from catdog.data.order import WHOLE, Order
from catdog.data.prepare import prepare
from catdog.data.records import Records
from catdog.data.shards import Shard, load_manifest, pinned
from catdog.data.tfrecord import write_records
from catdog.recipe import Cache, Data, Recipe
from catdog.storage import Bucket, Folder, crc32c, open_bucket
from tests.stand_ins.fake_store import FakeStore

SHARDS, STREAMS, BATCH = 16, 16, 64
SIDES = 224, 96
"""Pixels that the pictures are decoded to: what EfficientNetB0 is made for, and the recipes' own for small photos."""
CAP = 4_000_000
"""Bytes a second that one connection brings over the slow link."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("photos")
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=memory if memory.is_dir() else None) as text:
        folder = Path(text)
        data = Folder(str(folder / "data"))
        prepare(f"folder:{arguments.photos}", data, PrepareOptions(shards=SHARDS))
        shards = load_manifest(data).split("train")
        more = copies(data, shards, 16)
        with serving(data.uri):
            for side in SIDES:
                epochs(data, more, folder, side, arguments.rounds)
        with serving(data.uri, rate=CAP):
            capped(shards, folder)
        for times in (1, 10):
            growth(folder, times)


def copies(data: Bucket, shards: Sequence[Shard], times: int) -> list[Shard]:
    """The shards several times over, for an epoch that is long enough to be timed."""
    found = []
    for number in range(times):
        for shard in shards:
            found.append(replace(shard, name=f"copy-{number}-{shard.name}"))
            data.write(found[-1].name, data.read(shard.name))
    return found


def epochs(data: Bucket, shards: Sequence[Shard], folder: Path, side: int, rounds: int) -> None:
    first, second = [], []
    for _ in range(rounds):
        local = two_epochs(data, shards, side, Cache())
        with tempfile.TemporaryDirectory(dir=folder) as fresh:
            streamed = two_epochs(open_bucket("gs://bucket"), shards, side, Cache(folder=fresh))
        first.append(streamed[0] / local[0])
        second.append(streamed[1] / local[1])
        rates = [f"{rate:.0f}" for rate in (*local, *streamed)]
        print(f"{side} px, examples/s: folder {rates[0]} and {rates[1]}, store {rates[2]} and {rates[3]}", flush=True)
    for name, ratios in (("first", first), ("second", second)):
        print(f"{side} px, store / folder, {name} epoch: {told(ratios)}")


def two_epochs(data: Bucket, shards: Sequence[Shard], side: int, settings: Cache) -> list[float]:
    """Examples a second of the first and the second epoch of a run, decoded and cropped."""
    from catdog.data.pipeline import train_dataset

    recipe = Recipe(data=Data(side=side, streams=STREAMS, global_batch=BATCH))
    order = Order(tuple(shard.examples for shard in shards), STREAMS, BATCH, 0)
    steps, rates = order.steps_per_epoch, []
    with open_cache(data, pinned(data, shards), settings) as cache:
        records = Records(shards, cache)
        for start in (0, steps):
            began = time.perf_counter()
            for _ in train_dataset(order, records, recipe, start=start, stop=start + steps):
                pass
            rates.append(steps * BATCH / (time.perf_counter() - began))
    return rates


def capped(shards: Sequence[Shard], folder: Path) -> None:
    for fetchers in (1, 2, 4, 8):
        settings = Cache(folder=str(folder / f"capped-{fetchers}"), fetchers=fetchers, ahead=2 * fetchers)
        bucket = open_bucket("gs://bucket")
        began = time.perf_counter()
        with open_cache(bucket, pinned(bucket, shards), settings) as cache:
            read_all(cache, shards)
        rate = sum(shard.bytes for shard in shards) / (time.perf_counter() - began)
        print(f"{fetchers} fetchers: {rate / CAP / fetchers:.2f} of what their connections can bring", flush=True)


def read_all(cache: ShardCache, shards: Sequence[Shard]) -> None:
    sizes = tuple(shard.examples for shard in shards)
    order = Order(sizes, 1, 1, 0)
    records = Records(shards, cache)
    with records.reading(order.needs(WHOLE, 0, order.steps_per_epoch)) as reader:
        for step, batch in enumerate(order.batches(0, order.steps_per_epoch)):
            reader.reach(step)
            reader.read([int(batch.example[0])])


def growth(folder: Path, times: int) -> None:
    """Memory and disk while 30 MB, or ten times that, go through a cache of 12 MB."""
    data, limit = folder / f"many-{times}", 12_000_000
    data.mkdir()
    shards = []
    for number in range(30 * times):
        name = f"train-{number:05d}-of-{30 * times:05d}.tfrecord"
        write_records(data / name, (os.urandom(10_000) for _ in range(100)))
        shards.append(Shard(name, "train", (data / name).stat().st_size, crc32c(data / name), "0" * 100))
    cached = folder / f"many-cached-{times}"
    with serving(str(data)):
        bucket = open_bucket("gs://bucket")
        pins = pinned(bucket, shards)
        most = [0]
        before = psutil.Process().memory_info().rss
        with watching(cached, most), open_cache(bucket, pins, Cache(folder=str(cached), max_bytes=limit)) as cache:
            read_all(cache, shards)
        after = psutil.Process().memory_info().rss
    grown = (after - before) / 1e6
    print(f"{30 * times} shards of 1 MB: {grown:+.1f} MB of memory; most on disk {most[0] / limit:.2f} of the limit")


@contextlib.contextmanager
def watching(folder: Path, most: list[int]) -> Iterator[None]:
    """Note the most bytes that the folder has held."""
    ended = threading.Event()

    def watch() -> None:
        while not ended.wait(0.002):
            sizes = []
            for path in folder.glob("*") if folder.exists() else []:
                with contextlib.suppress(FileNotFoundError):
                    sizes.append(path.stat().st_size)
            most[0] = max(most[0], sum(sizes))

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


@contextlib.contextmanager
def serving(folder: str, rate: float | None = None) -> Iterator[None]:
    """A folder's files as the objects of gs://bucket, served by another process."""
    ours, theirs = multiprocessing.get_context("spawn").Pipe()
    server = multiprocessing.get_context("spawn").Process(target=serve, args=(folder, rate, theirs))
    server.start()
    os.environ["STORAGE_EMULATOR_HOST"] = ours.recv()
    try:
        yield
    finally:
        ours.send("end")
        server.join()


def serve(folder: str, rate: float | None, pipe: Connection) -> None:
    with FakeStore() as store:
        for path in Path(folder).iterdir():
            store.put("bucket", path.name, path.read_bytes())
        store.rate = rate
        pipe.send(store.host)
        pipe.recv()


def told(ratios: list[float]) -> str:
    return f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"


if __name__ == "__main__":
    sys.exit(main())
