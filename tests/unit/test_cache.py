"""The cache of shards: fetched ahead in the order they are needed, whole, within a limit, and shared between processes."""

import contextlib
import errno
import fcntl
import itertools
import multiprocessing
import os
import random
import resource
import signal
import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
from google_crc32c import Checksum
from hypothesis import given, settings
from hypothesis import strategies as st

from catdog.data.cache import ShardFiles, disk, open_cache
from catdog.data.cache.limit import require_limit, required_bytes
from catdog.data.cache.prefetch import Closed
from catdog.data.order import Need, Order, Share, evaluation_needs, evaluation_rows
from catdog.data.shards import Shard
from catdog.errors import CallerError, RunError
from catdog.recipe import Cache
from catdog.storage import Stat, open_bucket

SIZE = 1000
PROCESSES = multiprocessing.get_context("spawn")


def content(shard: int, size: int) -> bytes:
    return np.random.default_rng(shard).bytes(size)


def make_shards(
    count: int, sizes: Sequence[int] = (), examples: Sequence[int] = (), split: str = "train"
) -> list[Shard]:
    return [
        Shard(
            name=f"{split}-{i:05}-of-{count:05}.tfrecord",
            split=split,
            bytes=(sizes or [SIZE] * count)[i],
            crc32c=Checksum(content(i, (sizes or [SIZE] * count)[i])).hexdigest().decode(),
            labels="0" * (examples or [10] * count)[i],
        )
        for i in range(count)
    ]


class FakeBucket:
    """Shards in memory, whose fetches are noted, and held up or failed on demand."""

    uri = "gs://fake"
    patience = 0.0

    def __init__(self, *splits: Sequence[Shard], delay: float = 0.0, log: Path | None = None) -> None:
        shards = [(i, shard) for split in splits for i, shard in enumerate(split)]
        self._contents = {shard.name: (i, shard.bytes) for i, shard in shards}
        self.pins = {shard.name: Stat(shard.bytes, shard.crc32c, 7) for _, shard in shards}
        self._delay = delay
        self._log = log
        self.begun: list[int] = []
        self.active = 0
        self.gates: dict[int, threading.Event] = {}
        self.failures: dict[int, list[Exception]] = {}

    def local(self, name: str) -> None:
        return None

    def fetch(self, name: str, stat: Stat, path: Path, tell: Callable[[int], None]) -> None:
        shard, size = self._contents[name]
        assert stat == self.pins[name]
        self.begun.append(shard)
        if self._log is not None:
            with open(self._log, "a") as log:
                log.write(f"{name}\n")
        self.active += 1
        try:
            with open(path, "wb") as file:
                file.truncate(size)
            if shard in self.gates:
                assert self.gates[shard].wait(30)
            time.sleep(self._delay)
            if self.failures.get(shard):
                self._broken_off(self.failures[shard].pop(0))
            path.write_bytes(content(shard, size))
        finally:
            self.active -= 1

    def _broken_off(self, error: Exception) -> None:
        raise error


def cached(bucket: FakeBucket, folder: Path, max_bytes: int = 10**9, ahead: int = 4, fetchers: int = 8):
    return open_cache(bucket, bucket.pins, Cache(str(folder), max_bytes, ahead, fetchers))


def read(files: ShardFiles, shard: Shard) -> bytes:
    with files.open(shard) as file:
        return file.read()


def assert_read(files: ShardFiles, shards: Sequence[Shard], *numbers: int) -> None:
    for number in numbers:
        assert read(files, shards[number]) == content(number, shards[number].bytes), number


def one_after_another(*shards: int) -> Iterator[Need]:
    """A pass that reads one shard in each step."""
    return (Need(shard, step, step) for step, shard in enumerate(shards))


def eventually(holds: Callable[[], bool]) -> bool:
    deadline = time.monotonic() + 10
    while not holds() and time.monotonic() < deadline:
        time.sleep(0.002)
    return holds()


def stays(holds: Callable[[], bool], seconds: float = 0.1) -> bool:
    """Whether something holds for longer than the cache needs to act."""
    end = time.monotonic() + seconds
    while holds() and time.monotonic() < end:
        time.sleep(0.002)
    return holds()


