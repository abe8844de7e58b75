"""The workers that train one run together: one process, or several that TF_CONFIG names, in step with each other."""

import contextlib
import os
import re
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass

import tensorflow as tf

from catdog.errors import CallerError, RunError, one_line
from catdog.parsing import brief, entry, fits, parse_json
from catdog.recipe import check_strategy
from catdog.training.signals import StopRequest
from catdog.training.strategy import allow_memory_growth, make_strategy

_RUN_AHEAD = 2
"""Steps that a worker may be ahead of its devices before it looks at what a step has told."""


@dataclass(frozen=True)
class WorkerGroup:
    """The workers of a run as one of them sees them. All must make the same calls in the same order."""

    strategy: tf.distribute.Strategy
    worker: int = 0
    workers: int = 1

    @property
    def chief(self) -> bool:
        """Whether this worker is the one that writes the run."""
        return self.worker == 0

    def of_chief(self, value: int) -> int:
        """The chief's value, on every worker, once all have come here."""
        return self.total(value if self.chief else 0)

    def total(self, value: int) -> int:
        """The sum of all workers' values, on every worker, once all have come here."""
        if self.workers == 1:
            return value
        replicas = self.strategy.num_replicas_in_sync // self.workers

        @tf.function(autograph=False)
        def summed(number: tf.Tensor) -> tf.Tensor:
            return self.strategy.reduce(tf.distribute.ReduceOp.SUM, self.strategy.run(lambda: number), axis=None)

        return int(summed(tf.constant(value, tf.int64)).numpy()) // replicas


def make_group(strategy: str) -> WorkerGroup:
    """The group that TF_CONFIG describes, whose every worker uses all of its GPUs; without it, this process alone.

    Call it before TensorFlow runs anything. Raises CallerError for a TF_CONFIG that is none, and for a strategy other
    than `auto` among several workers, and RunError when the others do not come.
    """
    try:
        worker, workers = worker_of(os.fsencode(os.environ.get("TF_CONFIG") or "{}"))
    except ValueError as error:
        raise CallerError(f"TF_CONFIG: is not the description of a cluster of workers: {error}") from None
    if workers == 1:
        return WorkerGroup(make_strategy(strategy))
    check_strategy(strategy, workers)
    allow_memory_growth()
    with together(worker, workers):
        made = tf.distribute.MultiWorkerMirroredStrategy()
    # All workers have equally many batches, and need not ask each other before each whether there is one.
    made.extended.experimental_enable_get_next_as_optional = False
    return WorkerGroup(made, worker, workers)


def worker_of(tf_config: bytes) -> tuple[int, int]:
    """Which worker this process is, and of how many; one alone is (0, 1). Raises ValueError for a TF_CONFIG that is none."""
    config = parse_json(tf_config)
    given = {"cluster": {}, "task": {}} | config if isinstance(config, dict) else config
    cluster, task = entry(given, "cluster", dict[str, list[str]]), entry(given, "task", dict)
    if sum(map(len, cluster.values())) < 2:
        return 0, 1
    addresses = entry(cluster, "worker", list[str], "cluster.")
    for address in addresses:
        if not re.fullmatch(r".+:[0-9]{1,5}", address) or not 0 < int(address.rpartition(":")[2]) < 2**16:
            raise ValueError(f"cluster.worker has {brief(address)}: must be HOST:PORT")
    index = task.get("index")
    if cluster.keys() != {"worker"} or task.get("type") != "worker" or not fits(index, int):
        raise ValueError("every task must be of type 'worker', with an index from 0")
    if index not in range(len(addresses)):
        raise ValueError(f"task.index = {index}: must be from 0 to {len(addresses) - 1}")
    return index, len(addresses)


@contextlib.contextmanager
def together(worker: int, workers: int) -> Iterator[None]:
    """Tell in one line, as a RunError, when what workers do together fails because one of them has ended."""
    try:
        yield
    except (tf.errors.UnavailableError, tf.errors.AbortedError, tf.errors.CancelledError) as error:
        if workers == 1:
            raise
        raise RunError(
            f"worker {worker} of {workers}: another one has ended, or cannot be reached ({one_line(error)[:200]}); started"
            " again on all of them the run goes on from what is committed"
        ) from error


class StopAgreement:
    """Lets all workers stop after the same step, whichever of them is asked to.

    One worker alone stops as soon as it is asked. Among several a request travels with a step's sums, and is looked at
    steps later, when it is there without waiting.
    """

    def __init__(self, group: WorkerGroup, request: StopRequest) -> None:
        self._alone = group.workers == 1
        self._request = request
        self._told: deque[tf.Tensor] = deque(maxlen=_RUN_AHEAD + 1)

    def asked(self) -> bool:
        """Whether this worker was asked to stop."""
        return self._request.signal is not None

    def reached(self) -> bool:
        """Whether to stop before the next step."""
        if self._alone:
            return self.asked()
        return len(self._told) > _RUN_AHEAD and bool(self._told[0].numpy())

    def reached_alone(self) -> bool:
        """Whether to stop at once, in the middle of an evaluation, for there are no others to wait for this one."""
        return self._alone and self.asked()

    def add(self, stopping: tf.Tensor) -> None:
        """Note what a step has told: whether any worker was asked to stop before it."""
        self._told.append(stopping)
