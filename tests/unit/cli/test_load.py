"""Sending requests: in order, a few at a time, until the first failure."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from vllm_rightsizer.demo.load import CONCURRENCY, send
from vllm_rightsizer.demo.pattern import Request
from vllm_rightsizer.demo.ports import free_ports
from vllm_rightsizer.errors import UserError


class Api(ThreadingHTTPServer):
    """Answers as vLLM does; a prompt that says so is refused."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.prompts: list[str] = []
        self.busy = self.busiest = 0
        self.lock = threading.Lock()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class Handler(BaseHTTPRequestHandler):
    server: Api

    def do_POST(self) -> None:
        prompt = json.loads(self.rfile.read(int(self.headers["Content-Length"])))["prompt"]
        with self.server.lock:
            self.server.prompts.append(prompt)
            self.server.busy += 1
            self.server.busiest = max(self.server.busiest, self.server.busy)
        body = json.dumps({"usage": {"prompt_tokens": 10}}).encode()
        self.send_response(500 if prompt == "fail" else 200)
        self.send_header("Content-Length", str(len(body)))
        with self.server.lock:
            self.server.busy -= 1
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture
def api() -> Iterator[Api]:
    with Api() as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        yield server
        server.shutdown()


def test_all_requests_are_sent_in_order(api: Api) -> None:
    answered = []
    result = send(api.url, "m", [Request("cold", prompt=f"{at:03}") for at in range(40)], lambda: answered.append(1))
    assert (result.requests, result.prompt_tokens, len(answered)) == (40, 400, 40)
    assert result.requests_per_second == pytest.approx(40 / result.seconds)
    assert sorted(api.prompts) == [f"{at:03}" for at in range(40)]
    # A request starts when all before it are answered, but for those that the other clients are at.
    assert all(int(prompt) - at < CONCURRENCY for at, prompt in enumerate(api.prompts))
    assert api.busiest <= CONCURRENCY


def test_the_first_failure_ends_it(api: Api) -> None:
    requests = [Request("cold", prompt="fine")] * 5 + [Request("cold", prompt="fail")] * 50
    with pytest.raises(UserError, match="vLLM answered /v1/completions with 500: "):
        send(api.url, "m", requests, lambda: None)
    assert len(api.prompts) < 20


def test_a_vllm_that_is_gone() -> None:
    (port,) = free_ports(1)
    with pytest.raises(UserError, match=f"vLLM at http://127.0.0.1:{port} stopped answering: "):
        send(f"http://127.0.0.1:{port}", "m", [Request("cold", prompt="a")] * 9, lambda: None)
