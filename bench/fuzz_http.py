"""Reviews made from the webhook's own schema, and what breaks it, over HTTP to a server that runs.

schemathesis draws what fits the schema and what does not; hypothesis draws bytes, and cuts reviews short.
"""

from __future__ import annotations

import contextlib
import json
import socket
import ssl
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import schemathesis
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st
from schemathesis import GenerationMode
from schemathesis.core import NotSet

from bench.fuzz_answers import fault_in, review_in
from bench.lab.programs import LabError, start
from vllm_rightsizer.demo.ports import free_ports
from webhook.app import create_app
from webhook.knowledge import Knowledge
from webhook.settings import InjectionSettings

_HOST = "127.0.0.1"
_UP_SECONDS = 60.0
_MOST_FAULTS_KEPT = 20


@dataclass
class HttpFindings:
    """What came of the requests."""

    statuses: Counter[int] = field(default_factory=Counter)
    faults: list[str] = field(default_factory=list)

    @property
    def requests(self) -> int:
        return self.statuses.total()


def fuzz_http(client: httpx.Client, requests: int, number: int) -> HttpFindings:
    """Send about `requests` to the webhook behind `client`; the same ones for one `number`."""
    found = HttpFindings()

    def send(body: bytes) -> None:
        answer = client.post("/mutate", content=body, headers={"Content-Type": "application/json"})
        found.statuses[answer.status_code] += 1
        fault = fault_in(answer, review_in(body))
        if fault is not None and len(found.faults) < _MOST_FAULTS_KEPT:
            found.faults.append(f"{fault}: {body[:2000]!r}")

    app = create_app(Knowledge, InjectionSettings())
    operation = schemathesis.openapi.from_dict(app.openapi())["/mutate"]["POST"]
    fitting, breaking = (
        operation.as_strategy(generation_mode=mode).map(lambda case: _written(case.body))
        for mode in (GenerationMode.POSITIVE, GenerationMode.NEGATIVE)
    )
    cut_short = st.builds(lambda body, share: body[: int(len(body) * share)], fitting, st.floats(0, 1))
    for bodies in (fitting, breaking, cut_short, st.binary()):
        _drawn(bodies, send, requests // 4, number)
    return found


@contextlib.contextmanager
def server() -> Iterator[httpx.Client]:
    """The webhook as a process of its own, which knows nothing of any cluster; yields what speaks with it."""
    with tempfile.TemporaryDirectory(prefix="bench-fuzz-") as name:
        folder = Path(name)
        (folder / "objects").mkdir()
        [port] = free_ports(1, _HOST)
        options = ["webhook", f"--objects={folder / 'objects'}", f"--tls-dir={folder / 'tls'}", f"--port={port}"]
        program = start(Path(sys.executable), ["-m", "vllm_rightsizer", *options], folder)
        try:
            deadline = time.monotonic() + _UP_SECONDS
            # It listens before it has a certificate, which is written last.
            while not ((folder / "tls" / "tls.crt").exists() and _listens(port)):
                if program.exit_code() is not None or time.monotonic() > deadline:
                    raise LabError(f"the webhook does not listen; {program.log} ends with\n{program.tail()}")
                time.sleep(0.05)
            with client_of(f"https://{_HOST}:{port}", (folder / "tls" / "ca.crt").read_text()) as client:
                yield client
        finally:
            program.stop()


def client_of(url: str, authority: str) -> httpx.Client:
    """One who believes `authority` (PEM) alone."""
    context = ssl.create_default_context(cadata=authority)
    return httpx.Client(base_url=url, verify=context, trust_env=False, timeout=30)


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex((_HOST, port)) == 0


def _drawn(bodies: st.SearchStrategy[bytes], send: Callable[[bytes], None], examples: int, number: int) -> None:
    @seed(number)
    @settings(
        max_examples=examples,
        database=None,
        deadline=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(bodies)
    def run(body: bytes) -> None:
        send(body)

    run()


def _written(body: Any) -> bytes:
    """As a client would write it; schemathesis leaves bytes as they are, and has an object for a missing body."""
    if isinstance(body, bytes):
        return body
    return b"" if isinstance(body, NotSet) else json.dumps(body).encode()
