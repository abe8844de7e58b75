"""The manifests of infra/kuberay as `kubectl kustomize` renders them: fields that exist, and what people rely on."""

import copy
import re
import shlex
from collections.abc import Callable
from functools import cache
from typing import Any

import kubernetes_validate
import pytest
import yaml

from catdog.command.arguments import parse_command
from catdog.command.locations import require_uris
from catdog.recipe import Cache, Recipe, check_replicas, load_recipe
from job.command import Train
from tests.infra.kuberay_fields import cluster_spec, faults, pod_templates
from tests.infra.terraform import Terraform
from tests.infra.tools import ROOT, readme_command, run

KUBERAY = ROOT / "infra/kuberay"
CLUSTERS, JOBS = ["cpu", "gpu"], ["cpu-job", "gpu-job"]
OVERLAYS = [*CLUSTERS, *JOBS]
UNITS = {"": 1, "m": 1e-3, "Mi": 2**20, "Gi": 2**30}

Manifest = dict[str, Any]


@cache
def rendered(overlay: str) -> list[Manifest]:
    done = run("kubectl", "kustomize", KUBERAY / "overlays" / overlay)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    return list(yaml.safe_load_all(done.stdout))


def ray_object(overlay: str) -> Manifest:
    """The one RayCluster or RayJob that an overlay is about."""
    (found,) = (manifest for manifest in rendered(overlay) if manifest["apiVersion"] == "ray.io/v1")
    return copy.deepcopy(found)


def plain_objects(overlay: str) -> list[Manifest]:
    return copy.deepcopy([manifest for manifest in rendered(overlay) if manifest["apiVersion"] != "ray.io/v1"])


def check_plain(manifest: Manifest) -> None:
    kubernetes_validate.validate(manifest, kubernetes_validate.latest_version(), strict=True)


def check_ray(ray: Manifest) -> None:
    found = list(faults(ray, ray["kind"]))
    assert not found, found
    for name, template in pod_templates(ray).items():
        check_plain({"apiVersion": "v1", "kind": "PodTemplate", "metadata": {"name": name}, "template": template})


def containers(overlay: str) -> dict[str, Manifest]:
    """Every container that runs, by what its pod is for."""
    templates = pod_templates(ray_object(overlay)).items()
    return {name: container for name, template in templates for container in template["spec"]["containers"]}


def quantity(text: str) -> float:
    """A quantity of Kubernetes as a number."""
    match = re.fullmatch(r"([\d.]+)([A-Za-z]*)", text)
    assert match
    return float(match[1]) * UNITS[match[2]]


def volume(template: Manifest, name: str) -> Manifest:
    (found,) = (volume for volume in template["spec"]["volumes"] if volume["name"] == name)
    return dict(found)


def entrypoint(overlay: str) -> tuple[Train, Recipe]:
    """The command of a RayJob, parsed as `python -m job.train` does it, and the recipe that it comes to."""
    python, option, module, *words = shlex.split(ray_object(overlay)["spec"]["entrypoint"])
    assert (python, option, module) == ("python", "-m", "job.train")
    command = parse_command(Train, "train", "job.train", words)
    settings = [*command.settings, ("cluster.workers", command.workers), ("run.uri", command.run)]
    return command, load_recipe(ROOT / command.recipe, settings)


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_every_overlay_renders_one_ray_object_and_what_it_needs(overlay: str) -> None:
    kinds = sorted(manifest["kind"] for manifest in rendered(overlay))
    needed = ["Namespace", "NetworkPolicy", "PodDisruptionBudget", "ServiceAccount"]
    needed += ["RayJob" if overlay in JOBS else "RayCluster"]
    assert kinds == sorted(needed + ["PersistentVolumeClaim"] * overlay.startswith("cpu"))
    for manifest in rendered(overlay):
        assert manifest["kind"] == "Namespace" or manifest["metadata"]["namespace"] == "catdog"


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_all_fields_are_known_to_kubernetes_and_kuberay(overlay: str) -> None:
    for manifest in plain_objects(overlay):
        check_plain(manifest)
    check_ray(ray_object(overlay))


