"""The same run on a Ray cluster. Ray reads these settings when it is imported, or Ray Train when a job begins."""

import os
import sys

from job.ray_private import names

_SETTINGS = {
    "RAY_DEDUP_LOGS": "0",  # one worker alone tells of the run, and each of its lines counts
    "RAY_COLOR_PREFIX": str(int(sys.stderr.isatty())),
    names.PRINT_PATCH: "0",  # with the next, a worker's lines go to stderr once and as they are
    names.STRUCTURED_LOGGING: "0",
    names.PREEMPTION_WATCHER: "0",  # each worker looks for itself, and stops with all others
    names.STATE_TRACKING: "1",  # the dashboard's page of training runs
    names.START_TIMEOUT: "10",  # the driver then counts anew what is free; cluster.start_timeout ends it
    "RAY_USAGE_STATS_ENABLED": "0",
}

for _name, _value in _SETTINGS.items():
    os.environ.setdefault(_name, _value)
