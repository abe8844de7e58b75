"""Names that Ray gives to variables, files and processes, for which it has no public constant; imports nothing of Ray."""

# Environment variables. Ray has no argument and no public constant for what they hold; STOP_WAIT alone is read by the
# cluster's own processes.
PRINT_PATCH = "RAY_TRAIN_ENABLE_PRINT_PATCH"
STRUCTURED_LOGGING = "RAY_TRAIN_ENABLE_WORKER_STRUCTURED_LOGGING"
PREEMPTION_WATCHER = "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER"
STATE_TRACKING = "RAY_TRAIN_ENABLE_STATE_TRACKING"
START_TIMEOUT = "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S"
GCS_PORT = "RAY_GCS_SERVER_PORT"
JOB_CONFIG = "RAY_JOB_CONFIG_JSON_ENV_VAR"
STOP_WAIT = "RAY_JOB_STOP_WAIT_TIME_S"

# What Ray Train keeps in a run's folder. It names and removes them nowhere in public, and a run holds catdog's files alone.
STORAGE_MARKER = ".validate_storage_marker"
CHECKPOINT_SNAPSHOT = "checkpoint_manager_snapshot.json"

# A node as its processes show it. Ray's API would tell of it only to a process that joins the cluster, which takes
# seconds, and a probe comes every few seconds.
RAYLET = "raylet"
NODE_ADDRESS, GCS_ADDRESS, NODE_ID = "node_ip_address", "gcs-address", "node_id"
"""Options of the raylet."""
HEAD_RESOURCE = "node:__internal_head__"
"""Stands in the raylet's command line on the head alone."""
TRAIN_WORKER = "ray::RayTrainWorker"
"""Title of the process of a worker of Ray Train."""
HEALTH, DASHBOARD_HEALTH = "/api/healthz", "/api/gcs_healthz"
"""Paths that a node's agent and the head's dashboard answer; Ray documents the second, and of an agent only a path that
does not ask the GCS."""

# The jobs API. Its client raises RuntimeError for whatever goes wrong, and tells in the text alone what it was.
LOG_TAIL = "/api/jobs/{}/logs/tail"
"""Path of a job's log as it is written; Ray's own client of it waits for ever on a connection that is lost."""
REFUSED = r"Request failed with status code (\d+): "
TOO_OLD = "Ray version"
TOKEN_LACKING = "Authentication required"
TOKEN_REFUSED = "Authentication failed"
