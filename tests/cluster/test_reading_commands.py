"""`list`, `plan`, `explain` and `what-if` say of an API server what they say of a folder with the same objects."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from test_explanations import fill, observed
from typer.testing import CliRunner

from bench.lab.control_plane import ControlPlane
from bench.lab.programs import ROOT
from recommender.api.object_store import FileObjectStore
from vllm_plugin.names import API_VERSION, GROUP
from vllm_rightsizer.cli import app
from vllm_rightsizer.errors import UserError

from .pods import OPTED_IN
from .recommenders import install, kubeconfig

NAMESPACE = "chat"
"""That of the example, and of the synthetic history."""
EVERYWHERE = ("Node", "VLLMPolicy", "AutomatedNamespace", "ClusterAutomation")


def answer(*arguments: str) -> Any:
    """What the command prints; raises what it ends with."""
    done = CliRunner().invoke(app, [*arguments, "-o", "json"])
    if done.exception is not None:
        raise done.exception
    return json.loads(done.stdout)


@pytest.fixture(scope="module")
def folder(crds: ControlPlane, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Objects and a history; the same objects are on the API server."""
    made = tmp_path_factory.mktemp("commands")
    fill(made, observed())
    shutil.copytree(ROOT / "deploy" / "examples" / "cluster", made / "objects", dirs_exist_ok=True)
    store = FileObjectStore(made / "objects")
    install(crds)
    # Nobody is to remove pods whose owners are not there.
    crds.stop_controller_manager()
    crds.namespace(NAMESPACE)
    for kind in (*EVERYWHERE, "VLLMRecommendation", "Pod"):
        for raw in store.list(kind):
            put(crds, raw)
    # Not before: where a webhook runs, it leaves the pods as they are.
    crds.client.patch(f"/api/v1/namespaces/{NAMESPACE}", {"metadata": {"labels": OPTED_IN}})
    yield made
    for kind in EVERYWHERE:
        for raw in store.list(kind):
            crds.client.delete(path_of(crds, raw))


def put(plane: ControlPlane, raw: dict[str, Any]) -> None:
    raw["metadata"].pop("resourceVersion", None)
    status = raw.pop("status", None)
    plane.client.apply(raw)
    if status is not None:
        plane.client.patch(f"{path_of(plane, raw)}/status", {"status": status})


def path_of(plane: ControlPlane, raw: dict[str, Any]) -> str:
    metadata = raw["metadata"]
    return f"{plane.client.collection(raw['apiVersion'], raw['kind'], metadata.get('namespace'))}/{metadata['name']}"


def test_with_the_rights_of_the_recommender(crds: ControlPlane, folder: Path, tmp_path: Path) -> None:
    there = ["--kubeconfig", str(kubeconfig(crds, tmp_path)), "--context", "lab"]
    here = ["--objects", str(folder / "objects")]
    history = ["--history", str(folder / "history.db")]

    planned = answer("plan", *there)
    assert planned["stocks"] == answer("plan", *here)["stocks"]
    assert planned["stocks"][0]["potential"]["freedGPUs"] == 4

    listed = [answer("list", "-n", NAMESPACE, *where) for where in (there, here)]
    assert listed[0] == listed[1]
    replicas = {one["name"]: (one["replicas"], one["gpus"]) for one in listed[0]["workloads"]}
    assert replicas == {"llama": (1, 1), "llama-3-70b": (1, 4), "llama-3-8b": (3, 3), "mistral-7b": (2, 2)}
    everywhere = answer("list", "-A", *there)["workloads"]
    assert [one for one in everywhere if one["namespace"] == NAMESPACE] == listed[0]["workloads"]

    explained = [answer("explain", "llama", "-n", NAMESPACE, *where, *history) for where in (there, here)]
    assert explained[0]["recommendation"].pop("metadata")["uid"]
    assert explained[1]["recommendation"].pop("metadata")["name"]
    assert explained[0] == explained[1]
    assert explained[0]["decidedBy"] == "hitRate"

    setting = ["--set", "hitRateLoss.points=20"]
    compared = [answer("what-if", "-n", NAMESPACE, *where, *history, *setting) for where in (there, here)]
    assert compared[0] == compared[1]
    assert len(compared[0]) == 4


def test_with_the_rights_for_one_namespace(crds: ControlPlane, folder: Path) -> None:
    user = "of-chat"
    config = str(crds.kubeconfig_of(user, crds.user(user)))
    options = ["--history", str(folder / "history.db"), "--kubeconfig", config]
    with pytest.raises(UserError, match=r"cannot list .* \(grant the verb list on vllmrecommendations"):
        answer("explain", "llama", "-n", NAMESPACE, *options)

    def allow(kind: str, plural: str, namespace: str | None) -> None:
        where = {"namespace": namespace} if namespace else {}
        rbac = {"apiVersion": "rbac.authorization.k8s.io/v1", "metadata": {"name": f"{user}-{plural}", **where}}
        rule = {"apiGroups": [GROUP], "resources": [plural], "verbs": ["list"]}
        crds.client.apply({**rbac, "kind": kind, "rules": [rule]})
        reference = {"apiGroup": "rbac.authorization.k8s.io", "kind": kind, "name": f"{user}-{plural}"}
        subject = {"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": user}
        crds.client.apply({**rbac, "kind": f"{kind}Binding", "roleRef": reference, "subjects": [subject]})

    allow("Role", "vllmrecommendations", NAMESPACE)
    allow("ClusterRole", "vllmpolicies", None)
    client = crds.client_of(user)
    lists = [
        f"/apis/{API_VERSION}/namespaces/{NAMESPACE}/vllmrecommendations",
        f"/apis/{API_VERSION}/vllmpolicies",
    ]
    # RBAC takes effect a moment later.
    crds.wait_for(lambda: all(client.http.get(path).status_code == 200 for path in lists), "rights")
    assert answer("explain", "llama", "-n", NAMESPACE, *options)["decidedBy"] == "hitRate"
    with pytest.raises(UserError, match=r"cannot list .* at the cluster scope"):
        answer("what-if", "--set", "percentile=80", *options)
    assert len(answer("list", "-n", NAMESPACE, "--kubeconfig", config)["workloads"]) == 4
    with pytest.raises(UserError, match=r"at the cluster scope .*, or ask for one namespace with -n"):
        answer("list", "--kubeconfig", config)


def test_an_api_server_that_does_not_know_us(crds: ControlPlane, tmp_path: Path) -> None:
    config = json.loads(crds.kubeconfig.read_text())
    config["users"][0]["user"] = {"token": "of-nobody"}
    file = tmp_path / "kubeconfig"
    file.write_text(json.dumps(config))
    with pytest.raises(UserError, match="it does not take the credentials"):
        answer("plan", "--kubeconfig", str(file))