def bytes_in(folder: Path) -> int:
    """What all files there take, while none comes or goes."""
    with open(folder / ".lock") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        return sum(size_of(path) for path in folder.iterdir())


def size_of(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:  # the empty file of a lock, or what a failed fetch left
        return 0


@contextlib.contextmanager
def watched(folder: Path, limit: int) -> Iterator[None]:
    """Look at the folder all the time, and see that it never holds more than the limit."""
    seen, over = [0], threading.Event()

    def look() -> None:
        while not over.wait(0.001):
            seen.append(bytes_in(folder))

    (folder / ".lock").touch()
    watcher = threading.Thread(target=look)
    watcher.start()
    try:
        yield
    finally:
        alive = watcher.is_alive()
        over.set()
        watcher.join()
    assert alive and max(seen) <= limit


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path.name != ".lock")


def entry(folder: Path, shard: Shard) -> Path:
    return folder / f"{shard.crc32c}-{shard.bytes}-{shard.name}"


def there(folder: Path, shards: Sequence[Shard]) -> list[int]:
    """The shards that lie in the folder whole."""
    return [number for number, shard in enumerate(shards) if entry(folder, shard).exists()]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (made := tmp_path / "cache").mkdir()
    return made


def test_a_pass_starts_when_its_first_shard_is_there_not_when_all_are(folder):
    shards = make_shards(6)
    bucket = FakeBucket(shards)
    bucket.gates = {shard: threading.Event() for shard in range(1, 6)}
    with cached(bucket, folder) as cache, cache.follow(shards, one_after_another(*range(6))) as files:
        for step in range(6):
            files.reach(step)
            assert_read(files, shards, step)
            if step < 5:
                assert eventually(lambda now=step: now + 1 in bucket.begun)
                bucket.gates[step + 1].set()


def test_shards_are_fetched_in_the_order_of_the_needs_and_no_further_ahead_than_asked(folder):
    shards, order = make_shards(12), [5, 3, 8, 1, 11, 0, 2, 10]
    bucket = FakeBucket(shards)
    with cached(bucket, folder, ahead=3, fetchers=1) as cache, cache.follow(shards, one_after_another(*order)) as files:
        assert eventually(lambda: bucket.begun == order[:3])
        for step in range(len(order)):
            files.reach(step)
            assert eventually(lambda now=step: bucket.begun == order[: now + 4])
            assert stays(lambda now=step: bucket.begun == order[: now + 4])


def test_the_needs_are_taken_in_no_faster_than_they_are_reached(folder):
    shards, taken = make_shards(3), 0

    def endless() -> Iterator[Need]:
        nonlocal taken
        for step in itertools.count():
            taken += 1
            yield Need(step % 3, step, step)

    bucket = FakeBucket(shards)
    with cached(bucket, folder, ahead=2) as cache, cache.follow(shards, endless()) as files:
        for step in range(50):
            files.reach(step)
            assert_read(files, shards, step % 3)
            assert taken <= step + 3
    assert sorted(bucket.begun) == [0, 1, 2]


@pytest.mark.parametrize("fetchers", [1, 3])
def test_as_many_fetches_run_at_a_time_as_there_are_fetchers(folder, fetchers):
    shards = make_shards(6)
    bucket = FakeBucket(shards)
    bucket.gates = dict.fromkeys(range(6), gate := threading.Event())
    with (
        cached(bucket, folder, ahead=6, fetchers=fetchers) as cache,
        cache.follow(shards, one_after_another(*range(6))),
    ):
        assert eventually(lambda: bucket.active == fetchers)
        assert stays(lambda: bucket.active == fetchers)
        gate.set()


def test_who_waits_goes_before_what_is_fetched_ahead(folder):
    shards = make_shards(6)
    bucket = FakeBucket(shards)
    bucket.gates = {0: threading.Event()}
    with (
        cached(bucket, folder, fetchers=1) as cache,
        cache.follow(shards, one_after_another(*range(5))),
        cache.follow(shards, iter(())) as at_random,
    ):
        assert eventually(lambda: bucket.begun == [0])
        waiter = threading.Thread(target=assert_read, args=(at_random, shards, 5))
        waiter.start()
        time.sleep(0.05)
        bucket.gates[0].set()
        waiter.join(10)
        assert bucket.begun[:2] == [0, 5]


