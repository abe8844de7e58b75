"""Which examples each step of a run has seen, as its workers write it down."""

import json
import time
import uuid
from pathlib import Path
from typing import Any

from catdog.data.order import Order
from catdog.data.shards import load_manifest
from catdog.storage import Bucket


def record(folder: Path, pause: float = 0.0) -> None:
    """From now on this process writes the examples of its part of each batch to a file of its own, and then pauses."""
    from catdog.training import phase

    make = phase.make_train_step
    folder.mkdir(parents=True, exist_ok=True)
    file = open(folder / f"{uuid.uuid4().hex}.jsonl", "a", buffering=1)  # noqa: SIM115 (for as long as the process lives)

    def recorded(strategy: Any, state: Any, settings: Any) -> Any:
        train_step = make(strategy, state, settings)

        def call(batch: Any, learning_rate: float, step: int, stopping: bool) -> Any:
            parts = strategy.experimental_local_results(batch["example"])
            file.write(json.dumps([step, [int(i) for part in parts for i in part.numpy() if i >= 0]]) + "\n")
            time.sleep(pause)
            return train_step(batch, learning_rate, step, stopping)

        return call

    phase.make_train_step = recorded


def recorded_work(folder: str, pause: float, light: bool, config: dict[str, Any]) -> Any:
    """What a worker of Ray's does, recorded; with `light`, a backbone of a few hundred weights."""
    from catdog.command.quiet_tensorflow import import_tensorflow
    from job.worker import work

    import_tensorflow()
    if light:
        from tests.integration import small_backbone

        small_backbone.use()
    record(Path(folder), pause)
    return work(config)


def recorded(folder: Path) -> dict[int, set[int]]:
    """The examples of each step, over all workers and all the times that it was taken."""
    batches: dict[int, set[int]] = {}
    for path in folder.glob("*.jsonl"):
        for line in path.read_text().splitlines():
            step, ids = json.loads(line)
            batches.setdefault(step, set()).update(ids)
    return batches


def canonical(data: Bucket, streams: int, global_batch: int, steps: int) -> dict[int, set[int]]:
    """The examples of each step that the order asks for."""
    order = Order(tuple(shard.examples for shard in load_manifest(data).split("train")), streams, global_batch, 0)
    return {step: set(batch.example.tolist()) for step, batch in enumerate(order.batches(0, steps))}
