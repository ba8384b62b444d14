"""Prometheus' operator, by its own definitions, takes the monitors and rules that are shipped; they find targets."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from bench.lab.client import documents
from bench.lab.control_plane import ControlPlane
from bench.lab.programs import ROOT, folder_with
from bench.lab.webhook import Webhook
from vllm_plugin.names import LABEL_INJECTED, METRICS_PORT_NAME

from .pods import OPTED_IN, tried, vllm_pod

pytestmark = pytest.mark.e2e

Raw = dict[str, Any]

KINDS = ("podmonitors", "prometheusrules", "servicemonitors")
DEFINITIONS = tuple(f"monitoring.coreos.com_{kind}.yaml" for kind in KINDS)
SHIPPED = ROOT / "deploy" / "prometheus"


def shipped() -> list[Raw]:
    return [one for name in ("monitors.yaml", "prometheus-rule.yaml") for one in documents(SHIPPED / name)]


def test_the_operators_definitions_take_what_is_shipped(crds: ControlPlane, request: pytest.FixtureRequest) -> None:
    with request.config.pluginmanager.getplugin("capturemanager").global_and_fixture_disabled():
        folder = folder_with(*DEFINITIONS)
    crds.define(*(definition for name in DEFINITIONS for definition in documents(folder / name)))
    namespace = crds.namespace("monitored")
    assert len(shipped()) == 4
    for document in shipped():
        document["metadata"]["namespace"] = namespace
        path = f"/apis/monitoring.coreos.com/v1/namespaces/{namespace}/{document['kind'].lower()}s"
        made = crds.client.create(path, document, dryRun="All", fieldValidation="Strict")
        assert crds.client.warnings == []
        assert made["spec"] == document["spec"]


def test_the_monitors_find_what_the_webhook_and_the_manifests_make(webhook: Webhook) -> None:
    [pods, recommender, of_webhook] = documents(SHIPPED / "monitors.yaml")
    namespace = webhook.plane.namespace("monitored-pods", OPTED_IN)
    pod = tried(webhook.plane, namespace, vllm_pod())
    assert pods["spec"]["selector"]["matchLabels"].items() <= pod["metadata"]["labels"].items()
    assert LABEL_INJECTED in pods["spec"]["selector"]["matchLabels"]
    [port] = [port for container in pod["spec"]["containers"] for port in container.get("ports", ())]
    assert port["name"] == METRICS_PORT_NAME == pods["spec"]["podMetricsEndpoints"][0]["port"]

    for monitor, component in ((recommender, "recommender"), (of_webhook, "webhook")):
        [service] = [one for one in _services() if one["metadata"]["name"] == f"vllm-rightsizer-{component}"]
        assert monitor["spec"]["selector"]["matchLabels"].items() <= service["metadata"]["labels"].items()
        assert monitor["metadata"]["namespace"] == service["metadata"]["namespace"]
        assert monitor["spec"]["endpoints"][0]["port"] in {port["name"] for port in service["spec"]["ports"]}
    assert recommender["spec"]["endpoints"][0]["honorLabels"]


def _services() -> list[Raw]:
    files: list[Path] = sorted((ROOT / "deploy" / "kubernetes").glob("*.yaml"))
    return [one for file in files for one in documents(file) if one["kind"] == "Service"]
