"""A Ray cluster on this machine, in the background: several nodes that only the holder of its token can use.

It disturbs no other Ray on the machine: its ports, its folder of sockets and its token are its own.
"""

import argparse
import contextlib
import errno
import json
import os
import random
import secrets
import shlex
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import psutil

from infra.folder_lock import Refused, alone_in
from infra.ray_node import PATIENCE

STATE, TOKEN = "cluster.json", "token"
OBJECT_STORE = 128 << 20  # bytes of shared memory of each node: the job passes no data through it


@dataclass(frozen=True)
class Cluster:
    """What is kept of a cluster, to find it again and to end it."""

    address: str
    """That of its dashboard."""
    temporary: str
    """Folder of its sockets and logs; its path is short, for that of a socket has room for some 100 characters."""
    nodes: list[tuple[int, float]]
    """Process and its start time of each node, the head first."""

    def alive(self) -> list[psutil.Process]:
        """The processes of the nodes, and none that was given the number of one later."""
        found = []
        for pid, started in self.nodes:
            with contextlib.suppress(psutil.NoSuchProcess):
                process = psutil.Process(pid)
                if abs(process.create_time() - started) < 5 and process.status() != psutil.STATUS_ZOMBIE:
                    found.append(process)
        return found


def up(folder: Path, nodes: int, cpus: int, port: int) -> tuple[Cluster, bool]:
    """Start a cluster whose state is kept in a folder, and tell whether it was up already; port 0 is any that is free.

    Raises Refused if it does not start, if some of the nodes of the one that was up have died, or if the folder holds
    files of something else that it would replace.
    """
    with alone_in(folder, "its cluster is being started or taken down right now"):
        cluster = load(folder)
        if cluster is not None and (alive := len(cluster.alive())):
            if alive == len(cluster.nodes):
                return cluster, True
            raise Refused(
                f"{folder}: of the cluster's {len(cluster.nodes)} nodes {alive} is left; `make cluster-down` first"
            )
        if port and (why := _why_not_to_be_had(port)):
            raise Refused(f"port {port}: {why}; give another --port, or 0 for any that is")
        if cluster is not None:
            _forget(folder, cluster)
        elif others := _kept(folder):
            raise Refused(f"{folder}: holds {others[0].name} but no {STATE} of a cluster; give another --folder")
        ports = _free_ports()
        gcs, dashboard = next(ports), port or next(ports)
        agents = [next(ports) for _ in range(nodes)]
        temporary = tempfile.mkdtemp(prefix="catdog-", dir="/tmp")
        cluster = Cluster(f"http://127.0.0.1:{dashboard}", temporary, [])
        _write(folder / STATE, json.dumps(asdict(cluster)))  # before the other files, which are known as ours by it
        _write(folder / TOKEN, secrets.token_hex(32))
        head = ["--head", f"--port={gcs}", f"--dashboard-port={dashboard}"]
        # Ray opens the folder that it is given to everybody, so it is given one inside of that which is closed to them.
        head += ["--dashboard-host=127.0.0.1", f"--temp-dir={temporary}/ray"]
        # They have one folder of logs; each line of it would come to the driver as often as there are monitors of it.
        other = [f"--address=127.0.0.1:{gcs}", "--include-log-monitor=false"]
        try:
            for number in range(nodes):
                options = [*(head if number == 0 else other), f"--num-cpus={cpus}", "--num-gpus=0"]
                options.append(f"--dashboard-agent-listen-port={agents[number]}")
                process = _start_node(folder, options, _log(folder, number))
                cluster.nodes.append((process.pid, process.create_time()))
                _write(folder / STATE, json.dumps(asdict(cluster)))
                # One after the other: a node gives up soon if its head is not there, and on a busy machine that takes long.
                _wait(folder, cluster, agents[number])
        except BaseException:
            _end(cluster)
            (folder / TOKEN).unlink(missing_ok=True)
            shutil.rmtree(cluster.temporary, ignore_errors=True)
            raise
        return cluster, False


