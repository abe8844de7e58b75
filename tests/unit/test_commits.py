"""What a run's commits say is so, wherever it is stopped or killed: the true loop, on a model that is a number."""

import contextlib
import itertools
import signal
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import example, given, settings
from hypothesis import strategies as st
from small_runs import begin

from catdog.errors import Stopped
from catdog.recipe import Checkpoint, Phase, Recipe, Run
from catdog.runs.folder import Position, committed, read_commit
from catdog.runs.pull import pull
from catdog.storage import Bucket, Folder, GoogleBucket, Stat, open_bucket
from catdog.training import start as start_of_run
from catdog.training import trainer
from catdog.training.checkpoint import Arrays, Checkpoints
from catdog.training.profiler import Profiler
from catdog.training.running_metrics import RunningMetrics
from catdog.training.schedule import Span
from catdog.training.signals import StopRequest
from catdog.training.start import Start
from catdog.training.step import Predict
from catdog.training.worker_group import WorkerGroup
from tests.stand_ins.fake_store import FakeStore

PER_EPOCH = 4


@dataclass(frozen=True)
class Life:
    """What comes in the way of one process: a stop, as `(step, "step")` after that step, as `(step, "validation")` while
    the validation there is under way or as `(step, "validated")` when it has just ended; and a kill instead of its next
    change to the run once it has made so many."""

    stop: tuple[int, str] | None = None
    changes: int | None = None