def test_a_shard_that_two_passes_want_is_fetched_once(folder):
    shards = make_shards(4)
    bucket = FakeBucket(shards, delay=0.02)
    with cached(bucket, folder) as cache:

        def read_all() -> None:
            with cache.follow(shards, one_after_another(*range(4))) as files:
                for step in range(4):
                    files.reach(step)
                    assert_read(files, shards, step)

        together(read_all, read_all, read_all)
    assert sorted(bucket.begun) == [0, 1, 2, 3]


def together(*work: Callable[[], None]) -> None:
    """Do all of it at a time, and raise what any of it raises."""
    errors: list[BaseException] = []

    def guarded(part: Callable[[], None]) -> None:
        try:
            part()
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=guarded, args=(part,), daemon=True) for part in work]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
        assert not thread.is_alive()
    if errors:
        raise errors[0]


def test_a_second_epoch_and_a_second_run_read_the_local_copy(folder):
    shards = make_shards(5)
    bucket = FakeBucket(shards)
    for _ in range(2):
        with cached(bucket, folder) as cache, cache.follow(shards, one_after_another(*range(5), *range(5))) as files:
            for step in range(10):
                files.reach(step)
                assert_read(files, shards, step % 5)
    assert sorted(bucket.begun) == [0, 1, 2, 3, 4]
    assert names(folder) == sorted(entry(folder, shard).name for shard in shards)


def random_pass(cache, shards: Sequence[Shard], steps: int, seed: int) -> None:
    """Three shards at a time, of which one changes in each step."""
    chance = random.Random(seed)
    drawn = [chance.randrange(len(shards)) for _ in range(steps + 2)]
    needs = (Need(shard, max(step - 2, 0), min(step, steps - 1)) for step, shard in enumerate(drawn))
    with cache.follow(shards, needs) as files:
        for step in range(steps):
            files.reach(step)
            assert_read(files, shards, *chance.sample(drawn[step : step + 3], 3))


@pytest.mark.parametrize("room", [6, 9, 30])
def test_the_limit_holds_at_every_moment_while_two_passes_read_at_random(folder, room):
    train, val = make_shards(20), make_shards(20, split="val")
    bucket = FakeBucket(train, val, delay=0.001)
    with cached(bucket, folder, room * SIZE, ahead=3, fetchers=4) as cache, watched(folder, room * SIZE):
        together(lambda: random_pass(cache, train, 100, seed=1), lambda: random_pass(cache, val, 100, seed=2))


def test_what_is_in_use_is_never_evicted(folder):
    shards = make_shards(12)
    bucket = FakeBucket(shards)
    with (
        cached(bucket, folder, 4 * SIZE, ahead=2) as cache,
        cache.follow(shards, iter([Need(0, 0, 9), Need(1, 0, 9), Need(2, 9, 9)])) as files,
    ):
        assert eventually(lambda: there(folder, shards) == [0, 1])
        files.reach(0)
        files_in_use = [os.stat(entry(folder, shards[i])).st_ino for i in (0, 1)]
        with cache.follow(shards, one_after_another(*range(3, 12))) as others:
            for step in range(9):
                others.reach(step)
                assert_read(others, shards, step + 3)
                assert [os.stat(entry(folder, shards[i])).st_ino for i in (0, 1)] == files_in_use


def test_the_least_recently_used_gives_way_first_and_an_open_file_stays_readable(folder):
    shards = make_shards(4)
    bucket = FakeBucket(shards)
    with (
        cached(bucket, folder, 3 * SIZE, ahead=0) as cache,
        cache.follow(shards, one_after_another(0, 1, 2, 0, 3)) as files,
        contextlib.ExitStack() as opened,
    ):
        for step, shard in enumerate([0, 1, 2, 0, 3]):
            files.reach(step)
            assert_read(files, shards, shard)
            if shard == 1:
                kept = opened.enter_context(files.open(shards[1]))
            time.sleep(0.01)  # longer than the file system's clock takes to tick
        assert there(folder, shards) == [0, 2, 3]
        assert kept.read() == content(1, SIZE)


