"""What a container that runs a node of a Ray cluster is asked.

Usage: python -m job.node healthy | alive | ready | leave --within SECONDS
`healthy` is for the image's HEALTHCHECK, and true of a container that runs no node, as while it only trains; `alive` and
`ready` are for Kubernetes' probes of a node. `leave` is for its preStop hook: when Ray is told to end it gives workers half a
minute, and tells the driver of a job nothing.
"""

import argparse
import re
import signal
import sys
import time
import urllib.error
import urllib.request

import psutil

from job.ray_private import names

AGENT_PORT, DASHBOARD_PORT = 52365, 8265
"""Ray's defaults, of each node's agent and of the head's dashboard."""
_POLL = 0.5
_DIRECT = urllib.request.build_opener(urllib.request.ProxyHandler({}))


def alive(raylet: psutil.Process, port: int = AGENT_PORT) -> bool:
    """Whether the node's raylet, and its cluster's GCS if it is the head, answer."""
    return _answers(f"{_option(raylet, names.NODE_ADDRESS)}:{port}{names.HEALTH}")


def ready(raylet: psutil.Process) -> bool:
    """Whether the node is alive and, if it is the head, takes jobs."""
    return alive(raylet) and (not _is_head(raylet) or _answers(f"127.0.0.1:{DASHBOARD_PORT}{names.DASHBOARD_HEALTH}"))


def leave(raylet: psutil.Process, within: float) -> bool:
    """Have what trains on the node commit and end, and nothing be started on it again; whether all has ended after
    `within` seconds."""
    end = time.monotonic() + within
    try:
        if not _is_head(raylet):
            _drain(_option(raylet, names.GCS_ADDRESS), _option(raylet, names.NODE_ID), within)
        for driver in _drivers(raylet):
            driver.send_signal(signal.SIGTERM)
        while _workers(raylet) or _drivers(raylet):
            if time.monotonic() > end:
                return False
            time.sleep(_POLL)
    except psutil.NoSuchProcess:  # a node that has been drained ends by itself
        pass
    return True


def find_raylet() -> psutil.Process | None:
    """The raylet that this container runs, if it runs one."""
    return next((process for process in psutil.process_iter(["name"]) if process.info["name"] == names.RAYLET), None)


def _drain(gcs: str, node_id: str, within: float) -> None:
    """Tell the cluster that the node is about to be taken away; workers look for that every few seconds."""
    from job.ray_private.pieces import DRAIN_REASON, GCS_CLIENT  # here, for `healthy` is called every few seconds

    deadline = int((time.time() + within) * 1000)
    reason = DRAIN_REASON.get().Value("DRAIN_NODE_REASON_PREEMPTION")
    GCS_CLIENT.get()(address=gcs).drain_node(node_id, reason, "the pod is to end", deadline)


def _answers(url: str) -> bool:
    try:
        with _DIRECT.open(f"http://{url}", timeout=5) as answer:
            return answer.status == 200
    except (urllib.error.URLError, TimeoutError, ConnectionError):
        return False


def _is_head(raylet: psutil.Process) -> bool:
    return names.HEAD_RESOURCE in " ".join(raylet.cmdline())


def _option(raylet: psutil.Process, name: str) -> str:
    found = re.search(rf"--{name}=(\S+)", " ".join(raylet.cmdline()))
    assert found is not None, f"a raylet without --{name}"
    return found[1]


def _drivers(raylet: psutil.Process) -> list[psutil.Process]:
    """Those of jobs that were submitted, which run on the head."""
    return [each for each in raylet.children(recursive=True) if _command(each)[1:3] == ["-m", "job.train"]]


def _workers(raylet: psutil.Process) -> list[psutil.Process]:
    return [each for each in raylet.children() if names.TRAIN_WORKER in " ".join(_command(each))]


def _command(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline()
    except psutil.Error:  # it has just ended
        return []


def main() -> int:
    parser = argparse.ArgumentParser("python -m job.node", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("healthy", help="exit code 0 if the node is alive, or if there is none")
    commands.add_parser("alive", help="exit code 0 if there is a node and it answers")
    commands.add_parser("ready", help="exit code 0 if the node is alive and, if it is the head, takes jobs")
    leaving = commands.add_parser("leave", help="have what trains here commit and end")
    leaving.add_argument("--within", type=float, required=True, help="seconds to wait for that")
    options = parser.parse_args()
    raylet = find_raylet()
    if raylet is None:
        return int(options.command in ("alive", "ready"))
    if options.command == "leave":
        return int(not leave(raylet, options.within))
    return int(not (ready if options.command == "ready" else alive)(raylet))


if __name__ == "__main__":
    sys.exit(main())
