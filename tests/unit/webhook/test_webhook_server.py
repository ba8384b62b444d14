"""The running webhook: real TLS, real signals, real ports."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import json
import signal
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi.testclient import TestClient
from webhook_cases import FLAGS, KV_BYTES, UTILIZATION, patched, pod, review, vector

from recommender.api.fingerprints import fingerprint
from recommender.api.listening import ListenError
from recommender.api.object_store import FileObjectStore
from vllm_plugin.names import API_VERSION
from vllm_rightsizer.demo.ports import free_ports
from webhook.app import BODY_LIMIT, MOST_WAITING, Surroundings, create_app
from webhook.knowledge import Knowledge
from webhook.server import collecting, serve
from webhook.settings import InjectionSettings, WebhookSettings
from webhook.watching import FolderWatch

_API = {"apiVersion": API_VERSION}


@pytest.fixture(scope="module")
def client() -> Iterator[TestClient]:
    with TestClient(create_app(Knowledge, InjectionSettings())) as made:
        yield made


@dataclass
class Running:
    process: subprocess.Popen[str]
    port: int
    folder: Path

    def client(self) -> httpx.Client:
        context = ssl.create_default_context(cafile=str(self.folder / "tls" / "ca.crt"))
        return httpx.Client(verify=context, base_url=f"https://127.0.0.1:{self.port}", trust_env=False, timeout=30)


@pytest.fixture
def running(tmp_path: Path) -> Iterator[Running]:
    port = free_ports(1)[0]
    (tmp_path / "objects").mkdir()
    program = (
        "import sys; from pathlib import Path; import webhook.app; from webhook.server import serve;"
        "from webhook.settings import WebhookSettings;"
        # No body that a test holds back is given up before all of them are there.
        "webhook.app._BODY_SECONDS = 60;"
        "folder = Path(sys.argv[1]);"
        "serve(WebhookSettings(objects=folder / 'objects', tls_dir=folder / 'tls', port=int(sys.argv[2])));"
        "print('returned')"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", program, str(tmp_path), str(port)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    started = Running(process, port, tmp_path)
    try:
        until = time.monotonic() + 60
        while time.monotonic() < until and process.poll() is None:
            try:
                with started.client() as made:
                    if made.get("/readyz").status_code == 200:
                        break
            except (OSError, httpx.TransportError):
                time.sleep(0.05)
        yield started
    finally:
        process.kill()
        process.communicate()


@pytest.mark.processes
def test_over_tls_until_a_signal(running: Running) -> None:
    before = pod()
    with running.client() as client:
        answer = client.post("/mutate", json=review(before))
        assert answer.status_code == 200
        assert "rightsizer" in str(patched(before, answer.json())["spec"]["containers"][0]["ports"])
        assert client.get("/healthz").text == "ok\n"
        page = client.get("/metrics").text
    assert 'vllm_rightsizer_webhook_outcomes_total{reason="injected"} 1.0' in page
    assert "vllm_rightsizer_webhook_request_seconds_count 1.0" in page
    # What is known is followed while the server runs.
    store = FileObjectStore(running.folder / "objects")
    store.apply(_recommendation(before))
    store.apply({**_API, "kind": "AutomatedNamespace", "metadata": {"name": "prod"}, "spec": {"vllmOptimize": True}})
    assert vector(patched(before, _answer_once(running, "applied"))["spec"]["containers"][0])[-2:] == FLAGS
    exclusion = {"name": "llama", "namespace": "prod", "annotations": {"vllm-rightsizer.io/exclude": "true"}}
    store.apply({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": exclusion})
    assert patched(before, _answer_once(running, "excluded")) == before
    running.process.send_signal(signal.SIGTERM)
    output, log = running.process.communicate(timeout=60)
    assert running.process.returncode == 0
    assert output == "returned\n"
    lines = [json.loads(line) for line in log.splitlines()]
    assert any(line.get("uid") == "7f3c" and line["outcome"] == "injected" for line in lines)
    assert lines[-1]["message"] == "stopped"


@pytest.mark.processes
def test_overload_lets_pods_through(running: Running) -> None:
    """More requests are under way than can be answered in time; when they are gone, pods are changed again."""
    context = ssl.create_default_context(cafile=str(running.folder / "tls" / "ca.crt"))
    unfinished = b"POST /mutate HTTP/1.1\r\nHost: webhook\r\nContent-Length: 10\r\n\r\n{"
    with contextlib.ExitStack() as stack:
        connections = []
        for _ in range(MOST_WAITING + 1):
            plain = stack.enter_context(socket.create_connection(("127.0.0.1", running.port)))
            connections.append(stack.enter_context(context.wrap_socket(plain, server_hostname="localhost")))
        for connection in connections:
            connection.sendall(unfinished)
        response = _answer_once(running, "overloaded")["response"]
        assert (response["uid"], response["allowed"], "patch" in response) == ("7f3c", True, False)
    assert "patch" in _answer_once(running, "injected")["response"]


def _answer_once(running: Running, outcome: str) -> Any:
    """The answer for the usual pod, as soon as it is this outcome."""
    until = time.monotonic() + 60
    with running.client() as client:
        while (answer := client.post("/mutate", json=review(pod())).json())["response"]["auditAnnotations"][
            "outcome"
        ] != outcome:
            assert time.monotonic() < until
            time.sleep(0.02)
    return answer


def _recommendation(of: dict[str, Any]) -> dict[str, Any]:
    measured = dict.fromkeys(
        (
            "weightsBytes",
            "overheadBytes",
            "kvCapacityBytes",
            "kvBlockBytes",
            "kvBlockTokens",
            "kvActivePeakBytes",
            "kvDemandPeakBytes",
            "kvFloorBytes",
            "allocatedBytes",
            "requests",
            "lookupTokens",
            "preemptions",
            "admissionsBlocked",
        ),
        1,
    )
    return {
        **_API,
        "kind": "VLLMRecommendation",
        "metadata": {"name": "deployment-llama-main-01234567", "namespace": "prod"},
        "spec": {"targetRef": {"group": "apps", "kind": "Deployment", "name": "llama", "container": "main"}},
        "status": {
            "fingerprint": fingerprint(of, "main"),
            "gpuMemoryTotalBytes": {"min": 100, "max": 100},
            "measured": {**measured, "vllmVersion": "0.32.0", "model": "m", "hitRate": 0.5},
            "target": {
                "kvBytes": KV_BYTES,
                "kvBlocks": 4,
                "allocationBytes": 60,
                "gpuMemoryUtilization": UTILIZATION,
                "flags": FLAGS,
                "predictedHitRate": 0.5,
                "boundBy": "hit rate",
            },
        },
    }


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "tls").write_text("a file")
    with pytest.raises(ListenError, match="--tls-dir"):
        serve(WebhookSettings(objects=tmp_path, tls_dir=tmp_path / "tls", port=free_ports(1)[0]))


def test_a_port_in_use(tmp_path: Path) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        with pytest.raises(ListenError, match=f"port {port} of 127.0.0.1 is in use .* --port"):
            serve(WebhookSettings(objects=tmp_path / "objects", tls_dir=tmp_path / "tls", port=port))
    assert not (tmp_path / "tls").exists()


@pytest.mark.parametrize(("host", "port"), [("127.0.0.1", 70000), ("192.0.2.1", 8443)])
def test_an_address_that_cannot_be_had(tmp_path: Path, host: str, port: int) -> None:
    with pytest.raises(ListenError, match="cannot listen"):
        serve(WebhookSettings(objects=tmp_path, tls_dir=tmp_path / "tls", host=host, port=port))


@pytest.mark.parametrize("body", [b"", b"nonsense", b"[]", b'{"kind": "Pod"}'])
def test_no_review_at_all(client: TestClient, body: bytes) -> None:
    answer = client.post("/mutate", content=body)
    assert answer.status_code == 400
    assert "AdmissionReview" in answer.json()["error"]


@pytest.mark.parametrize(
    "asked",
    [{"kind": "AdmissionReview"}, {"request": {"uid": 7}}, review("no pod"), review({"spec": {"containers": [1]}})],
)
def test_a_review_of_anything_is_allowed(client: TestClient, asked: Any) -> None:
    answer = client.post("/mutate", json=asked)
    assert answer.status_code == 200
    assert answer.json()["response"]["allowed"] is True


def test_a_body_of_any_length_up_to_the_limit(client: TestClient) -> None:
    start = b'{"kind": "AdmissionReview", "x": "'
    end = b'"}'
    longest = start + b"x" * (BODY_LIMIT - len(start) - len(end)) + end
    assert client.post("/mutate", content=longest).status_code == 200
    answer = client.post("/mutate", content=longest + b" ")
    assert answer.status_code == 413
    assert "send an AdmissionReview" in answer.json()["error"]


def test_a_review_that_is_too_long_does_not_block_the_pod(client: TestClient) -> None:
    asked = {"kind": "AdmissionReview", "apiVersion": "admission.k8s.io/v1beta1", "request": {"uid": "7f3c", "x": ""}}
    answer = client.post("/mutate", content=json.dumps(asked).encode() + b" " * BODY_LIMIT)
    assert answer.status_code == 200
    response = answer.json()["response"]
    assert (response["uid"], response["allowed"], "patch" in response) == ("7f3c", True, False)
    assert response["auditAnnotations"]["outcome"] == "too-long"
    assert "left as it is" in response["warnings"][0]
    assert answer.json()["apiVersion"] == "admission.k8s.io/v1beta1"


def test_too_many_at_once_are_let_through_unread() -> None:
    waiting = MOST_WAITING
    client = TestClient(create_app(Knowledge, InjectionSettings(), Surroundings(waiting=lambda: waiting)))
    assert client.post("/mutate", json=review(pod())).json()["response"]["auditAnnotations"]["outcome"] == "injected"
    waiting += 1
    response = client.post("/mutate", json=review(pod())).json()["response"]
    assert (response["uid"], response["allowed"], "patch" in response) == ("7f3c", True, False)
    assert response["auditAnnotations"]["outcome"] == "overloaded"
    assert "left as it is" in response["warnings"][0]
    assert 'outcomes_total{reason="overloaded"} 1.0' in client.get("/metrics").text


def test_readiness_tells_why_not() -> None:
    trouble: str | None = "the certificate is not known"
    draining = False
    around = Surroundings(trouble=lambda: trouble, draining=lambda: draining, ages=lambda: {"Deployment": 3.5})
    client = TestClient(create_app(Knowledge, InjectionSettings(), around))
    assert (client.get("/readyz").status_code, client.get("/readyz").text) == (503, "the certificate is not known\n")
    assert "vllm_rightsizer_webhook_ready 0.0" in client.get("/metrics").text
    trouble = None
    assert client.get("/readyz").status_code == 200
    page = client.get("/metrics").text
    assert "vllm_rightsizer_webhook_ready 1.0" in page
    assert 'vllm_rightsizer_webhook_knowledge_age_seconds{kind="Deployment"} 3.5' in page
    assert "connection" not in client.post("/mutate", json=review(pod())).headers
    draining = True
    assert (client.get("/readyz").status_code, client.get("/readyz").text) == (503, "the server is ending\n")
    # It goes on to answer, and asks for the next review on a new connection.
    answer = client.post("/mutate", json=review(pod()))
    assert answer.json()["response"]["auditAnnotations"]["outcome"] == "injected"
    assert answer.headers["connection"] == "close"


async def test_a_body_that_does_not_come(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("webhook.app._BODY_SECONDS", 0.05)

    async def stalled() -> AsyncIterator[bytes]:
        yield b"{"
        await asyncio.sleep(30)

    transport = httpx.ASGITransport(create_app(Knowledge, InjectionSettings()))
    async with httpx.AsyncClient(transport=transport, base_url="http://webhook") as client:
        answer = await client.post("/mutate", content=stalled())
        page = (await client.get("/metrics")).text
    assert answer.status_code == 400
    assert "did not come" in answer.json()["error"]
    assert "vllm_rightsizer_webhook_malformed_total 1.0" in page


def test_patches_are_measured(client: TestClient) -> None:
    client.post("/mutate", json=review(pod()))
    assert "vllm_rightsizer_webhook_patch_bytes_bucket" in client.get("/metrics").text


def test_not_ready_before_the_first_snapshot() -> None:
    client = TestClient(create_app(lambda: None, InjectionSettings()))
    answer = client.get("/readyz")
    assert (answer.status_code, answer.text) == (503, "the objects have not been read yet\n")
    assert client.get("/healthz").status_code == 200
    assert client.post("/mutate", json=review(pod())).json()["response"]["allowed"] is True


async def test_garbage_is_looked_for_seldom_only_while_objects_are_read(tmp_path: Path) -> None:
    watch = FolderWatch(FileObjectStore(tmp_path))
    before, frozen = gc.get_threshold(), gc.get_freeze_count()
    # Whoever else runs in this process may have changed it.
    gc.set_threshold(700, 10, 10)
    default = gc.get_threshold()
    try:
        async with collecting(watch):
            assert gc.get_threshold()[0] > default[0]
            watch.refresh()
            async with asyncio.timeout(60):
                while gc.get_threshold() != default:
                    await asyncio.sleep(0.01)
            assert gc.get_freeze_count() > frozen
    finally:
        gc.unfreeze()
        gc.set_threshold(*before)


def test_other_methods_and_paths(client: TestClient) -> None:
    assert client.get("/mutate").status_code == 405
    assert client.get("/").status_code == 404


def test_outcomes_are_counted(client: TestClient) -> None:
    client.post("/mutate", json=review(pod(annotations={"vllm-rightsizer.io/exclude": "true"})))
    client.post("/mutate", content=b"nonsense")
    page = client.get("/metrics").text
    assert 'outcomes_total{reason="excluded"} 1.0' in page
    assert 'outcomes_total{reason="applied"} 0.0' in page
    assert "vllm_rightsizer_webhook_malformed_total" in page
    assert "vllm_rightsizer_webhook_certificate_expiry_timestamp_seconds" in page
