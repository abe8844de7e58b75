"""What a run would take on other hosts."""

import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from catdog.errors import CallerError
from catdog.planning.options import PlanOptions, parse_hosts
from catdog.planning.plan import LATENCY, Hosts, Job, PhaseSpeed, Speed, exchange_seconds, faster, plan
from catdog.recipe import Cache, Data, Phase, Recipe

RECIPE = Recipe(
    data=Data(global_batch=64, streams=16),
    phases=(Phase("frozen", epochs=3, views=2), Phase("all", epochs=2, unfreeze="all")),
)
JOB = Job(RECIPE, steps_per_epoch=100, train=6400, val=640, shards=70_400_000, in_bucket=True)
STORED = PhaseSpeed(start=1.0, fixed=0.001, row=0.0001, forward=0.01, gradients=1_000_000, output=2560)
PICTURES = PhaseSpeed(start=10.0, fixed=0.01, row=0.03, forward=0.01, gradients=16_000_000, output=0)
CPU = Speed((STORED, PICTURES), decode=0.002, gpu=False, cores=2.0, memory=10**9)
GPU = replace(CPU, gpu=True)
HOST = Hosts(1, 1, cores=2.0, link=1e9)


def test_a_cpu_decodes_and_computes_one_after_the_other() -> None:
    frozen, everything = plan(JOB, CPU, HOST).phases
    # Two views of all pictures, and validation's whole ones, pass through what is frozen.
    pictures = 2 * 6400 + 640
    assert frozen.parts["compute"] == pytest.approx(300 * (0.001 + 64 * 0.0001) + pictures * 0.01)
    assert frozen.parts["decoding"] == pytest.approx(pictures * 0.002 / 2)
    assert everything.parts["compute"] == pytest.approx(200 * (0.01 + 64 * 0.03) + 2 * 640 * 0.01)
    assert everything.parts["decoding"] == pytest.approx((200 * 64 + 2 * 640) * 0.002 / 2)
    assert everything.bottleneck == "compute" and everything.parts["exchange"] == 0
    assert everything.seconds == pytest.approx(10 + sum(everything.parts[part] for part in ("compute", "decoding")))


def test_beside_a_gpu_the_cores_decode_meanwhile() -> None:
    fast = plan(JOB, faster(GPU, RECIPE, 3000), replace(HOST, cores=1.0)).phases[1]
    assert fast.bottleneck == "decoding"
    assert fast.seconds - fast.parts["start"] == pytest.approx((200 * 64 + 2 * 640) * 0.002)
    assert plan(JOB, GPU, HOST).phases[1].parts["decoding"] == 0


def test_a_gpu_of_so_many_images_a_second_takes_as_many_and_no_less_for_a_step_than_was_measured() -> None:
    speed = faster(CPU, RECIPE, 3000)
    assert speed.gpu and 1 / speed.phases[1].row == pytest.approx(3000)
    assert speed.phases[1].fixed == PICTURES.fixed
    of_stored = replace(RECIPE, phases=RECIPE.phases[:1])
    (frozen,) = faster(replace(CPU, phases=(STORED,)), of_stored, 3000).phases
    assert 1 / (frozen.row + frozen.forward) == pytest.approx(3000)


def test_outputs_that_the_cache_has_no_room_for_are_computed_in_each_epoch() -> None:
    small = replace(JOB, recipe=replace(RECIPE, cache=Cache(max_bytes=1_000_000)), in_bucket=False)
    frozen = plan(small, CPU, HOST).phases[0]
    assert frozen.parts["decoding"] == pytest.approx(3 * (6400 + 640) * 0.002 / 2)
    assert plan(small, CPU, HOST).disk == 0


def test_a_gpu_hides_the_decoding_of_a_view_only_behind_the_epochs_that_see_it_first() -> None:
    slow = replace(GPU, decode=0.2)
    frozen = plan(JOB, slow, HOST).phases[0]
    pictures, stepping = 2 * 6400 + 640, 300 * (0.001 + 64 * 0.0001)
    assert frozen.parts["decoding"] == pytest.approx(pictures * 0.2 / 2 - pictures * 0.01 - stepping * 2 / 3)


def test_logical_cpus_of_one_host_share_its_cores() -> None:
    one, two = (plan(JOB, CPU, Hosts(1, replicas, 2.0, 1e9)).phases[1] for replicas in (1, 2))
    assert two.parts["compute"] == pytest.approx(one.parts["compute"], rel=0.02)