def down(folder: Path) -> bool:
    """End the cluster and forget it; False if none was up. What runs on it is ended with it."""
    with alone_in(folder, "its cluster is being started or taken down right now"):
        cluster = load(folder)
        was_up = cluster is not None and bool(cluster.alive())
        if cluster is not None:
            _end(cluster)
            _forget(folder, cluster)
        return was_up


def load(folder: Path) -> Cluster | None:
    """The cluster that was started last and not taken down; its nodes may have died since, or not have come up.

    Raises Refused for a file of that name which tells of none.
    """
    try:
        return Cluster(**json.loads((folder / STATE).read_bytes()))
    except FileNotFoundError:
        return None
    except (ValueError, TypeError):
        raise Refused(f"{folder}: its {STATE} is not that of a cluster; give another --folder") from None


def variables(folder: Path, cluster: Cluster) -> dict[str, str]:
    """What Ray's programs find the cluster by."""
    return {
        "RAY_API_SERVER_ADDRESS": cluster.address,
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": str((folder / TOKEN).absolute()),
    }


def _start_node(folder: Path, options: list[str], log: Path) -> psutil.Popen:
    command = [sys.executable, "-m", "infra.ray_node", "start", "--block", "--log-color=false", *options]
    command += ["--min-worker-port=0", "--max-worker-port=0"]
    command += [f"--object-store-memory={OBJECT_STORE}", "--disable-usage-stats"]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")} | {
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', os.defpath)}",  # a job runs `python`
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": str((folder / TOKEN).absolute()),
        "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "1",
        "RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S": "0",
    }
    with open(log, "wb") as out:
        # In a session of its own, so that Ctrl-C in this terminal is none of its business.
        return psutil.Popen(
            command, env=environment, stdin=subprocess.DEVNULL, stdout=out, stderr=out, start_new_session=True
        )


def _wait(folder: Path, cluster: Cluster, agent: int) -> None:
    """Wait until all nodes so far have joined and the last can be given a job; raises Refused if one dies or it takes too
    long."""
    deadline = time.monotonic() + PATIENCE
    while _joined(folder, cluster) < len(cluster.nodes) or not _answers(agent):
        for number, (pid, _) in enumerate(cluster.nodes):
            if pid not in (process.pid for process in cluster.alive()):
                raise Refused(f"a node did not start: {_log(folder, number)} tells why, {_last_line(folder, number)}")
        if time.monotonic() > deadline:
            raise Refused(f"the nodes have not found each other within {PATIENCE:.0f} seconds: see {_log(folder, 0)}")
        time.sleep(0.5)


def _joined(folder: Path, cluster: Cluster) -> int:
    """How many nodes the cluster has, as its dashboard tells it."""
    token = (folder / TOKEN).read_text()
    request = urllib.request.Request(f"{cluster.address}/api/v0/nodes", headers={"Authorization": f"Bearer {token}"})
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with direct.open(request, timeout=60) as answer:
            nodes = json.load(answer)["data"]["result"]["result"]
    except (OSError, ValueError, LookupError, TypeError):  # the dashboard is only being started
        return 0
    return sum(node["state"] == "ALIVE" for node in nodes)


def _end(cluster: Cluster) -> None:
    """End the nodes and all that they have started: they are asked to, and killed if they are still there."""
    nodes = cluster.alive()
    processes = list(nodes)
    for node in nodes:
        with contextlib.suppress(psutil.NoSuchProcess):
            processes += node.children(recursive=True)
            node.terminate()
    _, left = psutil.wait_procs(processes, timeout=10)
    for process in left:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
    psutil.wait_procs(left, timeout=10)


def _kept(folder: Path) -> list[Path]:
    """The files that tell of a cluster, its state apart."""
    token = folder / TOKEN
    return [*([token] if token.exists() else []), *sorted(folder.glob("node-*.log"))]


