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


def test_the_plan_of_gpus_that_are_not_here_needs_to_be_told_of_their_speed(
    light_recipe: Path, light_backbone: None, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.run(["plan", str(light_recipe), "--gpus", "2"]) == 2
    assert "give --images-per-s" in capsys.readouterr().err
    words = ["plan", str(light_recipe), "--hosts", "1,2", "--gpus", "2", "--images-per-s", "1000", "--price", "3.6"]
    assert cli.run(words) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split()[:3] == ["hosts", "phase", "steps"]
    assert [line.split()[:3] for line in lines[1:5]] == [
        [count, phase, "20"] for count in "12" for phase in ("frozen", "finetune")
    ]
    assert lines[5].split()[-1] == "cost" and len(lines) == 8
