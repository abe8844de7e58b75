"""The folder of the cache: within its limit at every moment, and shared between processes that come, go and are killed."""

import contextlib
import errno
import fcntl
import multiprocessing
import os
import signal
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from shard_stores import (
    LONG,
    SIZE,
    Background,
    FakeBucket,
    assert_read,
    bytes_in,
    cached,
    content,
    entry,
    eventually,
    fetchers_wait,
    make_shards,
    names,
    one_after_another,
    read_at_random,
    read_through,
    stays,
    there,
    watched,
)

from catdog.data.cache import disk
from catdog.data.cache.disk import DiskCache, hold, mark_used, mark_wanted
from catdog.data.order import Need
from catdog.data.shards import Shard
from catdog.errors import RunError
from catdog.storage import Stat
from tests.pace import within

PROCESSES = multiprocessing.get_context("spawn")


def fetched(cache: DiskCache, shard: Shard, urgent: bool = False) -> str:
    """Fetch a shard, and let go of it; gives where it lies."""
    path = cache.path(shard.name, shard.bytes, shard.crc32c)
    reservation = cache.reserve(path, shard.bytes, urgent)
    assert reservation
    cache.part(path).write_bytes(b"x" * shard.bytes)
    cache.complete(path).close()
    cache.release(path, reservation)
    return path


def test_a_fetch_counts_at_its_full_size_before_its_first_byte_and_until_it_is_given_up(tmp_path):
    shards = make_shards(3)
    cache = DiskCache(tmp_path, 2 * SIZE)
    first, second, third = (str(entry(tmp_path, shard)) for shard in shards)
    reservation = cache.reserve(first, SIZE, urgent=False)
    assert reservation
    other = cache.reserve(second, SIZE, urgent=True)
    assert other
    assert cache.reserve(third, SIZE, urgent=True) is None
    assert cache.in_use() == {first: SIZE, second: SIZE}
    cache.release(first, reservation)
    reservation = cache.reserve(third, SIZE, urgent=False)
    assert reservation
    for path, lock in ((second, other), (third, reservation)):
        cache.release(path, lock)
    assert names(tmp_path) == []


def test_an_entry_is_fetched_by_one_at_a_time_and_not_at_all_while_it_is_there(tmp_path):
    (shard,) = make_shards(1)
    cache, path = DiskCache(tmp_path, 10 * SIZE), str(entry(tmp_path, shard))
    reservation = cache.reserve(path, SIZE, urgent=True)
    assert reservation
    assert DiskCache(tmp_path, 10 * SIZE).reserve(path, SIZE, urgent=True) is None
    assert hold(path) is None
    cache.release(path, reservation)
    fetched(cache, shard)
    assert cache.reserve(path, SIZE, urgent=True) is None
    with hold(path) as held:
        assert held.read() == b"x" * SIZE
        assert cache.in_use() == {path: SIZE}
    assert cache.in_use() == {}


def test_what_was_used_gives_way_first_and_what_is_wanted_last_only_to_what_is_urgent(tmp_path):
    shards = make_shards(7)
    cache = DiskCache(tmp_path, 4 * SIZE)
    soon, late, new, old = (fetched(cache, shard) for shard in shards[:4])
    for path, mark in ((old, mark_used), (new, mark_used), (soon, mark_wanted), (late, mark_wanted)):
        mark(path)
        time.sleep(0.01)  # longer than the clock takes to tick
    fetched(cache, shards[4])
    assert there(tmp_path, shards) == [0, 1, 2, 4]
    with hold(new), hold(str(entry(tmp_path, shards[4]))):
        assert cache.reserve(str(entry(tmp_path, shards[5])), SIZE, urgent=False) is None
        fetched(cache, shards[5], urgent=True)
    assert there(tmp_path, shards) == [0, 2, 4, 5]


def test_an_entry_found_broken_is_deleted_unless_it_was_replaced_since(tmp_path):
    (shard,) = make_shards(1)
    cache = DiskCache(tmp_path, 10 * SIZE)
    path = fetched(cache, shard)
    broken = hold(path)
    assert broken
    os.unlink(path)
    fetched(cache, shard)
    cache.discard(path, broken)
    assert there(tmp_path, [shard]) == [0]
    cache.discard(path, hold(path))
    assert there(tmp_path, [shard]) == []