def _forget(folder: Path, cluster: Cluster) -> None:
    for path in (*_kept(folder), folder / STATE):
        path.unlink(missing_ok=True)
    shutil.rmtree(cluster.temporary, ignore_errors=True)


def _write(path: Path, text: str) -> None:
    """Write a file that its owner alone can read, whole or not at all."""
    part = path.with_name(f"{path.name}.part")
    with open(os.open(part, os.O_CREAT | os.O_WRONLY | os.O_TRUNC, 0o600), "w") as file:
        file.write(text)
    part.replace(path)


def _log(folder: Path, number: int) -> Path:
    return folder / f"node-{number}.log"


def _last_line(folder: Path, number: int) -> str:
    lines = _log(folder, number).read_text(errors="replace").split("\n")
    return next((line.strip() for line in reversed(lines) if line.strip()), "or rather does not")


def _answers(port: int) -> bool:
    with socket.socket() as each:
        each.settimeout(1)
        return each.connect_ex(("127.0.0.1", port)) == 0


def _is_free(port: int) -> bool:
    return not _why_not_to_be_had(port)


def _why_not_to_be_had(port: int) -> str:
    """Why no server can be started at a port; empty where one can."""
    with socket.socket() as each:
        each.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            each.bind(("", port))
        except OSError as error:
            return "is not free" if error.errno == errno.EADDRINUSE else str(error.strerror)
        except OverflowError as error:
            return str(error)
        return ""


def _free_ports() -> Iterator[int]:
    """Ports that are free, and stay so for a while, for the system gives none of them to those who take any."""
    return filter(_is_free, random.sample(range(20_000, 32_000), 12_000))


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text}: must be a whole number of at least 1")
    return int(text)


def main() -> int:
    parser = argparse.ArgumentParser("python -m infra.cluster", description=__doc__)
    parser.add_argument("--folder", type=Path, default=Path("bucket/cluster"), help="keeps its state (%(default)s)")
    commands = parser.add_subparsers(dest="command", required=True)
    start = commands.add_parser("up", help="start it, and print what a shell finds it by")
    start.add_argument("--nodes", type=_count, default=2, help="(%(default)s)")
    start.add_argument("--cpus", type=_count, default=1, help="CPUs that each node offers (%(default)s)")
    start.add_argument("--port", type=int, default=0, help="of the dashboard; 0 for any that is free (%(default)s)")
    commands.add_parser("down", help="end it, with all that runs on it")
    inside = commands.add_parser("run", help="run a command that finds it")
    inside.add_argument("words", nargs="+", metavar="-- COMMAND", help="its exit code is given")
    options = parser.parse_args()
    try:
        if options.command == "up":
            _up(options)
        elif options.command == "down":
            print("the cluster is down" if down(options.folder) else "no cluster was up")
        else:
            _run(options.folder, options.words)
    except Refused as error:
        parser.exit(2, f"infra.cluster: error: {error}\n")
    except OSError as error:
        parser.exit(1, f"infra.cluster: failed: {error}\n")
    except KeyboardInterrupt:
        return 130
    return 0


def _up(options: argparse.Namespace) -> None:
    cluster, before = up(options.folder, options.nodes, options.cpus, options.port)
    for name, value in variables(options.folder, cluster).items():
        print(f"export {name}={shlex.quote(value)}")
    print(f"# {'was up already: ' if before else ''}with that, `python -m job.submit` in another terminal finds it;")
    print(f"# its dashboard is {cluster.address}, which asks for the token; `make cluster-down` ends it")


def _run(folder: Path, words: list[str]) -> None:
    cluster = load(folder)
    if cluster is None or not cluster.alive():
        raise Refused("no cluster is up: `make cluster` starts one")
    os.environ.pop("RAY_AUTH_TOKEN", None)  # which Ray would prefer to the file
    os.environ.update(variables(folder, cluster))
    try:
        os.execvp(words[0], words)
    except OSError as error:
        raise Refused(f"{words[0]}: {error.strerror}") from None


if __name__ == "__main__":
    sys.exit(main())
