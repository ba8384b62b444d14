"""What `helm test` runs in a pod without any right, here as a process: are both servers ready?"""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from io import StringIO
from typing import Any

import pytest
from ruamel.yaml import YAML

from bench.lab.chart import Helm
from bench.lab.programs import folder_with
from bench.lab.webhook import Webhook

pytestmark = pytest.mark.e2e


@pytest.fixture(scope="module")
def pod(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    with request.config.pluginmanager.getplugin("capturemanager").global_and_fixture_disabled():
        folder_with("helm")
    text = Helm(tmp_path_factory.mktemp("helm")).render()
    found = [one for one in YAML(typ="safe", pure=True).load_all(StringIO(text)) if one]
    [made] = [one for one in found if one["kind"] == "Pod"]
    services = {(one["metadata"]["name"], one["spec"]["ports"][0]["port"]) for one in found if one["kind"] == "Service"}
    [container] = made["spec"]["containers"]
    assert set(container["args"]) == {
        f"{'https' if port == 443 else 'http'}://{name}.vllm-rightsizer.svc{'' if port == 443 else f':{port}'}/readyz"
        for name, port in services
    }
    return dict(made)


@contextmanager
def _answering(*statuses: int) -> Iterator[str]:
    """One status after the other, the last one for ever."""
    left = list(statuses)

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            status = left.pop(0) if len(left) > 1 else left[0]
            self.send_response(status)
            self.end_headers()
            self.wfile.write(b"ok" if status == 200 else b"the history is not open yet")

        def log_message(self, *_: object) -> None:
            return

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}/readyz"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def _process(pod: dict[str, Any], *urls: str) -> subprocess.Popen[str]:
    [container] = pod["spec"]["containers"]
    _, *command = container["command"]
    return subprocess.Popen([sys.executable, *command, *urls], stdout=subprocess.PIPE, text=True)


def test_it_has_no_right(pod: dict[str, Any]) -> None:
    assert pod["spec"]["automountServiceAccountToken"] is False
    assert "serviceAccountName" not in pod["spec"]


def test_it_waits_until_both_are_ready(pod: dict[str, Any], webhook: Webhook) -> None:
    """The webhook itself, whose certificate is for its Service; and one that says why it is not ready yet."""
    own = f"https://{webhook.address}:{webhook.port}/readyz"
    with _answering(503, 200) as other:
        said, _ = (process := _process(pod, own, other)).communicate(timeout=180)
    assert process.returncode == 0
    *before, last = said.splitlines()
    assert last == f"{other}: ready"
    assert f"{own}: ready" in before
    assert "the history is not open yet" in before[-1]


def test_one_that_is_not_ready_keeps_it(pod: dict[str, Any]) -> None:
    with _answering(503) as other:
        process = _process(pod, other)
        assert process.stdout is not None
        said = [process.stdout.readline() for _ in range(2)]
        assert process.poll() is None
        process.kill()
        process.communicate()
    assert all("the history is not open yet" in line for line in said)
