"""The fields that KubeRay 1.7 publishes for RayCluster and RayJob, and what in an object does not agree with them.

Pods and their parts are Kubernetes' own: `pod_templates` finds them, for whoever knows its fields.
"""

import difflib
from collections.abc import Iterator, Mapping
from typing import Any

# A type is the name of a table, or in SCALARS, or "A|B" for one of these words; "[T]" is a list of T, and "{T}" a
# mapping to T; of an "object" nothing is known here.
SCALARS: Mapping[str, tuple[type, ...]] = {
    "string": (str,),
    "boolean": (bool,),
    "integer": (int,),
    "number": (int, float),
    "object": (dict,),
}
TABLES: Mapping[str, Mapping[str, str]] = {
    "RayCluster": {"apiVersion": "string", "kind": "string", "metadata": "object", "spec": "RayClusterSpec"},
    "RayJob": {"apiVersion": "string", "kind": "string", "metadata": "object", "spec": "RayJobSpec"},
    "RayClusterSpec": {
        "authOptions": "AuthOptions",
        "autoscalerOptions": "AutoscalerOptions",
        "enableInTreeAutoscaling": "boolean",
        "gcsFaultToleranceOptions": "object",
        "headGroupSpec": "HeadGroupSpec",
        "headServiceAnnotations": "{string}",
        "historyServerOptions": "object",
        "managedBy": "string",
        "networkPolicy": "object",
        "rayVersion": "string",
        "suspend": "boolean",
        "tlsOptions": "object",
        "upgradeStrategy": "object",
        "workerGroupSpecs": "[WorkerGroupSpec]",
    },
    "AuthOptions": {"enableK8sTokenAuth": "boolean", "mode": "disabled|token", "secretName": "string"},
    "AutoscalerOptions": {
        "args": "[string]",
        "command": "[string]",
        "env": "[object]",
        "envFrom": "[object]",
        "idleTimeoutSeconds": "integer",
        "image": "string",
        "imagePullPolicy": "Always|IfNotPresent|Never",
        "resources": "object",
        "securityContext": "object",
        "upscalingMode": "Aggressive|Conservative|Default",
        "version": "v1|v2",
        "volumeMounts": "[object]",
    },
    "HeadGroupSpec": {
        "enableIngress": "boolean",
        "headService": "object",
        "ingressOptions": "object",
        "labels": "{string}",
        "rayStartParams": "{string}",
        "resources": "{string}",
        "serviceType": "ClusterIP|LoadBalancer|NodePort",
        "template": "object",
    },
    "WorkerGroupSpec": {
        "groupName": "string",
        "idleTimeoutSeconds": "integer",
        "labels": "{string}",
        "maxReplicas": "integer",
        "minReplicas": "integer",
        "numOfHosts": "integer",
        "priority": "integer",
        "rayStartParams": "{string}",
        "replicas": "integer",
        "resources": "{string}",
        "scaleStrategy": "object",
        "suspend": "boolean",
        "template": "object",
    },
    "RayJobSpec": {
        "activeDeadlineSeconds": "integer",
        "backoffLimit": "integer",
        "clusterSelector": "{string}",
        "deletionStrategy": "object",
        "entrypoint": "string",
        "entrypointNumCpus": "number",
        "entrypointNumGpus": "number",
        "entrypointResources": "string",
        "jobId": "string",
        "managedBy": "string",
        "metadata": "{string}",
        "preRunningDeadlineSeconds": "integer",
        "rayClusterSpec": "RayClusterSpec",
        "runtimeEnvYAML": "string",
        "shutdownAfterJobFinishes": "boolean",
        "submissionMode": "HTTPMode|InteractiveMode|K8sJobMode|SidecarMode",
        "submitterConfig": "SubmitterConfig",
        "submitterPodTemplate": "object",
        "suspend": "boolean",
        "ttlSecondsAfterFinished": "integer",
    },
    "SubmitterConfig": {"backoffLimit": "integer"},
}
REQUIRED: Mapping[str, tuple[str, ...]] = {
    "RayClusterSpec": ("headGroupSpec",),
    "HeadGroupSpec": ("template",),
    "WorkerGroupSpec": ("groupName", "template"),
}


def faults(value: Any, kind: str, path: str = "") -> Iterator[str]:
    """What is wrong with a value of a type, each with the path at which it stands."""
    if kind in TABLES:
        yield from _table_faults(value, kind, path)
    elif kind in SCALARS:
        if not isinstance(value, SCALARS[kind]) or (isinstance(value, bool) and kind != "boolean"):
            yield f"{path}: {value!r} is no {kind}"
    elif kind.startswith("["):
        if not isinstance(value, list):
            yield f"{path}: {value!r} is no list"
            return
        for index, item in enumerate(value):
            yield from faults(item, kind[1:-1], f"{path}.{index}")
    elif kind.startswith("{"):
        if not isinstance(value, dict):
            yield f"{path}: {value!r} is no mapping"
            return
        for name, item in value.items():
            yield from faults(item, kind[1:-1], f"{path}.{name}")
    elif value not in kind.split("|"):
        yield f"{path}: {value!r} is none of {kind}"


def _table_faults(value: Any, kind: str, path: str) -> Iterator[str]:
    if not isinstance(value, dict):
        yield f"{path}: {value!r} is no {kind}"
        return
    known = TABLES[kind]
    for name, item in value.items():
        if name in known:
            yield from faults(item, known[name], f"{path}.{name}")
        else:
            near = difflib.get_close_matches(name, known, 1)
            yield f"{path}.{name}: is no field of {kind}{f', but {near[0]} is' if near else ''}"
    for name in REQUIRED.get(kind, ()):
        if name not in value:
            yield f"{path}: lacks {name}"


def cluster_spec(ray: Mapping[str, Any]) -> dict[str, Any]:
    """The spec of the cluster that a RayCluster is, or that a RayJob starts."""
    spec = ray["spec"] if ray["kind"] == "RayCluster" else ray["spec"]["rayClusterSpec"]
    assert isinstance(spec, dict)
    return spec


def pod_templates(ray: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """The pod templates of a RayCluster or RayJob by what they are for.

    The autoscaler's is that of the head with the container that KubeRay adds to it.
    """
    cluster = cluster_spec(ray)
    head = cluster["headGroupSpec"]["template"]
    parts = ("image", "imagePullPolicy", "resources", "securityContext", "env", "envFrom", "volumeMounts")
    options = {name: part for name, part in cluster["autoscalerOptions"].items() if name in parts}
    autoscaler = {"name": "autoscaler", "image": head["spec"]["containers"][0]["image"], **options}
    templates = {"head": head, "autoscaler": head | {"spec": head["spec"] | {"containers": [autoscaler]}}}
    templates |= {group["groupName"]: group["template"] for group in cluster["workerGroupSpecs"]}
    if ray["kind"] == "RayJob":
        templates["submitter"] = ray["spec"]["submitterPodTemplate"]
    return templates
