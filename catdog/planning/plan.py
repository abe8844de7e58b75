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
    """Of its first step, which is traced and compiled."""
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
    outputs = [each.output * (_views(phase, each) * job.train + job.val) / hosts.count for phase, each in both]
    shards = job.shards / hosts.count if job.in_bucket else 0
    kept = shards + max(outputs) <= limit
    phases, read = [], 0.0
    for phase, each in both:
        planned = _plan_phase(job, phase, each, speed, hosts)
        passes = 1 if kept else _views(phase, each) or phase.epochs
        fetched = 0.0 if kept and read else shards * passes
        # Shards are fetched while others are trained on.
        meanwhile = (planned.seconds - planned.parts["start"]) * passes / phase.epochs
        planned.parts["bucket"] = max(0.0, fetched / hosts.link - meanwhile)
        phases.append(planned)
        read += fetched
    return Plan(
        hosts,
        tuple(phases),
        read=round(read * hosts.count),
        disk=round(min(shards + sum(outputs), limit)),
        memory=speed.memory + 16 * job.train,  # an epoch's order is made of two numbers an example
    )


def faster(speed: Speed, recipe: Recipe, images_per_s: float) -> Speed:
    """The speed of a GPU that trains so many images a second in the phase that trains most, in the proportions of what was
    measured."""
    most, rows = recipe.phases.index(trains_most(recipe)), recipe.data.global_batch
    measured = speed.phases[most].fixed / rows + speed.phases[most].row
    factor = 1 / images_per_s / measured

    def scaled(each: PhaseSpeed) -> PhaseSpeed:
        return replace(each, fixed=each.fixed * factor, row=each.row * factor, forward=each.forward * factor)

    return replace(speed, phases=tuple(map(scaled, speed.phases)), gpu=True)


def exchange_seconds(gradients: int, hosts: Hosts, *, gpu: bool) -> float:
    """Seconds to sum so many bytes over the hosts in a ring (Patarasuk and Yuan, 2009), whose many messages NCCL, which
    GPUs have, replaces by those of a tree."""
    if hosts.count == 1:
        return 0.0
    messages = 2 * math.ceil(math.log2(hosts.count)) if gpu else 2 * (hosts.count - 1)
    return 2 * (hosts.count - 1) / hosts.count * gradients / hosts.link + messages * LATENCY


def _views(phase: Phase, speed: PhaseSpeed) -> int:
    """How many views of each picture a phase stores outputs of."""
    return min(phase.views, phase.epochs) if speed.output else 0


def _plan_phase(job: Job, phase: Phase, own: PhaseSpeed, speed: Speed, hosts: Hosts) -> PhasePlan:
    replicas, steps = hosts.count * hosts.replicas, phase.epochs * job.steps_per_epoch
    # A picture is trained on or passes through what is frozen; in a phase that takes pictures the latter is validation.
    validated = job.val * (1 if own.output else phase.epochs)
    passing = validated + _views(phase, own) * job.train
    decoded = passing + (0 if own.output else steps * job.recipe.data.global_batch)
    rows = rows_of_a_replica(job.recipe, replicas)
    slower = 1.0 if speed.gpu else speed.cores / hosts.cores
    compute = (steps * (own.fixed + rows * own.row) + passing / replicas * own.forward) * slower
    decoding = decoded / hosts.count * speed.decode / hosts.cores
    parts = {
        "start": own.start * slower,
        "compute": compute,
        "decoding": max(0.0, decoding - compute) if speed.gpu else decoding,
        "exchange": steps * exchange_seconds(own.gradients, hosts, gpu=speed.gpu),
    }
    return PhasePlan(phase.name, steps, parts)
