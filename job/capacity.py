"""What the workers take of a Ray cluster: what is free of it, and what its autoscaler is asked for."""

import time

import ray

from catdog.recipe import Cluster
from job.ray_private.pieces import AUTOSCALING_COORDINATOR, DRAINING_NODES, FREE_BY_NODE

_RENEW = 20.0
"""Seconds after which a demand is renewed."""
_EXPIRE = 60.0
"""Seconds after which the autoscaler forgets a demand that is not renewed, as when the driver has died."""


def worker_resources(cluster: Cluster) -> dict[str, float]:
    """What Ray reserves for each worker."""
    return {"CPU": cluster.cpus, "GPU": cluster.gpus}


def gpus_per_worker(cluster: Cluster) -> int:
    """GPUs of a worker: those asked for, or as many as each host has that has any."""
    if cluster.gpus >= 0:
        return cluster.gpus
    counts = [int(host["Resources"].get("GPU", 0)) for host in ray.nodes() if host["Alive"]]
    return min(filter(None, counts), default=0)


def free_workers(cluster: Cluster) -> int:
    """For how many more workers there is room now."""
    needed = _needed(cluster)
    going = DRAINING_NODES.get()()
    hosts = [free for host, free in FREE_BY_NODE.get()().items() if host not in going]
    return sum(min(int(free.get(kind, 0) // count) for kind, count in needed.items()) for free in hosts)


def lacking(cluster: Cluster) -> str:
    """What the fewest workers need, and what there is."""
    need = f"for {cluster.bounds[0]} workers with {cluster.cpus} CPUs and {cluster.gpus} GPUs each"
    total, free = ray.cluster_resources(), ray.available_resources()
    there = (f"{free.get(kind, 0):.0f} of {total.get(kind, 0):.0f} {kind}s are free" for kind in ("CPU", "GPU"))
    return f"{need}: {', '.join(there)}"


class Demand:
    """What the autoscaler of the cluster, if it has one, is asked for: room for the most workers.

    Ray Train itself asks for the workers that it starts; this is for those that may come to them. It goes through Ray's
    coordinator, which adds up what all jobs ask for; asked directly, an autoscaler knows the last demand alone.
    """

    def __init__(self, cluster: Cluster, run: str) -> None:
        self._cluster = cluster
        self._coordinator = AUTOSCALING_COORDINATOR.get()(f"catdog {run}")
        self._asked, self._renewed = 0, 0.0

    def renew(self, workers: int) -> None:
        """Ask for the workers that are lacking beside so many; to be called again and again, for a demand expires."""
        more, now = self._cluster.bounds[1] - workers, time.monotonic()
        if more and (more != self._asked or now - self._renewed >= _RENEW):
            self._coordinator.request_resources([_needed(self._cluster)] * more, _EXPIRE)
            self._asked, self._renewed = more, now
        elif not more:
            self.cancel()

    def cancel(self) -> None:
        """To be called when the workers have ended."""
        if self._asked:
            self._coordinator.cancel_request()
            self._asked = 0


def _needed(cluster: Cluster) -> dict[str, float]:
    return {kind: count for kind, count in worker_resources(cluster).items() if count}
