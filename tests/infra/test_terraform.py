"""What can be known of the Terraform in infra/gcp without an account; each check is shown to catch a mistake."""

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest

from catdog.runs.folder import commit_name, state_name
from tests.infra.terraform import Block, Terraform, parsed
from tests.infra.tools import ROOT, run, with_mistake

GCP = ROOT / "infra" / "gcp"
EXAMPLE = "terraform.tfvars.example"


@pytest.fixture
def gcp(tmp_path: Path) -> Path:
    """A copy of the folder to make mistakes in."""
    return Path(shutil.copytree(GCP, tmp_path / "gcp"))


@pytest.fixture(scope="module")
def ours() -> Terraform:
    return Terraform(GCP)


def test_terraform_is_formatted() -> None:
    done = run("terraform", "fmt", "-check", "-diff", GCP)
    assert done.returncode == 0, done.stdout + done.stderr


def test_what_terraform_would_write_otherwise_is_caught(gcp: Path) -> None:
    with_mistake(GCP / "bucket.tf", gcp, "versioning {", "versioning   {")
    assert "bucket.tf" in run("terraform", "fmt", "-check", gcp).stdout


def test_every_variable_is_used_and_every_reference_leads_somewhere(ours: Terraform) -> None:
    assert ours.faults() == []


@pytest.mark.parametrize(
    ("file", "old", "new", "fault"),
    [
        ("bucket.tf", "var.protected", "var.protect", "var.protect is not declared"),
        ("nodes.tf", "var.gpu_nodes", "4", "var.gpu_nodes is not used"),
        ("network.tf", "local.region", "local.regoin", "local.regoin is not declared"),
        ("nodes.tf", "google_container_cluster.catdog", "google_container_cluster.dogcat", "dogcat is not declared"),
        ("workload_identity.tf", "data.google_project.this", "data.google_project.that", "that is not declared"),
    ],
)
def test_a_name_that_does_not_fit_is_caught(gcp: Path, file: str, old: str, new: str, fault: str) -> None:
    with_mistake(GCP / file, gcp, old, new)
    assert any(fault in found for found in Terraform(gcp).faults())


def test_what_cannot_be_parsed_is_caught(gcp: Path) -> None:
    with_mistake(GCP / "bucket.tf", gcp, "lifecycle_rule {", "lifecycle_rule")
    with pytest.raises(AssertionError, match=r"bucket\.tf"):
        Terraform(gcp)


def test_every_variable_and_output_says_what_it_is(ours: Terraform) -> None:
    for name, body in {**ours.labelled("variable"), **ours.labelled("output")}.items():
        assert body.get("description"), name
    for name, body in ours.labelled("variable").items():
        assert "type" in body, name


def example_faults(folder: Path, terraform: Terraform) -> list[str]:
    """Variables that the example sets or mentions but nothing declares, and those that it would have to set."""
    declared = terraform.labelled("variable").keys()
    mentioned = set(re.findall(r"^(?:# )?(\w+) *= ", (folder / EXAMPLE).read_text(), re.MULTILINE))
    unset = terraform.required() - parsed(folder / EXAMPLE).keys()
    return [f"{name} is not declared" for name in mentioned - declared] + [f"{name} is not set" for name in unset]


def test_the_example_sets_what_has_no_default_and_nothing_else(ours: Terraform) -> None:
    assert example_faults(GCP, ours) == []


@pytest.mark.parametrize(
    ("old", "new", "fault"),
    [("people ", "poeple ", "poeple is not declared"), ("bucket ", "# bucket ", "bucket is not set")],
)
def test_an_example_that_would_not_do_is_caught(gcp: Path, ours: Terraform, old: str, new: str, fault: str) -> None:
    with_mistake(GCP / EXAMPLE, gcp, old, new)
    assert example_faults(gcp, ours) == [fault]


def deleted(names: list[str], terraform: Terraform) -> list[str]:
    """Those of some objects of the bucket that one of its lifecycle rules will delete one day."""
    rules = terraform.typed("resource")["google_storage_bucket.catdog"]["lifecycle_rule"]
    conditions = [rule["condition"][0] for rule in rules if rule["action"][0]["type"] == "Delete"]
    assert conditions
    return [name for name in names if any(_matches(name, condition) for condition in conditions)]


def _matches(name: str, condition: Block) -> bool:
    """As the store has it: a condition that is not given holds of every object."""
    prefixes, suffixes = condition.get("matches_prefix", [""]), condition.get("matches_suffix", [""])
    return name.startswith(tuple(prefixes)) and name.endswith(tuple(suffixes))


KEPT = [f"runs/photos/{name}" for name in (state_name(100), commit_name(100), "recipe.toml", "model.keras")]
KEPT += [f"photos/{state_name(100)}", commit_name(100), "data/photos/manifest.json"]


def test_no_rule_deletes_a_checkpoint_or_data(ours: Terraform) -> None:
    assert deleted([*KEPT, "tmp/source/1.tgz"], ours) == ["tmp/source/1.tgz"]


@pytest.mark.parametrize("new", ["", 'matches_suffix = ["state.npz"]', 'matches_prefix = ["tmp/", "runs/"]'])
def test_a_rule_that_could_delete_a_checkpoint_is_caught(gcp: Path, new: str) -> None:
    with_mistake(GCP / "bucket.tf", gcp, 'matches_prefix = ["tmp/"]', new)
    assert state_name(100) in " ".join(deleted(KEPT, Terraform(gcp)))


def checkov(folder: Path) -> Any:
    done = run("checkov", "--directory", folder, "--framework", "terraform", "--skip-download", "--output", "json")
    return json.loads(done.stdout)["results"]


def test_checkov_finds_nothing_but_what_is_excepted_with_a_reason() -> None:
    results = checkov(GCP)
    assert [f"{check['check_id']} {check['resource']}" for check in results["failed_checks"]] == []
    assert results["passed_checks"]
    assert results["parsing_errors"] == []
    reasons = [check["check_result"]["suppress_comment"].strip() for check in results["skipped_checks"]]
    written = re.findall(r"checkov:skip=\w+:(.+)", "\n".join(file.read_text() for file in GCP.glob("*.tf")))
    assert sorted(reasons) == sorted(written), "an exception without a reason, or one that excepts nothing"


def test_checkov_catches_a_bucket_that_may_be_public(gcp: Path) -> None:
    with_mistake(GCP / "bucket.tf", gcp, '"enforced"', '"inherited"')
    assert "CKV_GCP_114" in {check["check_id"] for check in checkov(gcp)["failed_checks"]}