@dataclass(frozen=True)
class Plan:
    """A run: the loss of the validation that ends each epoch, and when its state is saved."""

    losses: tuple[float, ...]
    keep: int
    every_steps: int

    @property
    def recipe(self) -> Recipe:
        phases = tuple(Phase(f"epoch {number}", epochs=1) for number in range(len(self.losses)))
        checkpoint = Checkpoint(keep=self.keep, every_steps=self.every_steps)
        return Recipe(checkpoint=checkpoint, phases=phases, run=Run(precision="float32"))

    @property
    def steps(self) -> int:
        return PER_EPOCH * len(self.losses)

    def best(self, validated: int) -> tuple[float | None, int | None]:
        """The best loss of the epochs up to a step, and its step."""
        losses = self.losses[: validated // PER_EPOCH]
        loss = min(losses, default=None)
        return loss, None if loss is None else PER_EPOCH * (losses.index(loss) + 1)


class Killed(Exception):
    """In the place of SIGKILL."""


@dataclass
class Mortal:
    changes: int | None

    def change(self) -> None:
        if self.changes == 0:
            raise Killed
        if self.changes is not None:
            self.changes -= 1


@dataclass(frozen=True)
class MortalFolder(Folder):
    """A folder that a process can change for as long as it lives: a killed one leaves it in the middle of anything."""

    process: Mortal = field(default_factory=lambda: Mortal(None))

    @contextlib.contextmanager
    def writing(self, name: str, *, new: bool = False) -> Iterator[Path]:
        self.process.change()
        with super().writing(name, new=new) as path:
            yield path
            self.process.change()

    def swap(self, name: str, content: bytes, expected: Stat | None) -> Stat:
        self.process.change()
        return super().swap(name, content, expected)

    def delete(self, name: str) -> None:
        self.process.change()
        super().delete(name)

    def delete_all(self, prefix: str) -> None:
        for name in self.list(f"{prefix}/"):
            self.delete(name)


class World:
    """The devices of one process: a state that is the number of steps done, and the stop at its moment."""

    def __init__(self, plan: Plan, life: Life, asked: StopRequest) -> None:
        self.plan, self.asked, self._stop = plan, asked, life.stop
        self.model, self.layers, self.done = self, [SimpleNamespace(weights=[])], 0

    def reach(self, moment: str) -> None:
        if self._stop == (self.done, moment):
            self.asked.ask(signal.SIGTERM)

    def snapshot(self) -> Arrays:
        return {"done": np.int64(self.done)}

    def restore(self, arrays: Arrays) -> None:
        self.done = int(arrays["done"])

    @contextlib.contextmanager
    def averaged(self) -> Iterator[None]:
        yield


class FakePhase:
    def __init__(
        self,
        start: Start,
        state: World,
        predict: Predict,
        span: Span,
        step: int,
        window: RunningMetrics,
        profiler: Profiler,
    ) -> None:
        self.span, self._state = span, state
        profiler.start_phase(span.phase.name)

    def validate(self, stopped: Any) -> dict[str, float] | None:
        world = self._state
        world.reach("validation")
        if stopped():
            return None
        world.reach("validated")
        return {"loss": world.plan.losses[world.done // PER_EPOCH - 1], "accuracy": 0.5}

    def step(self, step: int, stopping: bool) -> dict[str, tf.Tensor]:
        self._state.done = step + 1
        self._state.reach("step")
        told = {"loss": 1.0, "correct": 2.0, "finite": True, "stopping": False}
        return {name: SimpleNamespace(numpy=lambda value=value: value) for name, value in told.items()}


@pytest.fixture(scope="module", autouse=True)
def _model_is_a_number() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trainer, "Phase", FakePhase)
        patch.setattr("catdog.storage.local._sync", lambda path: None)  # no machine dies here
        yield


def live(folder: str, plan: Plan, life: Life) -> int | None:
    """One process of the run, from its start to its end; the step of the best weights if it comes to that."""
    run, asked = MortalFolder(folder, process=Mortal(life.changes)), StopRequest()
    manifest, lease = SimpleNamespace(digest="manifest"), SimpleNamespace(require=lambda: None, check=lambda: None)
    strategy = SimpleNamespace(num_replicas_in_sync=1, scope=nullcontext)
    with (
        contextlib.suppress(Stopped, Killed),
        pytest.MonkeyPatch.context() as patch,
        Checkpoints(run, plan.keep) as checkpoints,
    ):
        patch.setattr(trainer, "_build_state", lambda start: World(plan, life, asked))
        recipe, newest = start_of_run._begin(
            run, plan.recipe, manifest, checkpoints, lease, plan.recipe.data.global_batch
        )
        order, group = SimpleNamespace(steps_per_epoch=PER_EPOCH), WorkerGroup(strategy)
        start = Start(recipe, run, None, manifest, order, None, None, None, group, checkpoints, lease, newest)
        best, _, _ = trainer._train_all(start, asked, lambda line, committed: None, 0.0, None)
        assert int(checkpoints.restore(best)[1]["done"]) == best
        return best
    return None


def require_true_commits(run: Bucket, plan: Plan) -> None:
    """Every commit says what is so of its step, names what is there, and can be pulled."""
    steps = committed(run.list())
    for step in steps:
        position = read_commit(run, step).position
        assert position.step == step
        # Only the newest one may wait for its validation, which the next process makes up for.
        epoch = step // PER_EPOCH * PER_EPOCH
        assert position.validated == epoch or (epoch == step == steps[-1] and position.validated == epoch - PER_EPOCH)
        assert (position.best_loss, position.best_step) == plan.best(position.validated)
        assert position.best_step in {None, *steps}
    for which in ("best", "last"):
        if steps and (which == "last" or read_commit(run, steps[-1]).position.validated):
            with tempfile.TemporaryDirectory() as place:
                pulled = pull(run, Folder(place), which)
                assert pulled.best == plan.best(read_commit(run, steps[-1]).position.validated)[1]
                assert pulled.step == (pulled.best if which == "best" else steps[-1])
                arrays = Checkpoints(Folder(place), plan.keep).restore(pulled.newest)[1]
                assert int(arrays["done"]) == pulled.newest


def undisturbed(plan: Plan) -> Position:
    with tempfile.TemporaryDirectory() as place:
        live(place, plan, Life())
        return read_commit(Folder(place), plan.steps).position


STEPS = st.integers(1, 4 * PER_EPOCH)
EPOCH_ENDS = STEPS.filter(lambda step: step % PER_EPOCH == 0)
STOPS = st.tuples(STEPS, st.just("step")) | st.tuples(EPOCH_ENDS, st.sampled_from(["step", "validation", "validated"]))
LIVES = st.lists(st.builds(Life, st.none() | STOPS, st.none() | st.integers(0, 60)), max_size=5)
PLANS = st.builds(
    Plan,
    st.lists(st.sampled_from([0.1, 0.2, 0.3, 0.4]), min_size=1, max_size=4).map(tuple),
    st.integers(1, 3),
    st.integers(0, 3),
)
BEST_IN_THE_MIDDLE, BEST_AT_THE_END = Plan((0.3, 0.1, 0.2), 2, 0), Plan((0.3, 0.2, 0.1), 2, 0)


@settings(deadline=None, max_examples=30)
@example(BEST_IN_THE_MIDDLE, [Life((2 * PER_EPOCH, "step"))])
@example(BEST_IN_THE_MIDDLE, [Life((2 * PER_EPOCH, "validation"))])
@example(BEST_AT_THE_END, [Life((3 * PER_EPOCH, "step")), Life((3 * PER_EPOCH, "validation"))])
@given(PLANS, LIVES)
def test_whatever_stops_and_kills_a_run_its_commits_say_what_is_so_and_it_ends_as_if_nothing_had(
    plan: Plan, lives: Sequence[Life]
) -> None:
    with tempfile.TemporaryDirectory() as place:
        run = Folder(place)
        for life in lives:
            live(place, plan, life)
            if run.exists("recipe.toml"):
                require_true_commits(run, plan)
        assert live(place, plan, Life()) == plan.best(plan.steps)[1]
        require_true_commits(run, plan)
        steps = committed(run.list())
        named = {read_commit(run, step).position.best_step for step in steps[-plan.keep :]}
        assert {*steps} == {*steps[-plan.keep :], *named} - {None}, "nothing more is kept"
        assert read_commit(run, plan.steps).position == undisturbed(plan)


@pytest.mark.parametrize("moment", ["step", "validation"])
@pytest.mark.parametrize("stopped", [2, 3])
def test_killed_at_each_change_after_a_stop_at_an_epochs_end_its_commits_say_what_is_so(
    tmp_path: Path, moment: str, stopped: int
) -> None:
    plan = BEST_IN_THE_MIDDLE
    for changes in itertools.count():
        place = str(tmp_path / str(changes))
        live(place, plan, Life((stopped * PER_EPOCH, moment)))
        ended = live(place, plan, Life(changes=changes))
        require_true_commits(Folder(place), plan)
        live(place, plan, Life())
        require_true_commits(Folder(place), plan)
        if ended:
            break


@pytest.fixture(params=["folder", "gs"])
def run(request: pytest.FixtureRequest, tmp_path: Path) -> Bucket:
    if request.param == "folder":
        return open_bucket(str(tmp_path / "run"))
    request.getfixturevalue("store")
    return open_bucket("gs://bucket/run", patience=6)


def unvalidated(run: Bucket, keep: int = 2) -> Checkpoints:
    """Checkpoints of a run whose epochs end at 10 and 20, of which the second is better and was stopped at its end."""
    begin(run)
    checkpoints = Checkpoints(run, keep)
    for position in (Position(10, 10, 0.3, 10, {}, "manifest"), Position(20, 10, 0.3, 10, {}, "manifest")):
        checkpoints.save(position, {"done": np.int64(position.step)}, {})
        checkpoints.wait()
    return checkpoints


VALIDATED = Position(20, 20, 0.1, 20, {}, "manifest")


def test_a_committed_step_with_another_position_gets_a_new_commit_and_keeps_its_state(run: Bucket) -> None:
    checkpoints = unvalidated(run)
    state = read_commit(run, 20).state
    checkpoints.save(VALIDATED, {"done": np.int64(20)}, {"metrics.jsonl": b"more\n"})
    checkpoints.wait()
    assert read_commit(run, 20).position == VALIDATED and read_commit(run, 20).state == state
    assert int(checkpoints.restore(20)[1]["done"]) == 20
    assert run.read("metrics.jsonl") == b"more\n"


def test_a_new_commit_does_not_replace_that_of_a_process_that_has_taken_the_run_over(
    store: FakeStore, tmp_path: Path
) -> None:
    theirs = Position(20, 20, 0.2, 20, {}, "manifest")

    class Overtaken(GoogleBucket):
        """In which another process takes the run over, and commits the step, before the new commit is there."""

        def swap(self, name: str, content: bytes, expected: Stat | None) -> Stat:
            if not overtaken and expected is not None:
                overtaken.append(name)
                other = Checkpoints(GoogleBucket(self.uri), 2)
                other.save(theirs, {"done": np.int64(20)}, {})
                other.wait()
            return super().swap(name, content, expected)

    def allowed() -> None:
        if overtaken:
            raise Killed("another process has the run")

    overtaken: list[str] = []
    run = Overtaken("gs://bucket/run", patience=6)
    unvalidated(run)
    checkpoints = Checkpoints(run, 2, allowed)
    checkpoints.save(VALIDATED, {"done": np.int64(20)}, {})
    with pytest.raises(Killed, match="another process has the run"):
        checkpoints.wait()
    assert overtaken and read_commit(run, 20).position == theirs


def test_an_earlier_versions_best_checkpoint_that_names_another_best_one_is_set_right_when_the_run_goes_on(
    run: Bucket, tmp_path: Path
) -> None:
    checkpoints = unvalidated(run, keep=1)
    for step in (30, 40):  # whose run has validated 20, but left its commit as it was
        checkpoints.save(Position(step, step, 0.1, 20, {}, "manifest"), {"done": np.int64(step)}, {})
        checkpoints.wait()
    assert checkpoints.steps() == [20, 40]
    checkpoints.let_best_say_so(40)
    assert read_commit(run, 20).position == VALIDATED
    assert pull(run, Folder(str(tmp_path / "pulled")), "best").step == 20


def test_a_commit_that_is_written_anew_during_the_pull_is_told_with_what_to_do(tmp_path: Path) -> None:
    class Resumed(Folder):
        """A run that makes up for a validation as soon as something of it is fetched."""

        def fetch(self, name: str, stat: Stat, path: Path, *tell: Any) -> None:
            checkpoints = Checkpoints(Folder(self.uri), 2)
            checkpoints.save(VALIDATED, {"done": np.int64(20)}, {})
            checkpoints.wait()
            super().fetch(name, stat, path, *tell)

    run, folder = Resumed(str(tmp_path / "run")), Folder(str(tmp_path / "pulled"))
    unvalidated(run)
    with pytest.raises(Exception, match=r"step-00000020/COMMITTED\.json: was written anew while .*; pull again"):
        pull(run, folder, "last")
    assert committed(folder.list()) == [10]
    assert pull(run, folder, "last").best == 20
