"""What a run would take on other hosts, from what a device and a core take for a picture: pure functions.

The formulas are those of infra/SCALE.md.
"""

import math
from dataclasses import dataclass, replace

from catdog.recipe import Phase, Recipe, check_replicas, rows_of_a_replica, trains_most

LATENCY = 50e-6
"""Seconds of one message between two hosts of a data centre."""


@dataclass(frozen=True)
class Job:
    """What is to be done."""

    recipe: Recipe
    steps_per_epoch: int
    train: int
    """Examples of the split."""
    val: int
    shards: int
    """Bytes of the shards of both."""
    in_bucket: bool
    """Whether they are fetched; a folder's are read where they lie."""


@dataclass(frozen=True)
class PhaseSpeed:
    """Seconds that a phase takes on the device that was measured."""

    start: float
    """Of what comes before the first step and once with it: tracing, compiling."""
    fixed: float
    """Of any other step, whatever its rows."""
    row: float
    """Of each row of it."""
    forward: float
    """Of the pass of a picture through what is frozen, where its outputs are stored; else of its validation."""
    gradients: int
    """Bytes that the replicas exchange in a step."""
    output: int
    """Bytes of a picture's stored outputs; 0 for a phase that takes pictures."""


@dataclass(frozen=True)
class Speed:
    """What was measured of one machine."""

    phases: tuple[PhaseSpeed, ...]
    decode: float
    """Seconds of one core to read and decode a picture."""
    gpu: bool
    """Whether the device is a GPU, beside which the cores decode; else they do both."""
    cores: float
    """That the device has, if it is a CPU."""
    memory: int
    """Bytes of the host's memory that the process took."""


@dataclass(frozen=True)
class Hosts:
    """Hosts of one kind that train together."""

    count: int
    replicas: int
    """Of each host: its GPUs, or one."""
    cores: float
    """Of each host."""
    link: float
    """Bytes a second between a host and the others, or the bucket."""


@dataclass(frozen=True)
class PhasePlan:
    """What a phase takes."""

    name: str
    steps: int
    parts: dict[str, float]
    """Seconds by what they go to: `start`, `compute`, `decoding`, `exchange`, `bucket`. On a GPU the cores decode
    meanwhile, and `decoding` is only what they take longer."""

    @property
    def seconds(self) -> float:
        return sum(self.parts.values())

    @property
    def step(self) -> float:
        """Seconds of a step, all but the start shared out over the steps."""
        return (self.seconds - self.parts["start"]) / self.steps

    @property
    def bottleneck(self) -> str:
        """What most of the time goes to."""
        return max(self.parts, key=self.parts.__getitem__)


@dataclass(frozen=True)
class Plan:
    """What a run takes, without the evaluation at its end."""

    hosts: Hosts
    phases: tuple[PhasePlan, ...]
    read: int
    """Bytes that all hosts together read from the bucket."""
    disk: int
    """Bytes of a host's disk: shards of a bucket, and stored outputs."""
    memory: int
    """Bytes of a host's memory."""

    @property
    def seconds(self) -> float:
        return sum(phase.seconds for phase in self.phases)

    def cost(self, price: float) -> float:
        """Of hosts that cost so much an hour each."""
        return price * self.hosts.count * self.seconds / 3600


def plan(job: Job, speed: Speed, hosts: Hosts) -> Plan:
    """Raises CallerError for more replicas than the recipe can be trained on."""
    check_replicas(job.recipe, hosts.count * hosts.replicas)
    limit = job.recipe.cache.max_bytes
    both = list(zip(job.recipe.phases, speed.phases, strict=True))
    outputs = [each.output * (_passes(phase, stored=True) * job.train + job.val) / hosts.count for phase, each in both]
    stored = [0 < size <= limit for size in outputs]
    shards = job.shards / hosts.count if job.in_bucket else 0
    kept = shards + max(size for size in (0, *outputs) if size <= limit) <= limit
    phases, read = [], 0.0
    for (phase, each), stores in zip(both, stored, strict=True):
        planned = _plan_phase(job, phase, each, speed, hosts, stored=stores)
        times = (0 if read else 1) if kept else _passes(phase, stored=stores)
        fetched = shards * times
        # Shards are fetched while others are trained on.
        meanwhile = (planned.seconds - planned.parts["start"]) * times / phase.epochs
        planned.parts["bucket"] = max(0.0, fetched / hosts.link - meanwhile)
        phases.append(planned)
        read += fetched
    return Plan(
        hosts,
        tuple(phases),
        read=round(read * hosts.count),
        disk=round(min(shards + sum(size for size in outputs if size <= limit), limit)),
        memory=speed.memory + 16 * job.train,  # an epoch's order is made of two numbers an example
    )


def faster(speed: Speed, recipe: Recipe, images_per_s: float) -> Speed:
    """The speed of a GPU that takes so many pictures a second in the phase that trains most, without stored outputs, in the
    proportions of what was measured; a step takes no less than here whatever its rows."""
    most = speed.phases[recipe.phases.index(trains_most(recipe))]
    factor = 1 / images_per_s / (most.row + (most.forward if most.output else 0.0))

    def scaled(each: PhaseSpeed) -> PhaseSpeed:
        return replace(each, row=each.row * factor, forward=each.forward * factor)

    return replace(speed, phases=tuple(map(scaled, speed.phases)), gpu=True)


def exchange_seconds(gradients: int, hosts: Hosts, *, gpu: bool) -> float:
    """Seconds to sum so many bytes over the hosts in a ring (Patarasuk and Yuan, 2009), whose many messages NCCL, which
    GPUs have, replaces by those of a tree."""
    if hosts.count == 1:
        return 0.0
    messages = 2 * math.ceil(math.log2(hosts.count)) if gpu else 2 * (hosts.count - 1)
    return 2 * (hosts.count - 1) / hosts.count * gradients / hosts.link + messages * LATENCY


def _passes(phase: Phase, *, stored: bool) -> int:
    """In how many epochs pictures are looked at."""
    return min(phase.views, phase.epochs) if stored else phase.epochs


def _plan_phase(job: Job, phase: Phase, own: PhaseSpeed, speed: Speed, hosts: Hosts, *, stored: bool) -> PhasePlan:
    replicas, steps = hosts.count * hosts.replicas, phase.epochs * job.steps_per_epoch
    passes = _passes(phase, stored=stored)
    # Where a step takes outputs, pictures pass through what is frozen; those of validation, which are not varied, once.
    passing = job.val * (1 if stored else phase.epochs) + (passes * job.train if own.output else 0)
    decoded = passing + (0 if own.output else steps * job.recipe.data.global_batch)
    rows = rows_of_a_replica(job.recipe, replicas)
    slower = 1.0 if speed.gpu else speed.cores * hosts.replicas / hosts.cores
    stepping, passing_through = steps * (own.fixed + rows * own.row), passing / replicas * own.forward
    decoding = decoded / hosts.count * speed.decode / hosts.cores
    meanwhile = passing_through + stepping * passes / phase.epochs
    parts = {
        "start": own.start,
        "compute": (stepping + passing_through) * slower,
        "decoding": max(0.0, decoding - meanwhile) if speed.gpu else decoding,
        "exchange": steps * exchange_seconds(own.gradients, hosts, gpu=speed.gpu),
    }
    return PhasePlan(phase.name, steps, parts)