def test_a_folder_that_another_process_keeps_locked_is_waited_for_not_for_ever(tmp_path, monkeypatch):
    monkeypatch.setattr(disk, "PATIENCE", 0.1)
    with open(tmp_path / ".lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(RunError, match=r"\.lock: another process has had it locked"):
            DiskCache(tmp_path, SIZE)


def test_what_is_in_use_is_never_evicted(tmp_path):
    shards = make_shards(12)
    bucket = FakeBucket(shards)
    with (
        cached(bucket, tmp_path, 4 * SIZE, ahead=2) as cache,
        cache.follow(shards, iter([Need(0, 0, 9), Need(1, 0, 9), Need(2, 9, 9)])) as files,
    ):
        assert eventually(lambda: there(tmp_path, shards) == [0, 1])
        files.reach(0)
        files_in_use = [os.stat(entry(tmp_path, shards[i])).st_ino for i in (0, 1)]
        with cache.follow(shards, one_after_another(*range(3, 12))) as others:
            for step in range(9):
                others.reach(step)
                assert_read(others, shards, step + 3)
                assert [os.stat(entry(tmp_path, shards[i])).st_ino for i in (0, 1)] == files_in_use


def test_the_least_recently_used_gives_way_first_and_an_open_file_stays_readable(tmp_path):
    shards = make_shards(4)
    bucket = FakeBucket(shards)
    with (
        cached(bucket, tmp_path, 3 * SIZE, ahead=0) as cache,
        cache.follow(shards, one_after_another(0, 1, 2, 0, 3)) as files,
        contextlib.ExitStack() as opened,
    ):
        for step, shard in enumerate([0, 1, 2, 0, 3]):
            files.reach(step)
            assert_read(files, shards, shard)
            if shard == 1:
                kept = opened.enter_context(files.open(shards[1]))
            time.sleep(0.01)  # longer than the file system's clock takes to tick
        assert there(tmp_path, shards) == [0, 2, 3]
        assert kept.read() == content(1, SIZE)


def test_prefetches_do_not_evict_each_other_and_give_way_to_who_waits(tmp_path):
    shards = make_shards(8)
    bucket = FakeBucket(shards)
    with (
        cached(bucket, tmp_path, 4 * SIZE, ahead=6) as cache,
        cache.follow(shards, one_after_another(*range(7))),
    ):
        assert eventually(lambda: there(tmp_path, shards) == [0, 1, 2, 3])
        assert stays(lambda: bucket.begun == [0, 1, 2, 3], seconds=0.6)
        assert eventually(fetchers_wait)
        with cache.follow(shards, iter(())) as at_random:
            assert_read(at_random, shards, 7)
        assert there(tmp_path, shards)[:3] == [0, 1, 2]


def test_what_was_used_gives_way_before_what_was_fetched_for_later(tmp_path):
    shards = make_shards(8)
    bucket = FakeBucket(shards)
    with cached(bucket, tmp_path, 4 * SIZE) as cache, cache.follow(shards, iter(())) as at_random:
        assert_read(at_random, shards, 7)
        with cache.follow(shards, one_after_another(0, 1, 2)):
            assert eventually(lambda: there(tmp_path, shards) == [0, 1, 2, 7])
            assert_read(at_random, shards, 6)
            assert there(tmp_path, shards) == [0, 1, 2, 6]


def test_files_that_the_cache_did_not_make_are_neither_counted_nor_touched(tmp_path):
    (tmp_path / "notes.txt").write_bytes(b"x" * 10 * SIZE)
    (tmp_path / "train-00000-of-00004.tfrecord").write_bytes(b"mine")
    (tmp_path / "deadbeef-5-my own.tfrecord").write_bytes(b"mine")
    (tmp_path / "dir").mkdir()
    shards = make_shards(4)
    bucket = FakeBucket(shards)
    with cached(bucket, tmp_path, 2 * SIZE) as cache:
        read_through(cache, shards)
    assert {"notes.txt", "train-00000-of-00004.tfrecord", "deadbeef-5-my own.tfrecord", "dir"} < set(names(tmp_path))
    assert (tmp_path / "train-00000-of-00004.tfrecord").read_bytes() == b"mine"


class OnFullDisk(FakeBucket):
    """A store whose shards go to a disk with room for some of them, whatever the cache's limit is."""

    def __init__(self, shards: list[Shard], folder: Path, room: int) -> None:
        super().__init__(shards)
        self._folder = folder
        self._room = room
        self.tried = 0

    def fetch(self, name: str, stat: Stat, path: Path, tell: Callable[[int], None]) -> None:
        self.tried += 1
        if sum(file.stat().st_size for file in self._folder.glob("*.tfrecord")) + stat.size > self._room:
            path.write_bytes(b"")
            raise OSError(errno.ENOSPC, "No space left on device")
        super().fetch(name, stat, path, tell)


def test_on_a_disk_that_is_full_below_the_limit_what_nobody_uses_gives_way(tmp_path):
    shards = make_shards(8)
    with cached(OnFullDisk(shards, tmp_path, 3 * SIZE), tmp_path, fetchers=1) as cache:
        read_through(cache, shards)
        with cache.follow(shards, iter([Need(0, 0, 9), Need(1, 0, 9)])) as files:
            files.reach(0)
            assert_read(files, shards, 0, 1)
            with cache.follow(shards, one_after_another(*range(2, 8))) as others:
                for step in range(6):
                    others.reach(step)
                    assert_read(others, shards, step + 2)
            assert {0, 1} < set(there(tmp_path, shards))


def test_a_disk_that_is_full_of_what_is_in_use_is_told_with_the_file(tmp_path):
    shards = make_shards(3)
    with (
        cached(OnFullDisk(shards, tmp_path, 2 * SIZE), tmp_path, ahead=0) as cache,
        cache.follow(shards, iter([Need(0, 0, 9), Need(1, 0, 9), Need(2, 1, 1)])) as files,
    ):
        files.reach(0)
        assert_read(files, shards, 0, 1)
        files.reach(1)
        with pytest.raises(OSError, match="No space left on device") as caught:
            files.open(shards[2])
        assert caught.value.filename == f"{entry(tmp_path, shards[2])}.part"
        assert there(tmp_path, shards) == [0, 1]


def flip(file: Path) -> None:
    broken = bytearray(file.read_bytes())
    broken[500] ^= 1
    file.write_bytes(broken)


def cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:500])


