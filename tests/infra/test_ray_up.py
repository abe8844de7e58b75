"""What can be known of infra/ray-gcp.yaml without an account; each check is shown to catch a mistake."""

import copy
import re
from pathlib import Path

import pytest
import yaml

from tests.infra.terraform import Block, Terraform
from tests.infra.tools import ROOT, readme_command, run, with_mistake

RAY = ROOT / "infra" / "ray-gcp.yaml"


@pytest.fixture
def launcher() -> Block:
    config: Block = yaml.safe_load(RAY.read_text())
    return config


def prepared(config: Block) -> Block:
    """What `ray up` makes of its file before it asks anything of Google; raises for what it refuses."""
    from ray.autoscaler._private.util import prepare_config, validate_config

    full: Block = prepare_config(copy.deepcopy(config))
    validate_config(full)
    return full


def launcher_faults(config: Block) -> list[str]:
    """Ways in that should not be there, and what Ray would do by default but must not."""
    full = prepared(config)
    docker = full["docker"]
    faults = [
        f"{name} has an address on the internet"
        for name, node in full["available_node_types"].items()
        if any(
            "accessConfigs" in interface
            for interface in node["node_config"].get("networkInterfaces", [{"accessConfigs": []}])
        )
    ]
    for kind in "head", "worker":
        options = [*docker.get("run_options", []), *docker.get(f"{kind}_run_options", [])]
        if "--env=RAY_AUTH_MODE=token" not in options:
            faults.append(f"{kind} asks for no token")
        if full[f"{kind}_setup_commands"]:
            faults.append(f"{kind} installs something in the image")
    if not any("--dashboard-host=127.0.0.1" in command for command in full["head_start_ray_commands"]):
        faults.append("the dashboard listens to others")
    return faults


def test_ray_takes_the_launchers_file_and_nobody_gets_in_but_by_ssh(launcher: Block) -> None:
    assert launcher_faults(launcher) == []


def test_a_misspelled_field_of_the_launcher_is_caught(launcher: Block) -> None:
    from jsonschema import ValidationError

    launcher["idle_timeout_minute"] = launcher.pop("idle_timeout_minutes")
    with pytest.raises(ValidationError, match="idle_timeout_minute"):
        prepared(launcher)


def test_a_launcher_that_lets_others_in_is_caught(launcher: Block) -> None:
    launcher["available_node_types"]["gpu"]["node_config"].pop("networkInterfaces")
    launcher["docker"]["run_options"].remove("--env=RAY_AUTH_MODE=token")
    launcher.pop("head_setup_commands")
    launcher["head_start_ray_commands"][1] = "ray start --head --dashboard-host=0.0.0.0"
    assert launcher_faults(launcher) == [
        "gpu has an address on the internet",
        "head asks for no token",
        "head installs something in the image",
        "worker asks for no token",
        "the dashboard listens to others",
    ]


def test_the_launcher_names_what_terraform_makes(launcher: Block) -> None:
    resources = Terraform(ROOT / "infra" / "gcp").typed("resource")
    accounts = {f"catdog-{name}@PROJECT.iam.gserviceaccount.com" for name in ("head", "worker")}
    nodes = [node["node_config"] for node in launcher["available_node_types"].values()]
    assert {node["serviceAccounts"][0]["email"] for node in nodes} == accounts
    assert resources["google_service_account.ray"]["account_id"] == "catdog-${each.key}"
    for node in nodes:
        assert node["tags"]["items"] == resources["google_compute_firewall.ray_ssh"]["target_tags"]
        subnet = resources["google_compute_subnetwork.catdog"]["name"]
        assert node["networkInterfaces"][0]["subnetwork"].endswith(f"/subnetworks/{subnet}")


VALUES = {"PROJECT": "p", "REGION": "r", "ZONE": "z", "IMAGE": "host/image", "TAG": "t"}


def left(path: Path) -> set[str]:
    """Placeholders that the README's command would leave in the copy that is given to `ray up`."""
    command = readme_command("sed", "infra/ray-gcp.yaml").split(" > ")[0].replace("infra/ray-gcp.yaml", str(path))
    done = run("env", *(f"{name}={value}" for name, value in VALUES.items()), "bash", "-euc", command)
    assert done.returncode == 0 and "image: host/image:t-gpu" in done.stdout
    return set(re.findall(rf"\b(?:{'|'.join(VALUES)})\b", done.stdout))


def test_the_readme_puts_something_in_for_each_placeholder() -> None:
    assert left(RAY) == set()


def test_a_placeholder_that_stays_is_caught(tmp_path: Path) -> None:
    assert left(with_mistake(RAY, tmp_path, "IMAGE:TAG-head", "IMAGE-TAG-head")) == {"IMAGE", "TAG"}