def test_prefetches_do_not_evict_each_other_and_give_way_to_who_waits(folder):
    shards = make_shards(8)
    bucket = FakeBucket(shards)
    with (
        cached(bucket, folder, 4 * SIZE, ahead=6) as cache,
        cache.follow(shards, one_after_another(*range(7))),
    ):
        assert eventually(lambda: there(folder, shards) == [0, 1, 2, 3])
        assert stays(lambda: bucket.begun == [0, 1, 2, 3], seconds=0.6)
        with cache.follow(shards, iter(())) as at_random:
            assert_read(at_random, shards, 7)
        assert there(folder, shards)[:3] == [0, 1, 2]


def test_what_was_used_gives_way_before_what_was_fetched_for_later(folder):
    shards = make_shards(8)
    bucket = FakeBucket(shards)
    with cached(bucket, folder, 4 * SIZE) as cache, cache.follow(shards, iter(())) as at_random:
        assert_read(at_random, shards, 7)
        with cache.follow(shards, one_after_another(0, 1, 2)):
            assert eventually(lambda: there(folder, shards) == [0, 1, 2, 7])
            assert_read(at_random, shards, 6)
            assert there(folder, shards) == [0, 1, 2, 6]


def test_files_that_the_cache_did_not_make_are_neither_counted_nor_touched(folder):
    (folder / "notes.txt").write_bytes(b"x" * 10 * SIZE)
    (folder / "train-00000-of-00004.tfrecord").write_bytes(b"mine")
    (folder / "dir").mkdir()
    shards = make_shards(4)
    bucket = FakeBucket(shards)
    with cached(bucket, folder, 2 * SIZE) as cache:
        random_pass_of_one(cache, shards)
    assert {"notes.txt", "train-00000-of-00004.tfrecord", "dir"} < set(names(folder))
    assert (folder / "train-00000-of-00004.tfrecord").read_bytes() == b"mine"


def random_pass_of_one(cache, shards: Sequence[Shard]) -> None:
    with cache.follow(shards, one_after_another(*range(len(shards)))) as files:
        for step in range(len(shards)):
            files.reach(step)
            assert_read(files, shards, step)


def flip(file: Path) -> None:
    broken = bytearray(file.read_bytes())
    broken[500] ^= 1
    file.write_bytes(broken)


def cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:500])


def lengthen(file: Path) -> None:
    file.write_bytes(file.read_bytes() * 2)


@pytest.mark.parametrize("damage", [flip, cut, lengthen])
def test_a_damaged_file_of_an_earlier_run_is_fetched_again(folder, damage):
    shards = make_shards(3)
    bucket = FakeBucket(shards)
    with cached(bucket, folder) as cache:
        random_pass_of_one(cache, shards)
    damage(entry(folder, shards[1]))
    with cached(bucket, folder) as cache:
        random_pass_of_one(cache, shards)
    assert sorted(bucket.begun) == [0, 1, 1, 2]


def test_a_lowered_limit_holds_from_the_start(folder):
    shards = make_shards(10)
    bucket = FakeBucket(shards)
    with cached(bucket, folder) as cache:
        random_pass_of_one(cache, shards)
    with cached(bucket, folder, 3 * SIZE):
        assert bytes_in(folder) == 3 * SIZE


def test_an_entry_deleted_by_hand_is_fetched_again(folder):
    shards = make_shards(1)
    bucket = FakeBucket(shards)
    with cached(bucket, folder) as cache, cache.follow(shards, iter([Need(0, 0, 9)])) as files:
        for step in range(3):
            files.reach(step)
            assert_read(files, shards, 0)
            entry(folder, shards[0]).unlink()
    assert bucket.begun == [0, 0, 0]


