"""Rules, alerts and dashboard speak of metrics that there are, and each alert has its page."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterable, Iterator
from contextlib import nullcontext
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import CollectorRegistry
from prometheus_client.parser import text_string_to_metric_families
from ruamel.yaml import YAML

from bench.lab.plugin_pods import PluginPod
from recommender.api.scopes import Scope
from recommender.exposition import _INDISPENSABLE_HOOKS
from recommender.promql.client import PromqlTelemetry
from recommender.sources import in_folder
from recommender.telemetry import Telemetry
from recommender.terms import Terms
from vllm_plugin import formats, names, page
from webhook.metrics import Metrics
from webhook.reviews import Reason

ROOT = Path(__file__).parents[3]
FOLDER = ROOT / "deploy" / "prometheus"
DASHBOARD = ROOT / "deploy" / "grafana" / "vllm-rightsizer.json"
RUNBOOKS = ROOT / "docs" / "runbooks"
Raw = dict[str, Any]

_WORD = re.compile(r"[a-zA-Z_:][a-zA-Z0-9_:]*")
_SUFFIXES = {"counter": ("_total",), "histogram": ("_bucket", "_count", "_sum"), "gauge": ("",)}


@cache
def groups(name: str) -> list[Raw]:
    found: list[Raw] = YAML(typ="safe", pure=True).load(FOLDER / name)["groups"]
    return found


def rules(*files: str) -> Iterator[Raw]:
    for name in files:
        for group in groups(name):
            yield from group["rules"]


def recorded() -> set[str]:
    return {rule["record"] for rule in rules("recording-rules.yaml")}


def alerts() -> list[Raw]:
    return list(rules("alerts.yaml"))


def queries() -> list[str]:
    """All expressions of the dashboard."""

    def expressions(value: object) -> Iterator[str]:
        if isinstance(value, dict):
            for key, inner in value.items():
                if key == "expr" or (key == "query" and isinstance(inner, str)):
                    yield inner
                else:
                    yield from expressions(inner)
        elif isinstance(value, list):
            for inner in value:
                yield from expressions(inner)

    return list(expressions(json.loads(DASHBOARD.read_text())))


def of_registry(registry: CollectorRegistry) -> Iterator[str]:
    for family in registry.collect():
        for suffix in _SUFFIXES[family.type]:
            yield family.name + suffix


@cache
def servers() -> tuple[CollectorRegistry, CollectorRegistry]:
    """The recommender's metrics and the webhook's."""
    recommender = Telemetry()
    PromqlTelemetry(recommender.registry)
    Terms(in_folder(ROOT / "deploy" / "examples" / "cluster", Scope.OPT_IN), recommender, lambda _: nullcontext())
    return recommender.registry, Metrics(dict, lambda: 0.0, lambda: True, lambda: 0).registry


@cache
def exported() -> frozenset[str]:
    """Every name that the plugin, the recommender and the webhook really have."""
    text = formats.text(page.families([PluginPod("llama").report()]))
    plugin = {sample.name for family in text_string_to_metric_families(text) for sample in family.samples}
    return frozenset({*plugin, *(name for registry in servers() for name in of_registry(registry))})


def unknown(expressions: Iterable[str]) -> set[str]:
    """The names of ours in them that nobody exports and no rule records."""
    words = {word for text in expressions for word in _WORD.findall(re.sub(r'"[^"]*"', '""', text))}
    ours = {word for word in words if ":" in word or word.startswith(names.PREFIX)}
    return ours - exported() - recorded()


def test_rules_alerts_and_dashboard_name_metrics_that_there_are() -> None:
    assert len(exported()) > 60
    assert unknown(rule["expr"] for rule in rules("recording-rules.yaml", "alerts.yaml")) == set()
    assert unknown(queries()) == set()
    assert unknown(["sum(vllm_rightsizer_no_such_total) / workload:no_such:sum"]) == {
        "vllm_rightsizer_no_such_total",
        "workload:no_such:sum",
    }


def test_every_recorded_series_is_read_by_something() -> None:
    read = " ".join([*(rule["expr"] for rule in rules("recording-rules.yaml", "alerts.yaml")), *queries()])
    assert recorded() - set(_WORD.findall(read)) == set()


def test_every_metric_of_the_servers_is_on_a_page() -> None:
    """By its name, or in a table by what follows the prefix of all its metrics."""
    pages = " ".join(file.read_text() for file in sorted((ROOT / "docs").glob("*.md")))
    shown = {word for code in re.findall(r"`([^`\n]+)`", pages) for word in _WORD.findall(code)}
    families = [family for registry in servers() for family in registry.collect()]
    assert len(families) > 40
    missing = set()
    for family in families:
        name = f"{family.name}_total" if family.type == "counter" else family.name
        short = name.removeprefix(names.PREFIX)
        if not {name, short, short.removeprefix("recommender_"), short.removeprefix("webhook_")} & shown:
            missing.add(name)
    assert missing == set()


def test_every_alert_has_a_page_and_every_page_an_alert() -> None:
    assert {rule["alert"] for rule in alerts()} == {file.stem for file in RUNBOOKS.glob("*.md")}


@pytest.mark.parametrize("alert", alerts(), ids=lambda rule: rule["alert"])
def test_an_alert_says_all_that_is_needed(alert: Raw) -> None:
    assert alert["labels"]["severity"] in {"info", "warning", "critical"}
    assert alert["for"]
    said = alert["annotations"]
    assert said["summary"]
    assert said["description"].endswith(".")
    file = ROOT / said["runbook_url"]
    assert file.stem == alert["alert"]
    text = re.sub(r"(?ms)^```.*?^```", "", file.read_text())
    titles = re.findall(r"(?m)^#+ (.*)", text)
    assert titles == [alert["alert"], "Meaning", "Impact", "Diagnosis", "Mitigation"]
    for link in re.findall(r"\]\(([^)]+)\)", text):
        assert (file.parent / link).is_file(), link


def test_the_operators_object_holds_the_same_rules() -> None:
    made = YAML(typ="safe", pure=True).load(FOLDER / "prometheus-rule.yaml")
    assert made["spec"]["groups"] == groups("recording-rules.yaml") + groups("alerts.yaml"), "run .ci/prometheus-rule"
    copy = ROOT / "deploy" / "chart" / "files" / "prometheus-rule.yaml"
    assert copy.read_text() == (FOLDER / "prometheus-rule.yaml").read_text(), "run .ci/prometheus-rule"


def test_alerts_know_the_hooks_and_reasons_that_matter() -> None:
    """Words of the code that stand in an expression as text."""
    by_name = {rule["alert"]: rule["expr"] for rule in alerts()}

    def alternatives(alert: str) -> set[str]:
        [found] = re.findall(r'=~"([^"]+)"', by_name[alert])
        return set(found.split("|"))

    assert alternatives("VLLMRightsizerHookOff") == set(_INDISPENSABLE_HOOKS)
    assert alternatives("VLLMRightsizerWebhookFailsOpen") < {reason.value for reason in Reason}


def test_the_dashboard_is_what_its_script_prints() -> None:
    script = ROOT / ".ci" / "grafana-dashboard"
    printed = subprocess.run([sys.executable, script], capture_output=True, text=True, check=True).stdout
    assert DASHBOARD.read_text() == printed, "run .ci/grafana-dashboard > deploy/grafana/vllm-rightsizer.json"


def test_panels_of_the_dashboard_lie_side_by_side() -> None:
    places = [panel["gridPos"] for panel in json.loads(DASHBOARD.read_text())["panels"]]
    fields = [(x, y) for p in places for x in range(p["x"], p["x"] + p["w"]) for y in range(p["y"], p["y"] + p["h"])]
    assert len(fields) == len(set(fields))
    assert max(x for x, _ in fields) == 23