def test_hosts_exchange_in_a_ring_and_gpus_in_a_tree() -> None:
    of = lambda count: replace(HOST, count=count)  # noqa: E731
    assert exchange_seconds(10**9, of(1), gpu=False) == 0
    assert exchange_seconds(10**9, of(2), gpu=False) == pytest.approx(1 + 2 * LATENCY)
    assert exchange_seconds(0, of(64), gpu=False) == pytest.approx(126 * LATENCY)
    assert exchange_seconds(0, of(64), gpu=True) == pytest.approx(12 * LATENCY)


def test_shards_are_fetched_once_where_the_cache_holds_them_and_else_each_time() -> None:
    assert plan(JOB, CPU, HOST).read == 70_400_000
    assert plan(JOB, CPU, replace(HOST, count=4)).read == 70_400_000
    small = replace(JOB, recipe=replace(RECIPE, cache=Cache(max_bytes=50_000_000)))
    assert plan(small, CPU, HOST).read == 70_400_000 * (2 + 2)  # views of the first phase, epochs of the second
    assert plan(small, CPU, HOST).disk == 50_000_000
    assert plan(replace(JOB, in_bucket=False), CPU, HOST).read == 0


def test_a_slow_link_to_the_bucket_holds_the_phase_that_fetches() -> None:
    frozen, everything = plan(JOB, CPU, replace(HOST, link=1e5)).phases
    assert frozen.bottleneck == "bucket" and everything.parts["bucket"] == 0
    # Of 704 s, what an epoch takes is trained in.
    meanwhile = (frozen.parts["compute"] + frozen.parts["decoding"]) / 3
    assert frozen.parts["bucket"] == pytest.approx(704 - meanwhile)


def test_disk_holds_shards_and_stored_outputs_and_memory_the_order_of_an_epoch() -> None:
    planned = plan(JOB, CPU, replace(HOST, count=2))
    assert planned.disk == (70_400_000 + 2560 * (2 * 6400 + 640)) // 2
    assert planned.memory == 10**9 + 16 * 6400


def test_more_replicas_than_streams_are_refused_with_both_numbers() -> None:
    with pytest.raises(CallerError, match=r"16.*replicas, 24"):
        plan(JOB, GPU, Hosts(3, 8, 8.0, 1e9))


@given(st.sampled_from([1, 2, 4, 8]), st.booleans(), st.floats(1e6, 1e10))
def test_with_twice_the_hosts_each_computes_and_decodes_no_more(count: int, gpu: bool, link: float) -> None:
    speed = replace(CPU, gpu=gpu)
    one, two = (plan(JOB, speed, Hosts(number, 1, 2.0, link)) for number in (count, 2 * count))
    for fewer, more in zip(one.phases, two.phases, strict=True):
        assert more.parts["compute"] <= fewer.parts["compute"]
        assert more.parts["exchange"] >= fewer.parts["exchange"]
        assert all(seconds >= 0 for seconds in more.parts.values())
    assert two.cost(2.0) == pytest.approx(two.seconds / 3600 * 2.0 * 2 * count)


@pytest.mark.parametrize("text", ["", "0", "1,,2", "-1", "1.5", "1, 2", "٣", "9" * 7, "x\n"])
def test_what_are_no_numbers_of_hosts_is_refused_in_one_line(text: str) -> None:
    with pytest.raises(CallerError, match="must be numbers of at least 1") as refused:
        parse_hosts(text)
    assert "\n" not in str(refused.value)
    assert parse_hosts("1,8,64") == (1, 8, 64)


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"cpus": -1.0}, "--cpus -1: must be at least 0.001"),
        ({"cpus": 1e-308}, "--cpus 1e-308: must be at least 0.001"),
        ({"link": math.nan}, "--link nan: must be at least 0.001"),
        ({"link": 0.0}, "--link 0: must be at least 0.001"),
        ({"gpus": 1, "images_per_s": math.inf}, "--images-per-s inf: must be at least 0.001 and at most 1e6"),
        ({"gpus": -2}, "--gpus -2: must be at least 0"),
        ({"images_per_s": 10.0}, "give --gpus"),
    ],
)
def test_what_no_host_can_have_is_refused(options: dict, told: str) -> None:
    with pytest.raises(CallerError, match=told):
        PlanOptions(**options)
