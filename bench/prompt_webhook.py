"""A webhook that does nothing but answer: what a pod's creation takes longer for being asked about at all.

`python -m bench.prompt_webhook HOST PORT CERTIFICATE KEY ANSWER`, where the file ANSWER holds the patch as base64.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import re
import ssl
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import cast

import uvloop

from bench.lab.certificates import Authority
from bench.lab.control_plane import ControlPlane
from bench.lab.programs import start
from vllm_rightsizer.demo.ports import free_ports

_HOST = "127.0.0.1"
_NAME = "prompt"
_LENGTH = re.compile(rb"content-length: *(\d+)", re.IGNORECASE)
_UID = re.compile(rb'"uid":"([^"]+)"')


@contextlib.contextmanager
def running(plane: ControlPlane, folder: Path, namespace: str, patch: str) -> Iterator[None]:
    """The webhook as a process, called for the pods of `namespace`. It answers each with `patch`."""
    folder.mkdir(parents=True, exist_ok=True)
    authority = Authority(folder / "pki")
    pair = authority.issue(_NAME, hosts=(_HOST,))
    [port] = free_ports(1)
    answer = folder / "patch"
    answer.write_text(patch)
    arguments = ["-m", "bench.prompt_webhook", _HOST, str(port), str(pair.certificate), str(pair.key), str(answer)]
    program = start(Path(sys.executable), arguments, folder, {"PYTHONPATH": str(Path(__file__).parents[1])})
    webhook = {
        "name": "prompt.example.test",
        "clientConfig": {
            "url": f"https://{_HOST}:{port}/",
            "caBundle": base64.b64encode(authority.files.certificate.read_bytes()).decode(),
        },
        "rules": [{"apiGroups": [""], "apiVersions": ["v1"], "resources": ["pods"], "operations": ["CREATE"]}],
        "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": namespace}},
        "admissionReviewVersions": ["v1"],
        "sideEffects": "None",
        "failurePolicy": "Ignore",
        "timeoutSeconds": 2,
    }
    path = "/apis/admissionregistration.k8s.io/v1/mutatingwebhookconfigurations"
    plane.client.create(path, {"metadata": {"name": _NAME}, "webhooks": [webhook]})
    try:
        yield
    finally:
        plane.client.delete(f"{path}/{_NAME}")
        program.stop()


class _Answering(asyncio.Protocol):
    def __init__(self, patch: str) -> None:
        self._patch = patch
        self._come = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.WriteTransport, transport)

    def data_received(self, data: bytes) -> None:
        self._come += data
        head, end, rest = self._come.partition(b"\r\n\r\n")
        length = _LENGTH.search(head)
        if not end or length is None or len(rest) < int(length[1]):
            return
        self._come = b""
        uid = _UID.search(rest)
        response = {"uid": uid[1].decode() if uid is not None else "", "allowed": True}
        patched = response | {"patchType": "JSONPatch", "patch": self._patch}
        review = {"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "response": patched}
        body = json.dumps(review).encode()
        headers = f"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
        self._transport.write(headers.encode() + body)


async def _serve(host: str, port: int, certificate: str, key: str, answer: str) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    patch = Path(answer).read_text()
    server = await asyncio.get_running_loop().create_server(lambda: _Answering(patch), host, port, ssl=context)
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(_serve(sys.argv[1], int(sys.argv[2]), *sys.argv[3:6]))
