"""`$(VAR)` and environments, as Kubernetes has them."""

from __future__ import annotations

from typing import Any

import pytest

from vllm_rightsizer.demo.variables import environment, expand
from vllm_rightsizer.errors import UserError

VARIABLES = {"PORT": "8000", "EMPTY": "", "NESTED": "$(PORT)"}


@pytest.mark.parametrize(
    ("text", "expanded"),
    [
        ("--port=$(PORT)", "--port=8000"),
        ("$(PORT)$(PORT)", "80008000"),
        ("a$(EMPTY)b", "ab"),
        ("$(UNKNOWN)", "$(UNKNOWN)"),
        ("$$(PORT)", "$(PORT)"),
        ("$$$(PORT)", "$8000"),
        ("$$$$(PORT)", "$$(PORT)"),
        ("$PORT ${PORT}", "$PORT ${PORT}"),
        ("$(PORT", "$(PORT"),
        ("cost: 5$", "cost: 5$"),
        ("$()", "$()"),
        ("$(NESTED)", "$(PORT)"),
    ],
)
def test_expansion(text: str, expanded: str) -> None:
    assert expand(text, VARIABLES) == expanded


def pod(*env: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    container = {"name": "vllm", "env": list(env)}
    metadata = {"name": "web-1", "namespace": "demo", "uid": "u", "labels": {"app.io/name": "web"}}
    return container, {"metadata": metadata, "spec": {"nodeName": "node-1"}, "status": {"podIP": "127.0.0.1"}}


def test_a_value_refers_to_variables_before_it_only() -> None:
    container, owner = pod(
        {"name": "LATE", "value": "$(BASE)/x"}, {"name": "BASE", "value": "/b"}, {"name": "URL", "value": "$(BASE)/y"}
    )
    assert environment(container, owner, lambda _: None) == {"LATE": "$(BASE)/x", "BASE": "/b", "URL": "/b/y"}


def test_the_last_of_two_variables_wins() -> None:
    container, owner = pod({"name": "A", "value": "1"}, {"name": "A", "value": "$(A)2"})
    assert environment(container, owner, lambda _: None) == {"A": "12"}


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("metadata.name", "web-1"),
        ("metadata.namespace", "demo"),
        ("metadata.labels['app.io/name']", "web"),
        ("metadata.annotations['none']", ""),
        ("spec.nodeName", "node-1"),
        ("status.podIP", "127.0.0.1"),
    ],
)
def test_fields(path: str, value: str) -> None:
    container, owner = pod({"name": "A", "valueFrom": {"fieldRef": {"fieldPath": path}}})
    assert environment(container, owner, lambda _: None) == {"A": value}


def test_config_map_keys() -> None:
    reference = {"name": "settings", "key": "size"}
    container, owner = pod({"name": "A", "valueFrom": {"configMapKeyRef": reference}})
    assert environment(container, owner, {"settings": {"size": "4"}}.get) == {"A": "4"}
    with pytest.raises(UserError, match="variable A: ConfigMap settings has no key size"):
        environment(container, owner, lambda _: None)
    reference["optional"] = "true"
    assert environment(container, owner, lambda _: None) == {}


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ({"secretKeyRef": {"name": "s", "key": "k"}}, "knows fieldRef and configMapKeyRef, not secretKeyRef"),
        ({"fieldRef": {"fieldPath": "spec.other"}}, "does not know the field spec.other"),
    ],
)
def test_what_the_kubelet_does_not_know_is_named(source: dict[str, Any], message: str) -> None:
    container, owner = pod({"name": "A", "valueFrom": source})
    with pytest.raises(UserError, match=message):
        environment(container, owner, lambda _: None)
