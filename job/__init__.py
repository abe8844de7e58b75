"""The same run on a Ray cluster. Ray reads these settings when it is imported, or Ray Train when a job begins."""

import os
import sys

_SETTINGS = {
    "RAY_DEDUP_LOGS": "0",  # one worker alone tells of the run, and each of its lines counts
    "RAY_COLOR_PREFIX": str(int(sys.stderr.isatty())),
    "RAY_TRAIN_ENABLE_PRINT_PATCH": "0",  # with the next, a worker's lines go to stderr once and as they are
    "RAY_TRAIN_ENABLE_WORKER_STRUCTURED_LOGGING": "0",
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",  # each worker looks for itself, and stops with all others
    "RAY_TRAIN_ENABLE_STATE_TRACKING": "1",  # the dashboard's page of training runs
    "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": "10",  # the driver then counts anew what is free; cluster.start_timeout ends it
    "RAY_USAGE_STATS_ENABLED": "0",
}

for _name, _value in _SETTINGS.items():
    os.environ.setdefault(_name, _value)
