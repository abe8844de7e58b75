"""`ray start` for a machine that has other work too: what Ray gives half a minute to start may take PATIENCE.

The server of Ray's client is not started: it has half a minute of its own, and takes the node with it when it gives up.

Usage: python -m infra.ray_node start [OPTION ...], as of `ray`.
"""

import os
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


def wait_longer() -> None:
    """Have a node that this process starts be waited for; Ray's own 30 seconds are a number in its code."""
    from ray._private import services  # here, so that the bounds can be had without Ray

    get_node = services.get_node

    def get_node_when_it_is_there(*arguments: Any) -> dict[str, Any]:
        deadline = time.monotonic() + PATIENCE
        while True:
            try:
                return get_node(*arguments)
            except RuntimeError:  # the node has not registered
                if time.monotonic() > deadline:
                    raise
            time.sleep(0.1)

    services.get_node = get_node_when_it_is_there


if __name__ == "__main__":
    os.environ.update(VARIABLES)  # before Ray is imported, which reads them then
    wait_longer()
    from ray._private.node import Node
    from ray.scripts import scripts

    Node.start_ray_client_server = lambda self: None  # type: ignore[method-assign]

    scripts.main()
