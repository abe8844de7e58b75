"""A recipe planned from what this machine takes for it."""

from pathlib import Path

import pytest

from catdog import cli
from catdog.planning.compare import compare
from catdog.planning.options import PlanOptions
from catdog.recipe import Recipe, load_recipe


@pytest.fixture
def recipe(light_recipe: Path, light_backbone: None) -> Recipe:
    return load_recipe(light_recipe, [("phases.0.views", "1"), ("phases.1.views", "1")])


def test_a_plan_knows_the_steps_of_the_run_and_its_stored_outputs(recipe: Recipe) -> None:
    told: list[str] = []
    plans, refused = compare(recipe, PlanOptions(hosts=(1, 2, 5), gpus=0, cpus=2.0), told.append)
    assert [plan.hosts.count for plan in plans] == [1, 2]
    assert refused == ["5 hosts: data.streams = 4: must be at least the number of replicas, 5"]
    one, two = plans
    assert [(phase.name, phase.steps) for phase in one.phases] == [("frozen", 20), ("finetune", 20)]
    # 160 pictures to train on and 20 to validate on; of its only block that is trained, what goes in is the picture.
    assert one.disk == 2 * 180 * (4 + 32 * 32 * 3)
    assert one.read == 0, "a folder's shards are read where they lie"
    for phase in one.phases:
        assert phase.parts["start"] > 0 and phase.parts["compute"] > 0 and phase.parts["decoding"] > 0
        assert phase.parts["exchange"] == 0
    assert all(phase.parts["exchange"] > 0 for phase in two.phases)
    assert len(told) == 3


@pytest.mark.parametrize(
    "settings",
    [
        {"optimizer.accumulate": "3", "data.global_batch": "24"},
        {"augment.mixup": "0.2", "data.streams": "2"},
        {"model.weights": "none", "phases.0.unfreeze": "all", "phases.1.unfreeze": "all"},
        {"data.global_batch": "4"},
    ],
    ids=["accumulate", "MixUp", "from scratch", "a row a stream"],
)
def test_a_step_is_measured_in_parts_that_the_recipe_can_be_cut_into(
    light_recipe: Path, light_backbone: None, settings: dict[str, str]
) -> None:
    ours = load_recipe(light_recipe, [*settings.items()])
    plans, _ = compare(ours, PlanOptions(gpus=0), lambda line: None)
    assert all(phase.parts["compute"] > 0 for phase in plans[0].phases)


def test_the_plan_of_gpus_that_are_not_here_needs_to_be_told_of_their_speed(
    light_recipe: Path, light_backbone: None, capsys: pytest.CaptureFixture[str]
) -> None:
    for words, told in (
        (["--gpus", "2"], "give --images-per-s"),
        (["--gpus", "2", "--images-per-s", "9", "--run.strategy", "cpu:2"], "run.strategy = 'cpu:2' trains on no GPU"),
        (["--gpus", "0", "--hosts", "5,6"], "5 hosts: data.streams = 4"),
        (["--gpus", "x"], "--gpus 'x': must be a whole number"),
        (["--price", "x"], "--price 'x': must be a number"),
        (["--data.uri", ""], "data.uri is empty: name its place with --data.uri"),
    ):
        assert cli.run(["plan", str(light_recipe), *words]) == 2
        out, err = capsys.readouterr()
        assert told in err and err.count("\n") == 1 and out == ""
    words = ["plan", str(light_recipe), "--hosts", "1,2", "--gpus", "2", "--images-per-s", "1000", "--price", "3.6"]
    assert cli.run(words) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split()[:3] == ["hosts", "phase", "steps"]
    assert [line.split()[:3] for line in lines[1:5]] == [
        [count, phase, "20"] for count in "12" for phase in ("frozen", "finetune")
    ]
    assert lines[5].split()[-1] == "cost" and len(lines) == 8
