"""Rules, alerts and dashboard speak of metrics that there are, and each alert has its page."""

from __future__ import annotations

import json
import re
import runpy
from collections.abc import Iterable, Iterator
from functools import cache
from typing import Any

import pytest
from metric_pages import PAGES, ROOT
from prometheus_client.parser import text_string_to_metric_families
from ruamel.yaml import YAML

from recommender.exposition import INDISPENSABLE_HOOKS
from vllm_plugin import names
from webhook.reviews import Reason

FOLDER = ROOT / "deploy" / "prometheus"
DASHBOARD = ROOT / "deploy" / "grafana" / "vllm-rightsizer.json"
RUNBOOKS = ROOT / "docs" / "runbooks"
Raw = dict[str, Any]

_WORD = re.compile(r"[a-zA-Z_:][a-zA-Z0-9_:]*")


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


@cache
def exported() -> frozenset[str]:
    """Every name that stands on a page of the plugin, the recommender or the webhook."""
    found: set[str] = set()
    for asked in PAGES.values():
        with asked() as page:
            text = page({}).text
        found |= {sample.name for family in text_string_to_metric_families(text) for sample in family.samples}
    return frozenset(found)


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


def test_every_alert_has_a_page_and_every_page_an_alert() -> None:
    assert {rule["alert"] for rule in alerts()} == {file.stem for file in RUNBOOKS.glob("*.md")}


def test_every_alert_is_tried_just_beyond_its_threshold() -> None:
    """And by that just before it: the file's other tests hold that nothing fires."""
    tests = YAML(typ="safe", pure=True).load(ROOT / "tests" / "monitoring" / "thresholds.yaml")["tests"]
    expected = [sample["labels"] for test in tests for one in test["promql_expr_test"] for sample in one["exp_samples"]]
    assert {found for text in expected for found in re.findall(r'alertname="(\w+)"', text)} == {
        rule["alert"] for rule in alerts()
    }
    assert sum(not one["exp_samples"] for test in tests for one in test["promql_expr_test"]) >= 4


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

    assert alternatives("VLLMRightsizerHookOff") == set(INDISPENSABLE_HOOKS)
    assert alternatives("VLLMRightsizerWebhookFailsOpen") < {reason.value for reason in Reason}


def test_the_dashboard_is_what_its_script_makes() -> None:
    made = runpy.run_path(str(ROOT / ".ci" / "grafana-dashboard"))
    for file in made["FILES"]:
        assert json.loads(file.read_text()) == made["DASHBOARD"], "run .ci/grafana-dashboard"


def test_the_dashboard_is_bound_to_no_installation() -> None:
    """Neither to a data source nor to the names of jobs; and it explains itself."""
    dashboard = json.loads(DASHBOARD.read_text())
    assert [one for one in queries() if re.search(r"\b(job|instance|cluster)\s*[=!]", one)] == []
    panels = [panel for panel in dashboard["panels"] if panel["type"] != "row"]
    sourced = [*panels, *(one for panel in panels for one in panel["targets"]), *dashboard["templating"]["list"][1:]]
    assert {one["datasource"]["uid"] for one in sourced} == {"${datasource}"}
    assert dashboard["templating"]["list"][0]["type"] == "datasource"
    for panel in panels:
        assert panel["description"], panel["title"]
        defaults = panel["fieldConfig"]["defaults"]
        assert defaults["unit"], panel["title"]
        assert panel["type"] != "stat" or defaults["thresholds"]["steps"], panel["title"]
    assert len({panel["id"] for panel in dashboard["panels"]}) == len(dashboard["panels"])


def test_the_dashboard_shows_every_alert() -> None:
    [shown] = [found for text in queries() for found in re.findall(r'ALERTS\{alertname=~"([^"]+)"', text)]
    assert [rule["alert"] for rule in alerts() if not re.fullmatch(shown, rule["alert"])] == []


def test_panels_of_the_dashboard_lie_side_by_side() -> None:
    places = [panel["gridPos"] for panel in json.loads(DASHBOARD.read_text())["panels"]]
    fields = [(x, y) for p in places for x in range(p["x"], p["x"] + p["w"]) for y in range(p["y"], p["y"] + p["h"])]
    assert len(fields) == len(set(fields))
    assert max(x for x, _ in fields) == 23