def misspell(manifest: Manifest, path: str, wrong: str) -> None:
    *parents, last = path.split(".")
    here: Any = manifest
    for part in parents:
        here = here[int(part)] if isinstance(here, list) else here[part]
    here[wrong] = here.pop(last)


@pytest.mark.parametrize(
    ("path", "wrong"),
    [
        ("spec.backoffLimit", "backofLimit"),
        ("spec.rayClusterSpec.authOptions.mode", "mod"),
        ("spec.rayClusterSpec.headGroupSpec.rayStartParams", "rayStartParam"),
        ("spec.rayClusterSpec.workerGroupSpecs.0.maxReplicas", "maxReplica"),
    ],
)
def test_a_misspelled_field_of_kuberay_is_found(path: str, wrong: str) -> None:
    ray = ray_object("gpu-job")
    misspell(ray, path, wrong)
    with pytest.raises(AssertionError, match=rf"\.{wrong}: is no field of .*, but {path.split('.')[-1]} is"):
        check_ray(ray)


@pytest.mark.parametrize(
    ("path", "wrong"),
    [
        ("headGroupSpec.template.spec.containers.0.readinessProbe", "readinesProbe"),
        ("workerGroupSpecs.0.template.spec.nodeSelector", "nodeSelectors"),
        ("autoscalerOptions.securityContext.readOnlyRootFilesystem", "readOnlyRootFileSystem"),
    ],
)
def test_a_misspelled_field_of_a_pod_is_found(path: str, wrong: str) -> None:
    ray = ray_object("gpu")
    misspell(ray["spec"], path, wrong)
    with pytest.raises(kubernetes_validate.ValidationError, match=wrong):
        check_ray(ray)