def test_a_failed_fetch_surfaces_with_its_own_traceback_and_may_be_tried_again(folder):
    shards = make_shards(3)
    bucket = FakeBucket(shards)
    bucket.failures = {1: [RunError("broken off"), OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))]}
    with cached(bucket, folder, ahead=0) as cache, cache.follow(shards, one_after_another(0, 1, 2)) as files:
        files.reach(0)
        assert_read(files, shards, 0)
        files.reach(1)
        with pytest.raises(RunError, match="broken off") as raised:
            files.open(shards[1])
        assert "_broken_off" in [frame.name for frame in traceback.extract_tb(raised.value.__traceback__)]
        with pytest.raises(OSError, match=os.strerror(errno.ENOSPC)):
            files.open(shards[1])
        assert stays(lambda: bucket.begun.count(1) == 2)
        assert not any(shards[1].name in name for name in names(folder))
        assert_read(files, shards, 1)
        files.reach(2)
        assert_read(files, shards, 2)


def test_a_shard_whose_prefetch_failed_is_fetched_again_when_it_is_needed(folder):
    shards = make_shards(2)
    bucket = FakeBucket(shards)
    bucket.failures = {1: [RunError("the store was away")]}
    with cached(bucket, folder, ahead=1) as cache, cache.follow(shards, one_after_another(0, 1)) as files:
        files.reach(0)
        assert eventually(lambda: bucket.begun.count(1) == 1 and bucket.active == 0)
        files.reach(1)
        assert_read(files, shards, 1)


def test_a_failure_that_nobody_met_is_forgotten_with_its_pass(folder):
    shards = make_shards(2)
    bucket = FakeBucket(shards)
    bucket.failures = {1: [RunError("broken off")]}
    with cached(bucket, folder) as cache:
        with cache.follow(shards, one_after_another(0, 1)):
            assert eventually(lambda: sorted(bucket.begun) == [0, 1] and bucket.active == 0)
            time.sleep(0.05)
        random_pass_of_one(cache, shards)


def test_a_pass_left_in_the_middle_leaves_its_room_and_its_fetchers_to_others(folder):
    train, val = make_shards(6), make_shards(3, split="val")
    bucket = FakeBucket(train, val)
    bucket.gates = {5: (gate := threading.Event())}
    with cached(bucket, folder, 3 * SIZE, ahead=4, fetchers=1) as cache:

        def steps() -> Iterator[int]:
            with cache.follow(train, one_after_another(5, 4, 3, 2, 1, 0)) as files:
                files.reach(0)
                yield 0

        left = steps()
        next(left)
        assert eventually(lambda: bucket.begun == [5])
        left.close()
        gate.set()
        random_pass_of_one(cache, val)
    assert bucket.begun == [5, 0, 1, 2]


def test_the_threads_end_with_the_block_once_the_fetch_in_hand_has_ended(folder):
    shards = make_shards(4)
    bucket = FakeBucket(shards)
    bucket.gates = dict.fromkeys(range(4), gate := threading.Event())

    def fetchers() -> int:
        return sum(thread.name == "fetcher" for thread in threading.enumerate())

    with cached(bucket, folder, fetchers=2) as cache:
        straggler = cache.follow(shards, one_after_another(*range(4)))
        files = straggler.__enter__()
        assert eventually(lambda: bucket.active == 2)
        assert fetchers() == 2
    with pytest.raises(Closed):
        files.open(shards[3])
    gate.set()
    assert eventually(lambda: fetchers() == 0)
    straggler.__exit__(None, None, None)
    assert bucket.begun == [0, 1]
    assert names(folder) == sorted(entry(folder, shards[i]).name for i in (0, 1))


