"""Whose pods `plan` counts: as the webhook's configuration says, or `--scope`, where silence of a namespace may be
consent."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

import pytest
from ruamel.yaml import YAML

from recommender.api.object_store import FileObjectStore
from vllm_plugin.names import LABEL_INJECT

Cli = Callable[..., CompletedProcess[str]]
DEPLOY = Path(__file__).parents[3] / "deploy"
CLUSTER = DEPLOY / "examples" / "cluster"
PLANNED = "chat/llama-3-8b-0/vllm"


@pytest.mark.parametrize(
    ("said", "scope", "planned"),
    [("", "OptIn", False), ("", "OptOut", True), ("enabled", "OptIn", True), ("disabled", "OptOut", False)],
)
def test_whose_pods_are_planned(cli: Cli, tmp_path: Path, said: str, scope: str, planned: bool) -> None:
    objects = labelled(tmp_path, said)
    done = cli("plan", "--objects", str(objects), "--scope", scope)
    assert done.returncode == 0, done.stderr
    assert (PLANNED in done.stdout) is planned


@pytest.mark.parametrize(("scope", "planned"), [("OptIn", False), ("OptOut", True)])
def test_the_webhook_says_whose(cli: Cli, tmp_path: Path, scope: str, planned: bool) -> None:
    objects = labelled(tmp_path, "")
    configure(objects, scope)
    done = cli("plan", "--objects", str(objects))
    assert (done.returncode, done.stderr) == (0, "")
    assert (PLANNED in done.stdout) is planned
    other = cli("plan", "--objects", str(objects), "--scope", "OptIn" if scope == "OptOut" else "OptOut")
    assert (PLANNED in other.stdout) is not planned


def test_pods_beside_our_servers_are_never_planned(cli: Cli, tmp_path: Path) -> None:
    objects = labelled(tmp_path, "enabled")
    configure(objects, "OptIn", servers="chat")
    for scope in ((), ("--scope", "OptOut")):
        assert PLANNED not in cli("plan", "--objects", str(objects), *scope).stdout


@pytest.mark.parametrize("scope", ["OptIn", "OptOut"])
def test_where_nothing_is_in_scope_the_scope_is_named(cli: Cli, tmp_path: Path, scope: str) -> None:
    objects = labelled(tmp_path, "disabled")
    configure(objects, scope)
    assert f"labels tell it, by --scope {scope}." in cli("plan", "--objects", str(objects)).stdout


def test_a_configuration_that_a_former_installation_left_decides_nothing(cli: Cli, tmp_path: Path) -> None:
    objects = labelled(tmp_path, "enabled")
    configure(objects, "OptOut", servers="chat", name="a-former-one")
    configure(objects, "OptIn")
    done = cli("plan", "--objects", str(objects))
    assert done.returncode == 0
    assert "a-former-one, vllm-rightsizer contradict each other; say it with --scope" in done.stderr
    assert PLANNED in done.stdout
    assert cli("plan", "--objects", str(objects), "--scope", "OptIn").stderr == ""


def labelled(folder: Path, said: str) -> Path:
    """The example's objects, of a namespace that says so."""
    objects = folder / "objects"
    shutil.copytree(CLUSTER, objects)
    file = objects / "namespace" / "_cluster" / "chat.json"
    namespace = json.loads(file.read_text())
    namespace["metadata"]["labels"] = {LABEL_INJECT: said} if said else {}
    file.write_text(json.dumps(namespace))
    return objects


def configure(objects: Path, scope: str, servers: str = "vllm-rightsizer", name: str = "vllm-rightsizer") -> None:
    """The configuration as it is shipped, with the selector that the chart writes for `scope`; and one of others."""
    made: dict[str, Any] = YAML(typ="safe", pure=True).load(DEPLOY / "kubernetes" / "webhook-configuration.yaml")
    made["metadata"]["name"] = name
    [webhook] = made["webhooks"]
    webhook["clientConfig"]["service"]["namespace"] = servers
    others = json.loads(json.dumps(made))
    others["metadata"]["name"] = "another"
    others["webhooks"][0]["name"] = "pods.example.com"
    if scope == "OptOut":
        del webhook["namespaceSelector"]["matchLabels"]
        refused = {"key": LABEL_INJECT, "operator": "NotIn", "values": ["disabled"]}
        webhook["namespaceSelector"]["matchExpressions"].append(refused)
    store = FileObjectStore(objects)
    for one in (made, others):
        store.apply(one)
