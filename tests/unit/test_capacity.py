"""What a job asks of a cluster's autoscaler for the workers that may come to it."""

from typing import Any

import pytest

from catdog.recipe import Cluster
from job import capacity
from job.capacity import Demand
from job.ray_private.pieces import AUTOSCALING_COORDINATOR


class Coordinator:
    """Ray's, as far as one requester sees it: what it is asked for just now."""

    bundles: list[dict[str, float]] = []  # noqa: RUF012 (of the test's one instance)
    asked = 0

    def __init__(self, requester: str) -> None:
        Coordinator.bundles, Coordinator.asked = [], 0

    def request_resources(self, bundles: list[dict[str, float]], expire_after_s: float) -> None:
        Coordinator.bundles, Coordinator.asked = bundles, Coordinator.asked + 1

    def cancel_request(self) -> None:
        Coordinator.bundles = []


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [1000.0]
    monkeypatch.setattr(f"{AUTOSCALING_COORDINATOR.module}.{AUTOSCALING_COORDINATOR.name}", Coordinator)
    monkeypatch.setattr(capacity.time, "monotonic", lambda: now[0])
    return now


def demand(**settings: Any) -> Demand:
    return Demand(Cluster(**settings), "gs://bucket/run")


def test_the_workers_that_are_lacking_are_asked_for_and_no_others(clock: list[float]) -> None:
    asked = demand(workers="1-4", gpus=2, cpus=3)
    for workers in (1, 3, 2):
        asked.renew(workers)
        assert Coordinator.bundles == [{"CPU": 3, "GPU": 2}] * (4 - workers)
    asked.renew(4)
    assert Coordinator.bundles == []


def test_a_demand_is_renewed_before_it_expires_and_not_all_the_time(clock: list[float]) -> None:
    asked = demand(workers="1-2", gpus=0)
    for second in range(60):
        clock[0] = 1000.0 + second
        asked.renew(1)
    assert Coordinator.asked == 3 and Coordinator.bundles == [{"CPU": 1}]


def test_a_job_that_has_ended_asks_for_nothing(clock: list[float]) -> None:
    asked = demand(workers="1-2", gpus=0)
    asked.renew(1)
    asked.cancel()
    assert Coordinator.bundles == []


def test_a_job_of_a_fixed_size_never_troubles_the_autoscaler(clock: list[float]) -> None:
    asked = demand(workers=2, gpus=0)
    asked.renew(2)
    asked.cancel()
    assert Coordinator.asked == 0