def test_a_bucket_in_a_folder_is_read_where_it_lies(folder, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home"))
    shards = make_shards(1)
    (folder / shards[0].name).write_bytes(content(0, SIZE))
    with open_cache(open_bucket(str(folder)), {}, Cache()) as cache, cache.follow(shards, iter(())) as files:
        assert_read(files, shards, 0)
        with files.open(shards[0]) as file:
            assert file.name == str(folder / shards[0].name)
    assert not (tmp_path / "home").exists()


def test_the_folder_is_by_default_in_the_users_cache_directory(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    shards = make_shards(1)
    bucket = FakeBucket(shards)
    with open_cache(bucket, bucket.pins, Cache()) as cache:
        random_pass_of_one(cache, shards)
    assert names(tmp_path / "catdog") == [entry(tmp_path, shards[0]).name]


def test_a_folder_that_can_not_be_made_is_told_in_one_line(tmp_path):
    (tmp_path / "file").touch()
    for place in (tmp_path / "file", tmp_path / "file/below"):
        with (
            pytest.raises(CallerError, match=r"^cache\.folder = '.*file.*': cannot be written: .*$"),
            open_cache(FakeBucket(), {}, Cache(str(place))),
        ):
            pass


def test_a_limit_below_a_shard_is_told_at_once_with_the_number_that_would_do(folder):
    shards = make_shards(3, sizes=[100, 300, 200])
    bucket = FakeBucket(shards)
    with cached(bucket, folder, 299) as cache, cache.follow(shards, iter(())) as files:
        assert_read(files, shards, 0, 2)
        with pytest.raises(CallerError, match=r"^cache\.max_bytes = 299: .* at least 300$"):
            files.open(shards[1])


def test_a_limit_below_what_is_read_at_once_is_refused_with_the_number_that_would_do():
    streams = [make_shards(3, sizes=[100, 300, 200]), make_shards(2, sizes=[10, 20])]
    val = make_shards(3, sizes=[5, 7, 6], split="val")
    assert required_bytes(streams, 4, val, 8) == (300 + 200) + (20 + 10) + (7 + 6)
    assert required_bytes(streams, 1, val, 1) == 300 + 20 + 7
    assert required_bytes(streams, 12, val, 64) == (300 + 200 + 100) + (20 + 10) + (7 + 6 + 5)
    assert required_bytes(streams, None, [], 64) == 630
    assert required_bytes([], 4, val, 8) == 13
    require_limit(Cache(max_bytes=543), 543)
    with pytest.raises(CallerError, match=r"^cache\.max_bytes = 542: .* at least 543$"):
        require_limit(Cache(max_bytes=542), 543)


@st.composite
def orders(draw) -> Order:
    streams, examples = draw(st.integers(1, 3)), draw(st.lists(st.integers(1, 9), min_size=1, max_size=5))
    sizes = tuple(size for size in examples for _ in range(streams))
    rows = draw(st.integers(1, sum(examples)))
    labels = tuple("010"[:size] + "0" * (size - 3) for size in sizes) if draw(st.booleans()) else None
    return Order(sizes, streams, rows * streams, draw(st.integers(0, 99)), labels)


@settings(deadline=None, max_examples=60)
@given(order=orders(), data=st.data())
def test_exactly_what_is_asked_for_suffices_for_training_and_validation(order, data):
    count, workers = len(order.sizes), data.draw(st.integers(1, order.streams))
    share = Share(data.draw(st.integers(0, workers - 1)), workers)
    train = make_shards(count, data.draw(st.lists(st.integers(1, 50), min_size=count, max_size=count)), order.sizes)
    val_sizes = data.draw(st.lists(st.integers(1, 20), min_size=1, max_size=5))
    val = make_shards(len(val_sizes), [3 * size for size in val_sizes], val_sizes, split="val")
    batch = data.draw(st.integers(1, 12))
    own = range(share.worker, order.streams, share.workers)
    limit = required_bytes(
        [train[stream :: order.streams] for stream in own],
        order.global_batch // order.streams if order.labels is None else None,
        val[share.worker :: share.workers],
        batch,
    )
    starts, stop = np.cumsum([0, *order.sizes]), 2 * order.steps_per_epoch
    table, val_starts = evaluation_rows(val_sizes, batch, share), np.cumsum([0, *val_sizes])
    bucket = FakeBucket(train, val)
    with (
        tempfile.TemporaryDirectory() as place,
        open_cache(bucket, bucket.pins, Cache(place, limit, ahead=2, fetchers=2)) as cache,
        watched(Path(place), limit),
        cache.follow(train, order.needs(share, 0, stop)) as files,
    ):
        for step, made in enumerate(order.batches(0, stop)):
            files.reach(step)
            examples = made.example.reshape(-1, order.streams)[:, share.worker :: share.workers].T.reshape(-1)
            assert_read(files, train, *(np.searchsorted(starts, examples, side="right") - 1).tolist())
            if (step + 1) % order.steps_per_epoch == 0:
                with cache.follow(val, evaluation_needs(val_sizes, batch, share)) as val_files:
                    for val_step, rows in enumerate(table.reshape(len(table), -1)):
                        val_files.reach(val_step)
                        found = np.searchsorted(val_starts, rows[rows >= 0], side="right") - 1
                        assert_read(val_files, val, *found.tolist())


def test_more_shards_may_be_in_use_than_a_process_may_open_files_by_default(folder):
    shards = make_shards(100)
    bucket = FakeBucket(shards)
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (len(os.listdir("/dev/fd")) + 50, before[1]))
    try:
        with cached(bucket, folder) as cache, cache.follow(shards, (Need(n, 0, 0) for n in range(100))) as files:
            files.reach(0)
            assert_read(files, shards, *range(100))
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


def test_a_store_that_is_waited_for_longer_is_waited_for_in_other_processes_too(folder, monkeypatch):
    monkeypatch.setattr(disk, "PATIENCE", 0.1)
    shards = make_shards(1)
    away, bucket = FakeBucket(shards), FakeBucket(shards)
    away.gates, bucket.patience = {0: (back := threading.Event())}, 60.0
    with cached(away, folder) as one, cached(bucket, folder) as two, one.follow(shards, one_after_another(0)):
        assert eventually(lambda: away.begun == [0])
        threading.Timer(0.5, back.set).start()
        with two.follow(shards, iter(())) as files:
            assert_read(files, shards, 0)
    assert bucket.begun == []


def test_room_that_others_hold_is_waited_for_not_for_ever(folder, monkeypatch):
    monkeypatch.setattr(disk, "PATIENCE", 0.3)
    shards = make_shards(3)
    bucket = FakeBucket(shards)
    with (
        cached(bucket, folder, 2 * SIZE) as one,
        cached(bucket, folder, 2 * SIZE) as two,
        one.follow(shards, iter([Need(0, 0, 0), Need(1, 0, 0)])) as files,
        two.follow(shards, one_after_another(2)) as starved,
    ):
        files.reach(0)
        assert_read(files, shards, 0, 1)
        starved.reach(0)
        with pytest.raises(
            RunError, match=rf"{shards[2].name}: waited .* 2000 bytes \(.*{shards[0].name}.*max_bytes = 2000$"
        ):
            starved.open(shards[2])
        files.reach(1)
        assert_read(starved, shards, 2)


def test_what_a_pass_has_reached_is_held_even_while_all_fetchers_are_busy(folder, monkeypatch):
    monkeypatch.setattr(disk, "PATIENCE", 0.3)
    shards = make_shards(3)
    bucket = FakeBucket(shards)
    bucket.gates = {1: (gate := threading.Event())}
    with (
        cached(bucket, folder, 2 * SIZE, fetchers=1) as one,
        cached(bucket, folder, 2 * SIZE) as two,
        one.follow(shards, one_after_another(0, 1)) as files,
        two.follow(shards, iter(())) as at_random,
    ):
        assert eventually(lambda: bucket.begun == [0, 1])
        files.reach(0)
        with pytest.raises(RunError, match=shards[2].name):
            at_random.open(shards[2])
        gate.set()
        assert_read(at_random, shards, 2)
        assert there(folder, shards) == [0, 2]


def test_room_that_fetches_of_this_process_hold_is_waited_for_until_they_end(folder, monkeypatch):
    monkeypatch.setattr(disk, "PATIENCE", 0.1)
    shards = make_shards(3)
    bucket = FakeBucket(shards)
    bucket.gates = dict.fromkeys((0, 1), gate := threading.Event())
    with (
        cached(bucket, folder, 2 * SIZE) as cache,
        cache.follow(shards, one_after_another(0, 1)),
        cache.follow(shards, iter(())) as at_random,
    ):
        assert eventually(lambda: bucket.active == 2)
        threading.Timer(0.5, gate.set).start()
        assert_read(at_random, shards, 2)


def test_a_fetch_of_others_that_does_not_move_is_waited_for_not_for_ever(folder, monkeypatch):
    monkeypatch.setattr(disk, "PATIENCE", 0.3)
    shards = make_shards(1)
    stuck, bucket = FakeBucket(shards), FakeBucket(shards)
    stuck.gates = {0: threading.Event()}
    with (
        cached(stuck, folder) as one,
        cached(bucket, folder) as two,
        one.follow(shards, one_after_another(0)),
    ):
        assert eventually(lambda: stuck.begun == [0])
        with two.follow(shards, iter(())) as files:
            with pytest.raises(RunError, match=shards[0].name):
                files.open(shards[0])
            stuck.gates[0].set()
            assert_read(files, shards, 0)
    assert bucket.begun == []


def in_a_process(folder: Path, log: Path, room: int, seed: int, done) -> None:
    """Read at random beside other processes, and tell what came of it."""
    shards = make_shards(24)
    bucket = FakeBucket(shards, delay=0.002, log=log)
    try:
        with cached(bucket, folder, room * SIZE, ahead=3, fetchers=3) as cache:
            random_pass(cache, shards, 150, seed)
        done.put(None)
    except BaseException:
        done.put(traceback.format_exc())
        raise


@pytest.mark.parametrize("room", [9, 24])
def test_processes_share_the_folder_within_the_limit_and_fetch_nothing_twice_while_there_is_room(
    folder, tmp_path, room
):
    log, done = tmp_path / "log", PROCESSES.Queue()
    processes = [PROCESSES.Process(target=in_a_process, args=(folder, log, room, seed, done)) for seed in range(3)]
    with watched(folder, room * SIZE):
        for process in processes:
            process.start()
        assert [done.get(timeout=30) for _ in processes] == [None] * 3
        for process in processes:
            process.join(30)
            assert process.exitcode == 0
    fetched = log.read_text().split()
    assert len(set(fetched)) == 24
    if room == 24:
        assert len(fetched) == 24


def stuck_in_a_fetch(folder: Path, log: Path) -> None:
    shards = make_shards(3)
    bucket = FakeBucket(shards, log=log)
    bucket.gates = {1: threading.Event()}
    with cached(bucket, folder) as cache, cache.follow(shards, one_after_another(0, 1)) as files:
        files.reach(0)
        assert_read(files, shards, 0)
        files.reach(1)
        assert_read(files, shards, 1)


@contextlib.contextmanager
def a_process_stuck_in_a_fetch(folder: Path, log: Path) -> Iterator[Callable[[], None]]:
    """A process that has shard 0 and is fetching shard 1; gives what kills it."""
    process = PROCESSES.Process(target=stuck_in_a_fetch, args=(folder, log))

    def kill() -> None:
        process.kill()
        process.join(10)
        assert process.exitcode == -signal.SIGKILL

    process.start()
    try:
        part = folder / f"{entry(folder, make_shards(3)[1]).name}.part"
        assert eventually(lambda: part.exists() and entry(folder, make_shards(3)[0]).exists())
        yield kill
    finally:
        process.kill()


def test_what_a_killed_process_fetched_is_used_and_what_it_was_fetching_is_swept(folder, tmp_path):
    shards = make_shards(3)
    bucket = FakeBucket(shards)
    with a_process_stuck_in_a_fetch(folder, tmp_path / "log") as kill:
        kill()
    assert any(name.endswith(".part") for name in names(folder))  # so there was something to sweep
    with cached(bucket, folder, 2 * SIZE) as cache:
        assert names(folder) == [entry(folder, shards[0]).name]
        with cache.follow(shards, one_after_another(0, 2)) as files:
            for step, shard in enumerate([0, 2]):
                files.reach(step)
                assert_read(files, shards, shard)
    assert bucket.begun == [2]


def test_who_waits_for_a_fetch_of_another_process_takes_over_when_that_is_killed(folder, tmp_path):
    shards = make_shards(3)
    bucket = FakeBucket(shards)
    with (
        a_process_stuck_in_a_fetch(folder, tmp_path / "log") as kill,
        cached(bucket, folder) as cache,
        cache.follow(shards, iter(())) as files,
    ):
        waiter = threading.Thread(target=assert_read, args=(files, shards, 1))
        waiter.start()
        assert stays(lambda: bucket.begun == [] and waiter.is_alive())
        kill()
        waiter.join(10)
        assert bucket.begun == [1]
