"""The record of a shard in the cache."""

from catdog.data.cache.disk import DiskCache, hold
from catdog.data.cache.shard_state import CachedShard, Failed, Held, Idle
from catdog.storage import Stat


def test_a_shard_in_any_other_state_is_not_locked(tmp_path):
    cache, pin = DiskCache(tmp_path, 100), Stat(3, "00000000")
    shard = CachedShard(
        "train-00000-of-00001.tfrecord", pin, cache.path("train-00000-of-00001.tfrecord", pin.size, pin.crc32c)
    )
    with open(shard.path, "wb") as file:
        file.write(b"abc")
    for state in (Idle(), Failed(OSError("broken off"))):
        shard.become(Held(hold(shard.path)))
        assert cache.in_use() == {shard.path: 3}
        shard.become(state)
        assert cache.in_use() == {}