def test_a_misspelled_field_of_a_plain_object_is_found() -> None:
    (policy,) = (manifest for manifest in plain_objects("cpu") if manifest["kind"] == "NetworkPolicy")
    misspell(policy, "spec.policyTypes", "policyType")
    with pytest.raises(kubernetes_validate.ValidationError, match="policyType"):
        check_plain(policy)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda spec: spec.update(suspend="yes"), r"\.spec\.suspend: 'yes' is no boolean"),
        (lambda spec: spec["workerGroupSpecs"][0].update(minReplicas=True), "minReplicas: True is no integer"),
        (lambda spec: spec["authOptions"].update(mode="tokens"), "'tokens' is none of disabled|token"),
        (lambda spec: spec["headGroupSpec"]["rayStartParams"].update(port=6379), "port: 6379 is no string"),
        (lambda spec: spec.update(workerGroupSpecs={}), "workerGroupSpecs: {} is no list"),
        (lambda spec: spec["workerGroupSpecs"][0].pop("groupName"), r"workerGroupSpecs\.0: lacks groupName"),
    ],
)
def test_a_value_of_another_type_is_found(change: Callable[[Manifest], None], told: str) -> None:
    ray = ray_object("cpu")
    change(ray["spec"])
    assert re.search(told, "\n".join(faults(ray, "RayCluster")))


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_everything_runs_from_one_image(overlay: str) -> None:
    (image,) = {container["image"] for container in containers(overlay).values()}
    named = {"cpu": "catdog:cpu", "gpu": "IMAGE:TAG"}
    assert image == named[overlay.removesuffix("-job")]


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_nothing_runs_as_root_or_writes_to_its_image(overlay: str) -> None:
    for template in pod_templates(ray_object(overlay)).values():
        pod = template["spec"]["securityContext"]
        assert pod["runAsNonRoot"] and pod["runAsUser"] == 10001 and pod["seccompProfile"] == {"type": "RuntimeDefault"}
    for container in containers(overlay).values():
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }
        assert "/tmp" in {mount["mountPath"] for mount in container["volumeMounts"]}
    (namespace,) = (manifest for manifest in rendered(overlay) if manifest["kind"] == "Namespace")
    assert namespace["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] == "restricted"


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_the_autoscaler_alone_brings_a_token_of_kubernetes_into_its_pod(overlay: str) -> None:
    accounts = [manifest for manifest in rendered(overlay) if manifest["kind"] == "ServiceAccount"]
    assert [account["automountServiceAccountToken"] for account in accounts] == [False]
    for name, template in pod_templates(ray_object(overlay)).items():
        assert template["spec"].get("automountServiceAccountToken", False) == (name in ("head", "autoscaler"))
        assert template["spec"].get("serviceAccountName", "catdog") == "catdog"


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_every_container_says_what_it_needs_and_may_take(overlay: str) -> None:
    for container in containers(overlay).values():
        requests, limits = container["resources"]["requests"], container["resources"]["limits"]
        for resource in ("cpu", "memory"):
            assert 0 < quantity(requests[resource]) <= quantity(limits[resource])
        assert requests.get("nvidia.com/gpu") == limits.get("nvidia.com/gpu")


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_only_who_has_the_token_gets_at_ray(overlay: str) -> None:
    cluster = cluster_spec(ray_object(overlay))
    assert cluster["authOptions"] == {"mode": "token"}
    head = cluster["headGroupSpec"]
    assert not {"enableIngress", "ingressOptions", "serviceType", "headService"} & head.keys()
    (policy,) = (manifest for manifest in rendered(overlay) if manifest["kind"] == "NetworkPolicy")
    assert policy["spec"]["podSelector"] == {} and policy["spec"]["policyTypes"] == ["Ingress"]
    assert all(source.get("podSelector") for rule in policy["spec"]["ingress"] for source in rule["from"])


@pytest.mark.parametrize("overlay", JOBS)
def test_the_network_policy_lets_the_submitter_through(overlay: str) -> None:
    (policy,) = (manifest for manifest in rendered(overlay) if manifest["kind"] == "NetworkPolicy")
    labels = pod_templates(ray_object(overlay))["submitter"]["metadata"]["labels"]
    assert {"podSelector": {"matchLabels": labels}} in policy["spec"]["ingress"][1]["from"]


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_the_cache_of_shards_fits_into_its_volume(overlay: str) -> None:
    limit = Cache().max_bytes if overlay in CLUSTERS else entrypoint(overlay)[1].cache.max_bytes
    templates = pod_templates(ray_object(overlay))
    for name in ("head", "workers"):
        assert quantity(volume(templates[name], "cache")["emptyDir"]["sizeLimit"]) >= limit


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_rays_object_store_fits_into_shared_memory(overlay: str) -> None:
    cluster, templates = cluster_spec(ray_object(overlay)), pod_templates(ray_object(overlay))
    groups = {"head": cluster["headGroupSpec"], "workers": cluster["workerGroupSpecs"][0]}
    for name, group in groups.items():
        shared = volume(templates[name], "shm")["emptyDir"]
        assert shared["medium"] == "Memory"
        assert int(group["rayStartParams"]["object-store-memory"]) < quantity(shared["sizeLimit"])


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_each_node_says_how_it_is_and_leaves_in_time(overlay: str) -> None:
    for name in ("head", "workers"):
        container = containers(overlay)[name]
        for probe, command in (("readinessProbe", "ready"), ("livenessProbe", "alive")):
            assert container[probe]["exec"]["command"] == ["python", "-m", "job.node", command]
        leave = container["lifecycle"]["preStop"]["exec"]["command"]
        assert leave[:-1] == ["python", "-m", "job.node", "leave", "--within"]
        grace = pod_templates(ray_object(overlay))[name]["spec"]["terminationGracePeriodSeconds"]
        assert int(leave[-1]) + 30 <= grace  # Ray itself takes up to 30 seconds to end


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_the_head_carries_no_workers_and_notices_soon_when_one_is_gone(overlay: str) -> None:
    assert cluster_spec(ray_object(overlay))["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0"
    environment = {each["name"]: each["value"] for each in containers(overlay)["head"]["env"]}
    told = re.findall(r"(RAY_health_check_\w+)=(\d+)", (ROOT / "job" / "README.md").read_text())
    assert told and dict(told).items() <= environment.items()


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_the_version_of_ray_is_the_one_that_is_installed(overlay: str) -> None:
    version = cluster_spec(ray_object(overlay))["rayVersion"]
    for lock in ("requirements.lock", "requirements-gpu.lock"):
        assert f"\nray=={version} " in (ROOT / lock).read_text()


@pytest.mark.parametrize("cluster", CLUSTERS)
def test_a_job_has_the_cluster_of_its_overlay(cluster: str) -> None:
    assert cluster_spec(ray_object(f"{cluster}-job")) == cluster_spec(ray_object(cluster))


@pytest.mark.parametrize("overlay", JOBS)
def test_a_jobs_command_is_one_that_catdog_takes_and_the_cluster_has_room_for(overlay: str) -> None:
    command, recipe = entrypoint(overlay)
    assert (ROOT / command.recipe).is_relative_to(ROOT / "job/recipes")
    require_uris(recipe)
    (group,) = cluster_spec(ray_object(overlay))["workerGroupSpecs"]
    fewest, most = recipe.cluster.bounds
    assert fewest == 1 and most == group["maxReplicas"]
    gpus = int(containers(overlay)["workers"]["resources"]["limits"].get("nvidia.com/gpu", "0"))
    assert max(recipe.cluster.gpus, 0) == gpus
    for workers in range(fewest, most + 1):
        check_replicas(recipe, workers * max(gpus, 1))


@pytest.mark.parametrize("overlay", ["cpu", "cpu-job"])
def test_data_and_run_of_the_small_cluster_lie_in_the_volume_that_its_nodes_share(overlay: str) -> None:
    for name in ("head", "workers"):
        claim = volume(pod_templates(ray_object(overlay))[name], "bucket")["persistentVolumeClaim"]["claimName"]
        assert {"PersistentVolumeClaim", claim} <= {
            text for manifest in rendered(overlay) for text in (manifest["kind"], manifest["metadata"]["name"])
        }
        (mount,) = (each for each in containers(overlay)[name]["volumeMounts"] if each["name"] == "bucket")
        recipe = entrypoint("cpu-job")[1]
        for uri in (recipe.data.uri, recipe.run.uri):
            assert uri.startswith(f"{mount['mountPath']}/")


@pytest.mark.parametrize("overlay", ["gpu", "gpu-job"])
def test_workers_with_gpus_go_to_spot_hosts_that_have_them(overlay: str) -> None:
    (group,) = cluster_spec(ray_object(overlay))["workerGroupSpecs"]
    pod = group["template"]["spec"]
    terraform = Terraform(ROOT / "infra" / "gcp")
    (nodes,) = terraform.typed("resource")["google_container_node_pool.gpu"]["node_config"]
    (gpu,) = nodes["guest_accelerator"]
    assert nodes["spot"] and pod["nodeSelector"] == {
        "cloud.google.com/gke-accelerator": gpu["type"],
        "cloud.google.com/gke-spot": "true",
    }
    assert {each["key"] for each in pod["tolerations"]} == {"nvidia.com/gpu"}
    assert pod["containers"][0]["resources"]["limits"]["nvidia.com/gpu"] == str(gpu["count"])
    assert group["maxReplicas"] == terraform.labelled("variable")["gpu_nodes"]["default"]
    assert "nodeSelector" not in pod_templates(ray_object(overlay))["head"]["spec"]


@pytest.mark.parametrize("overlay", ["gpu", "gpu-job"])
def test_the_readme_puts_image_and_bucket_in(overlay: str) -> None:
    command = readme_command("kubectl kustomize", f"overlays/{overlay} ").removesuffix(" | kubectl apply -f -")
    done = run("env", "IMAGE=host/image", "TAG=t", "BUCKET=b", "bash", "-euc", f"cd {ROOT}; {command}")
    assert done.returncode == 0 and "image: host/image:t-gpu" in done.stdout
    assert not re.search("IMAGE|TAG|BUCKET", done.stdout)


@pytest.mark.parametrize("overlay", JOBS)
def test_a_job_that_is_over_leaves_no_cluster_behind_and_a_failed_one_goes_on(overlay: str) -> None:
    spec = ray_object(overlay)["spec"]
    assert spec["shutdownAfterJobFinishes"] and spec["ttlSecondsAfterFinished"] <= 300 and spec["backoffLimit"] > 0