def lengthen(file: Path) -> None:
    file.write_bytes(file.read_bytes() * 2)


@pytest.mark.parametrize("damage", [flip, cut, lengthen])
def test_a_damaged_file_of_an_earlier_run_is_fetched_again(tmp_path, damage):
    shards = make_shards(3)
    bucket = FakeBucket(shards)
    with cached(bucket, tmp_path) as cache:
        read_through(cache, shards)
    damage(entry(tmp_path, shards[1]))
    with cached(bucket, tmp_path) as cache:
        read_through(cache, shards)
    assert sorted(bucket.begun) == [0, 1, 1, 2]


def test_a_lowered_limit_holds_from_the_start(tmp_path):
    shards = make_shards(10)
    bucket = FakeBucket(shards)
    with cached(bucket, tmp_path) as cache:
        read_through(cache, shards)
    with cached(bucket, tmp_path, 3 * SIZE):
        assert bytes_in(tmp_path) == 3 * SIZE


def in_a_process(folder: Path, log: Path, room: int, seed: int, done) -> None:
    """Read at random beside other processes, and tell what came of it."""
    shards = make_shards(24)
    bucket = FakeBucket(shards, delay=0.002, log=log)
    try:
        with cached(bucket, folder, room * SIZE, ahead=3, fetchers=3) as cache:
            read_at_random(cache, shards, 150, seed)
        done.put(None)
    except BaseException:
        done.put(traceback.format_exc())
        raise


@pytest.mark.parametrize("room", [9, 24])
def test_processes_share_the_folder_within_the_limit_and_fetch_nothing_twice_while_there_is_room(tmp_path, room):
    (folder := tmp_path / "cache").mkdir()
    log, done = tmp_path / "log", PROCESSES.Queue()
    processes = [PROCESSES.Process(target=in_a_process, args=(folder, log, room, seed, done)) for seed in range(3)]
    with watched(folder, room * SIZE):
        for process in processes:
            process.start()
        assert [done.get(timeout=LONG) for _ in processes] == [None] * 3
        for process in processes:
            process.join(LONG)
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
        process.join(LONG)
        assert process.exitcode == -signal.SIGKILL

    process.start()
    try:
        part = folder / f"{entry(folder, make_shards(3)[1]).name}.part"
        assert eventually(lambda: part.exists() and entry(folder, make_shards(3)[0]).exists())
        yield kill
    finally:
        process.kill()


def test_what_a_killed_process_fetched_is_used_and_what_it_was_fetching_is_swept(tmp_path):
    folder = tmp_path / "cache"
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


def test_who_waits_for_a_fetch_of_another_process_takes_over_when_that_is_killed(tmp_path):
    folder = tmp_path / "cache"
    shards = make_shards(3)
    bucket = FakeBucket(shards)
    with (
        a_process_stuck_in_a_fetch(folder, tmp_path / "log") as kill,
        cached(bucket, folder) as cache,
        cache.follow(shards, iter(())) as files,
    ):
        waiter = Background(lambda: assert_read(files, shards, 1))
        assert eventually(waiter.is_waiting)
        assert stays(lambda: bucket.begun == [] and waiter.is_waiting())
        kill()
        waiter.finish()
        assert bucket.begun == [1]


def test_a_full_disk_is_told_to_all_who_want_shards_at_once_and_no_shard_is_fetched_over_and_over(tmp_path):
    shards = make_shards(4)
    bucket = OnFullDisk(shards, tmp_path, 0)
    with (
        cached(bucket, tmp_path, fetchers=4) as cache,
        cache.follow(shards, iter([Need(shard, 0, 9) for shard in range(4)])) as files,
        ThreadPoolExecutor(4) as pool,
    ):
        files.reach(0)
        for opened in [pool.submit(files.open, shard) for shard in shards]:
            assert isinstance(opened.exception(timeout=within(30)), OSError)
    assert bucket.tried <= 5 * len(shards)
