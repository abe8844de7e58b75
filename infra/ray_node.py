"""`ray start` for a machine that has other work too: what Ray gives half a minute to start may take PATIENCE.

The server of Ray's client is not started: it has half a minute of its own, and takes the node with it when it gives up.

Usage: python -m infra.ray_node start [OPTION ...], as of `ray`.
"""

import os
import socket
import time
from typing import Any

PATIENCE = 900.0
"""Seconds for a node to start: long, for one that ends instead is noticed at once."""
VARIABLES = {
    "RAY_agent_register_timeout_ms": f"{PATIENCE * 1000:.0f}",
    "RAY_gcs_server_port_wait_time_s": f"{PATIENCE:.0f}",
    "RAY_worker_register_timeout_seconds": f"{PATIENCE:.0f}",
}
"""The bounds that Ray reads from the environment."""
_AGENTS = ("metrics_agent_port", "metrics_export_port", "runtime_env_agent_port", "dashboard_agent_listen_port")


def wait_longer() -> None:
    """Have a node that this process starts be waited for; Ray's own 30 seconds are a number in its code.

    Its agents are given their ports: a raylet waits 15 seconds, a number as well, for those that they choose, and ends.
    """
    from ray._private import services  # here, so that the bounds can be had without Ray

    get_node, start_raylet, start_process = services.get_node, services.start_raylet, services.start_ray_process
    raylets: list[Any] = []

    def start_raylet_with_ports(*arguments: Any, **options: Any) -> Any:
        options |= {name: options.get(name) or _free_port() for name in _AGENTS}

        def start_told(command: list[str], *more: Any, **named: Any) -> Any:
            # Of this port Ray tells the agent alone.
            port = options["dashboard_agent_listen_port"]
            return start_process([*command, f"--dashboard_agent_listen_port={port}"], *more, **named)

        services.start_ray_process = start_told
        try:
            started = start_raylet(*arguments, **options)
        finally:
            services.start_ray_process = start_process
        raylets.append(started.process)
        return started

    def get_node_when_it_is_there(*arguments: Any) -> dict[str, Any]:
        deadline = time.monotonic() + PATIENCE
        while True:
            try:
                return get_node(*arguments)
            except RuntimeError:  # the node has not registered
                if time.monotonic() > deadline or (raylets and raylets[-1].poll() is not None):
                    raise
            time.sleep(0.1)

    services.get_node = get_node_when_it_is_there
    services.start_raylet = start_raylet_with_ports


def _free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


if __name__ == "__main__":
    os.environ.update(VARIABLES)  # before Ray is imported, which reads them then
    wait_longer()
    from ray._private.node import Node
    from ray.scripts import scripts

    Node.start_ray_client_server = lambda self: None  # type: ignore[method-assign]

    scripts.main()
