"""Other people's mutating webhooks: small, real, over TLS."""

from __future__ import annotations

import base64
import contextlib
import json
import ssl
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from bench.lab.certificates import Authority
from bench.lab.control_plane import ControlPlane

from .pods import Raw

_CONFIGURATIONS = "/apis/admissionregistration.k8s.io/v1/mutatingwebhookconfigurations"
Change = Callable[[Raw], list[Raw]]
"""From a pod to the JSON patch that another webhook asks for."""


@contextlib.contextmanager
def neighbour(
    plane: ControlPlane, folder: Path, name: str, namespace: str, change: Change, reinvocation: str
) -> Iterator[list[Raw]]:
    """A webhook named `name` for the pods of one namespace; yields the pods that it was sent.

    The API server calls webhooks in the order of their configurations' names, and this one a moment longer than it is
    there: so no other namespace may be its own.
    """
    authority = Authority(folder / name)
    pair = authority.issue("neighbour", hosts=("127.0.0.1",))
    seen: list[Raw] = []

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            review = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            request = review["request"]
            seen.append(request["object"])
            patch = base64.b64encode(json.dumps(change(request["object"])).encode()).decode()
            response = {"uid": request["uid"], "allowed": True, "patchType": "JSONPatch", "patch": patch}
            answer = json.dumps({"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "response": response})
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer.encode())

        def log_message(self, *arguments: Any) -> None:
            """Nothing: the test says what it saw."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pair.certificate, pair.key)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    bundle = base64.b64encode(authority.files.certificate.read_bytes()).decode()
    url = f"https://127.0.0.1:{server.server_address[1]}/"
    configuration = {
        "metadata": {"name": name},
        "webhooks": [
            {
                "name": "pods.example.test",
                "clientConfig": {"url": url, "caBundle": bundle},
                "rules": [{"apiGroups": [""], "apiVersions": ["v1"], "resources": ["pods"], "operations": ["CREATE"]}],
                "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": namespace}},
                "admissionReviewVersions": ["v1"],
                "sideEffects": "None",
                "failurePolicy": "Fail",
                "reinvocationPolicy": reinvocation,
            }
        ],
    }
    plane.client.create(_CONFIGURATIONS, configuration)
    try:
        yield seen
    finally:
        plane.client.delete(f"{_CONFIGURATIONS}/{name}")
        server.shutdown()
        server.server_close()
        thread.join()
