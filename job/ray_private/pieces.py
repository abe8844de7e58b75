"""The private pieces of Ray's Python code, and the check that they are there. Ray is imported when a piece is asked for."""

import importlib
from collections.abc import Iterable
from typing import Any, NamedTuple

from catdog.errors import FinalError
from job.ray_private import names

VERSION = "2.60"
"""The version of Ray that catdog is written for; a cluster must have this one or a newer one."""


class Piece(NamedTuple):
    """A name in a module of Ray's, dotted if it is one of a class; `value` is what a constant must be."""

    module: str
    name: str
    purpose: str
    """What it is needed to do."""
    value: str | None = None

    def get(self) -> Any:
        """The object itself; raises ImportError or AttributeError if Ray has it no longer."""
        found: Any = importlib.import_module(self.module)
        for part in self.name.split("."):
            found = getattr(found, part)
        return found

    def of(self, owner: Any) -> Any:
        """The attribute of this name of an object that Ray has given."""
        return getattr(owner, self.name.rpartition(".")[2])


_TRAIN, _STATE = "ray.train.v2._internal", "ray._private.state"
_COORDINATOR = "ray.data._internal.cluster_autoscaler.default_autoscaling_coordinator"

AUTOSCALING_COORDINATOR = Piece(_COORDINATOR, "DefaultAutoscalingCoordinator", "ask an autoscaler for more workers")
"""The public `ray.autoscaler.sdk.request_resources` replaces what other jobs have asked for."""

FREE_BY_NODE = Piece(_STATE, "available_resources_per_node", "count the workers that there is room for")
"""The public `ray.available_resources` adds up all hosts, and a worker must fit on one."""

DRAINING_NODES = Piece(_STATE, "state.get_draining_nodes", "tell hosts that are about to be taken away")
"""The public `ray.nodes` does not tell; `ray.train.get_preemption_info` waits for all workers, which are at other steps."""

GCS_CLIENT = Piece("ray._raylet", "GcsClient", "tell a cluster that a host is about to be taken away")
DRAIN_REASON = Piece("ray.core.generated.autoscaler_pb2", "DrainNodeReason", "say why a host is about to be taken away")
"""Nothing public does this; the command `ray drain-node` is hidden."""

TRAINER = Piece("ray.train.v2.api.data_parallel_trainer", "DataParallelTrainer", "start workers")
"""The public TensorflowTrainer imports TensorFlow in the driver; `ray.train.data_parallel_trainer` is of the old version."""

TRAIN_ERROR = Piece(f"{_TRAIN}.exceptions", "RayTrainError", "tell a worker that has died from one that has failed")
START_TIMED_OUT = Piece(f"{_TRAIN}.exceptions", "WorkerGroupStartupTimeoutError", "wait for room on the cluster")
"""The public WorkerGroupError and ControllerError only carry these."""

ON_ONE_WORKER = Piece(
    "ray.train._internal.base_worker_group", "BaseWorkerGroup.execute_single_async", "tell each worker its own index"
)
"""The public Backend.on_start is given a group of workers whose class is private."""

ON_MAIN_THREAD = Piece(
    f"{_TRAIN}.execution.worker_group.worker", "RayTrainWorker.execute", "handle signals on a worker's main thread"
)
"""Ray Train runs the training in a thread, and has no public way to the main one, which alone may handle signals."""

RUN_PATH = Piece(f"{_TRAIN}.execution.storage", "StorageContext.experiment_fs_path", "tell Ray Train of a checkpoint")
"""The public `get_context().get_storage()` gives an object whose class is private."""

REQUEST = Piece("ray.job_submission", "JobSubmissionClient._do_request", "end a request that nothing answers")
REQUIRE_VERSION = Piece(
    "ray.job_submission", "JobSubmissionClient._check_connection_and_version", "tell the version of a cluster"
)
"""The public client has no timeout, and asks only for Ray 2.0."""

TOKEN_HEADERS = Piece(
    "ray._private.authentication.http_token_authentication", "get_auth_headers_if_auth_enabled", "follow a job's log"
)
"""The public client keeps them to itself, and its own `tail_job_logs` has no heartbeat."""

_PRINTED, _COUNTED = "have the lines of workers as they are", "decide when workers are started again"

CLUSTER = (
    AUTOSCALING_COORDINATOR,
    AUTOSCALING_COORDINATOR._replace(name=f"{AUTOSCALING_COORDINATOR.name}.request_resources"),
    AUTOSCALING_COORDINATOR._replace(name=f"{AUTOSCALING_COORDINATOR.name}.cancel_request"),
    FREE_BY_NODE,
    DRAINING_NODES,
    GCS_CLIENT,
    GCS_CLIENT._replace(name="InnerGcsClient.drain_node"),  # to which it passes everything on
    DRAIN_REASON,
    TRAINER,
    TRAIN_ERROR,
    START_TIMED_OUT,
    ON_ONE_WORKER,
    ON_MAIN_THREAD,
    RUN_PATH,
    Piece(f"{_TRAIN}.constants", "ENABLE_PRINT_PATCH_ENV_VAR", _PRINTED, names.PRINT_PATCH),
    Piece(f"{_TRAIN}.constants", "ENABLE_WORKER_STRUCTURED_LOGGING_ENV_VAR", _PRINTED, names.STRUCTURED_LOGGING),
    Piece(f"{_TRAIN}.constants", "ENABLE_PREEMPTION_WATCHER_ENV_VAR", _COUNTED, names.PREEMPTION_WATCHER),
    Piece(f"{_TRAIN}.constants", "WORKER_GROUP_START_TIMEOUT_S_ENV_VAR", _COUNTED, names.START_TIMEOUT),
    Piece("ray.train.constants", "RAY_TRAIN_ENABLE_STATE_TRACKING", "show runs on the dashboard", names.STATE_TRACKING),
    Piece("ray._private.ray_constants", "GCS_PORT_ENVIRONMENT_VARIABLE", "start a cluster", names.GCS_PORT),
    Piece(
        "ray._private.runtime_env.constants",
        "RAY_JOB_CONFIG_JSON_ENV_VAR",
        "see what a submitted job has brought along",
        names.JOB_CONFIG,
    ),
    Piece(f"{_TRAIN}.constants", "VALIDATE_STORAGE_MARKER_FILENAME", "clean a run's folder", names.STORAGE_MARKER),
    Piece(
        f"{_TRAIN}.constants", "CHECKPOINT_MANAGER_SNAPSHOT_FILENAME", "clean a run's folder", names.CHECKPOINT_SNAPSHOT
    ),
    Piece("ray._common.constants", "HEAD_NODE_RESOURCE_NAME", "tell a cluster's head", names.HEAD_RESOURCE),
)
"""What `job.train`, its workers and `job.node` need."""

CLIENT = (REQUEST, REQUIRE_VERSION, TOKEN_HEADERS)
"""What `job.submit` needs."""


def check(pieces: Iterable[Piece]) -> None:
    """Raises FinalError for the first piece that the installed Ray has no longer, or not as it was."""
    for piece in pieces:
        try:
            fine = piece.get() == piece.value or piece.value is None
        except (ImportError, AttributeError):
            fine = False
        if not fine:
            import ray

            what = f"{piece.module}.{piece.name}" + ("" if piece.value is None else f" = {piece.value!r}")
            raise FinalError(
                f"Ray {ray.__version__} no longer has {what}, which catdog needs to {piece.purpose}: it is written for"
                f" Ray {VERSION}; install ray[default,train]=={VERSION}.*"
            )
