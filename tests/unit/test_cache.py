"""The cache as its users see it: shards from a folder or a store, whole, within the limit, until it is closed."""

import os
import resource
import threading

import pytest
from shard_stores import (
    SIZE,
    FakeBucket,
    assert_read,
    cached,
    content,
    entry,
    eventually,
    fetchers,
    make_shards,
    names,
    one_after_another,
    read_at_random,
    read_through,
    together,
    watched,
)

from catdog.data.cache import Closed, open_cache
from catdog.data.order import Need
from catdog.errors import CallerError
from catdog.recipe import Cache
from catdog.storage import open_bucket


def test_a_second_epoch_and_a_second_run_read_the_local_copy(tmp_path):
    shards = make_shards(5)
    bucket = FakeBucket(shards)
    for _ in range(2):
        with cached(bucket, tmp_path) as cache, cache.follow(shards, one_after_another(*range(5), *range(5))) as files:
            for step in range(10):
                files.reach(step)
                assert_read(files, shards, step % 5)
    assert sorted(bucket.begun) == [0, 1, 2, 3, 4]
    assert names(tmp_path) == sorted(entry(tmp_path, shard).name for shard in shards)


@pytest.mark.parametrize("room", [6, 9, 30])
def test_the_limit_holds_at_every_moment_while_two_passes_read_at_random(tmp_path, room):
    train, val = make_shards(20), make_shards(20, split="val")
    bucket = FakeBucket(train, val, delay=0.001)
    with cached(bucket, tmp_path, room * SIZE, ahead=3, fetchers=4) as cache, watched(tmp_path, room * SIZE):
        together(lambda: read_at_random(cache, train, 100, seed=1), lambda: read_at_random(cache, val, 100, seed=2))


def test_a_bucket_in_a_folder_is_read_where_it_lies(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home"))
    shards = make_shards(1)
    (folder := tmp_path / "data").mkdir()
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
        read_through(cache, shards)
    assert names(tmp_path / "catdog") == [entry(tmp_path, shards[0]).name]


def test_a_folder_that_can_not_be_made_is_told_in_one_line(tmp_path):
    (tmp_path / "file").touch()
    for place in (tmp_path / "file", tmp_path / "file/below"):
        with (
            pytest.raises(CallerError, match=r"^cache\.folder = '.*file.*': cannot be written: .*$"),
            open_cache(FakeBucket(), {}, Cache(str(place))),
        ):
            pass


def test_more_shards_may_be_in_use_than_a_process_may_open_files_by_default(tmp_path):
    shards = make_shards(100)
    bucket = FakeBucket(shards)
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (len(os.listdir("/dev/fd")) + 50, before[1]))
    try:
        with cached(bucket, tmp_path) as cache, cache.follow(shards, (Need(n, 0, 0) for n in range(100))) as files:
            files.reach(0)
            assert_read(files, shards, *range(100))
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


def test_the_threads_end_with_the_block_once_the_fetch_in_hand_has_ended(tmp_path):
    assert eventually(lambda: not fetchers())  # of other tests
    shards = make_shards(4)
    bucket = FakeBucket(shards)
    bucket.gates = dict.fromkeys(range(4), gate := threading.Event())

    with cached(bucket, tmp_path, fetchers=2) as cache:
        straggler = cache.follow(shards, one_after_another(*range(4)))
        files = straggler.__enter__()
        assert eventually(lambda: len(bucket.underway) == 2)
        assert len(fetchers()) == 2
    with pytest.raises(Closed):
        files.open(shards[3])
    gate.set()
    assert eventually(lambda: not fetchers())
    straggler.__exit__(None, None, None)
    assert bucket.begun == [0, 1]
    assert names(tmp_path) == sorted(entry(tmp_path, shards[i]).name for i in (0, 1))
