"""Every way by which Kubernetes gives credentials, on a real API server: whom does it know us as?"""

from __future__ import annotations

import base64
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bench.lab.certificates import KeyPair
from bench.lab.control_plane import ControlPlane
from recommender.api.apiserver.connection import ApiError, ApiServer, CredentialsError

NAMESPACE = "credentials"
ACCOUNT = f"system:serviceaccount:{NAMESPACE}:default"
REVIEWS = "/apis/authentication.k8s.io/v1/selfsubjectreviews"
REVIEW = {"apiVersion": "authentication.k8s.io/v1", "kind": "SelfSubjectReview"}

Users = Callable[[dict[str, Any]], Path]


@pytest.fixture(scope="module")
def token(control_plane: ControlPlane) -> str:
    """Of a service account, as the kubelet asks for it on behalf of a pod."""
    control_plane.namespace(NAMESPACE)
    path = f"/api/v1/namespaces/{NAMESPACE}/serviceaccounts/default/token"
    return str(control_plane.client.create(path, {"spec": {"expirationSeconds": 600}})["status"]["token"])


@pytest.fixture
def kubeconfig(control_plane: ControlPlane, tmp_path: Path) -> Users:
    """Writes a kubeconfig with one user, whose fields are given."""

    def write(user: dict[str, Any]) -> Path:
        cluster = {
            "server": control_plane.url,
            "certificate-authority-data": base64.b64encode(control_plane.ca_file.read_bytes()).decode(),
        }
        config = {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "lab", "cluster": cluster}],
            "users": [{"name": "somebody", "user": user}],
            "contexts": [{"name": "lab", "context": {"cluster": "lab", "user": "somebody"}}],
            "current-context": "lab",
        }
        file = tmp_path / "kubeconfig"
        file.write_text(json.dumps(config))
        return file

    return write


@pytest.fixture
def in_cluster(control_plane: ControlPlane, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What a pod finds: two variables, and a folder of files, which here is another one. Gives the token's file."""
    host, _, port = control_plane.url.removeprefix("https://").partition(":")
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", host)
    monkeypatch.setenv("KUBERNETES_SERVICE_PORT", port)
    (tmp_path / "ca.crt").write_bytes(control_plane.ca_file.read_bytes())
    library = "kubernetes.aio.config.incluster_config"
    monkeypatch.setattr(f"{library}.SERVICE_CERT_FILENAME", str(tmp_path / "ca.crt"))
    monkeypatch.setattr(f"{library}.SERVICE_TOKEN_FILENAME", str(tmp_path / "token"))
    return tmp_path / "token"


@pytest.fixture
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """What was refused is read again without a pause."""
    monkeypatch.setattr("recommender.api.apiserver.connection._RELOAD_SECONDS", 0.0)


async def _known_as(server: ApiServer) -> str:
    answer = await server.request("POST", REVIEWS, body=REVIEW)
    return str(answer["status"]["userInfo"]["username"])


async def _refused_then_known_as(server: ApiServer, mend: Callable[[], object]) -> str:
    """Whom the API server knows after it refused what was there first; `mend` puts that right before the refusal, on
    which everything is read again.
    """
    mend()
    with pytest.raises(ApiError) as refused:
        await _known_as(server)
    assert refused.value.status == 401
    return await _known_as(server)


async def test_a_client_certificate(control_plane: ControlPlane, kubeconfig: Users) -> None:
    pair = control_plane.user("alice")
    embedded = {
        "client-certificate-data": base64.b64encode(pair.certificate.read_bytes()).decode(),
        "client-key-data": base64.b64encode(pair.key.read_bytes()).decode(),
    }
    for user in (embedded, {"client-certificate": str(pair.certificate), "client-key": str(pair.key)}):
        server = await ApiServer.connect(kubeconfig(user))
        assert await _known_as(server) == "alice"
        await server.close()


@pytest.mark.usefixtures("at_once")
async def test_a_token_file_that_rotates(kubeconfig: Users, token: str, tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text("ended")
    server = await ApiServer.connect(kubeconfig({"tokenFile": str(file)}))
    assert await _refused_then_known_as(server, lambda: file.write_text(token)) == ACCOUNT
    await server.close()


@pytest.mark.usefixtures("at_once")
async def test_the_service_account_of_a_pod(in_cluster: Path, token: str) -> None:
    """The kubelet puts another token into the file before the old one ends."""
    in_cluster.write_text("ended")
    server = await ApiServer.connect()
    assert await _refused_then_known_as(server, lambda: in_cluster.write_text(token)) == ACCOUNT
    await server.close()


async def test_a_pod_without_a_token(in_cluster: Path) -> None:
    assert not in_cluster.exists()
    with pytest.raises(CredentialsError, match=r"token file does not exist.* give a --kubeconfig"):
        await ApiServer.connect()


def _plugin(folder: Path, status: dict[str, str]) -> dict[str, Any]:
    """A program that prints an ExecCredential with what a file of `folder` holds at that moment."""
    (folder / "status").write_text(json.dumps(status))
    program = (
        "import json, sys\n"
        "status = json.load(open(sys.argv[1]))\n"
        "kind = {'apiVersion': 'client.authentication.k8s.io/v1', 'kind': 'ExecCredential'}\n"
        "print(json.dumps(kind | {'status': status}))\n"
    )
    (folder / "plugin.py").write_text(program)
    return {
        "exec": {
            "apiVersion": "client.authentication.k8s.io/v1",
            "command": sys.executable,
            "args": [str(folder / "plugin.py"), str(folder / "status")],
            "interactiveMode": "Never",
        }
    }


@pytest.mark.usefixtures("at_once")
async def test_a_plugin_that_gives_tokens(kubeconfig: Users, token: str, tmp_path: Path) -> None:
    server = await ApiServer.connect(kubeconfig(_plugin(tmp_path, {"token": "ended"})))
    assert await _refused_then_known_as(server, lambda: _plugin(tmp_path, {"token": token})) == ACCOUNT
    await server.close()


async def test_a_plugin_that_gives_certificates(control_plane: ControlPlane, kubeconfig: Users, tmp_path: Path) -> None:
    pair: KeyPair = control_plane.user("bob")
    status = {"clientCertificateData": pair.certificate.read_text(), "clientKeyData": pair.key.read_text()}
    server = await ApiServer.connect(kubeconfig(_plugin(tmp_path, status)))
    assert await _known_as(server) == "bob"
    await server.close()
