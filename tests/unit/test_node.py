"""What a container says of the Ray node that it runs."""

import http.server
import subprocess
import sys
import threading
from collections.abc import Iterator

import psutil
import pytest

from job import node
from job.node import alive


@pytest.fixture
def raylet() -> Iterator[psutil.Process]:
    """A process that is called as one."""
    words = [sys.executable, "-c", "import time; time.sleep(600)", "--node_ip_address=127.0.0.1"]
    with subprocess.Popen(words) as process:
        yield psutil.Process(process.pid)
        process.kill()


@pytest.fixture
def agent() -> Iterator[http.server.HTTPServer]:
    """A node's agent, whose `status` is what it answers."""

    class Agent(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(server.status if self.path == "/api/healthz" else 404)  # type: ignore[attr-defined]
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    with http.server.HTTPServer(("127.0.0.1", 0), Agent) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


@pytest.mark.parametrize(("command", "code"), [("healthy", 0), ("alive", 1), ("ready", 1)])
def test_a_container_that_runs_no_node_is_healthy_and_no_node_that_is_alive(
    monkeypatch: pytest.MonkeyPatch, command: str, code: int
) -> None:
    monkeypatch.setattr(sys, "argv", ["job.node", command])
    monkeypatch.setattr(node, "find_raylet", lambda: None)
    assert node.main() == code


@pytest.mark.parametrize("status", [200, 503])
def test_a_node_is_alive_if_its_agent_says_so(
    raylet: psutil.Process, agent: http.server.HTTPServer, status: int
) -> None:
    agent.status = status  # type: ignore[attr-defined]
    assert alive(raylet, agent.server_port) == (status == 200)


def test_a_node_whose_agent_does_not_answer_is_not_alive(raylet: psutil.Process, agent: http.server.HTTPServer) -> None:
    agent.shutdown()
    agent.server_close()
    assert not alive(raylet, agent.server_port)
