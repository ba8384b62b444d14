"""The chart's values: what may be set is said once, and what is made from our types is up to date. Without Helm."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator, Mapping
from typing import Any

import pytest
from jsonschema import Draft7Validator
from ruamel.yaml import YAML

from bench.lab.chart import CHART, RULES, SCHEMA, type_definitions
from vllm_rightsizer.definitions import files

MANIFESTS = CHART.parent / "kubernetes"
AS_ABOVE = ("batch", "argoproj.io", "leaderworkerset.x-k8s.io", "serving.kserve.io", "keda.sh")
VALUES: dict[str, Any] = YAML(typ="safe", pure=True).load(CHART / "values.yaml")
VALID = Draft7Validator(json.loads(SCHEMA.read_text()))


def _with(path: str, value: object) -> dict[str, Any]:
    """The values with another one at the dotted path."""
    changed = at = copy.deepcopy(VALUES)
    *parts, last = path.split(".")
    for part in parts:
        at = at[part]
    at[last] = value
    return changed


def test_the_charts_definitions_are_those_that_are_shipped() -> None:
    assert {file.name: file.read_text() for file in (CHART / "crds").iterdir()} == files(), "run make crds"


def test_the_charts_rules_are_those_that_are_shipped() -> None:
    assert (CHART / "files" / RULES.name).read_text() == RULES.read_text(), "run make manifests"


def test_what_comes_from_our_types_is_up_to_date() -> None:
    found = VALID.schema["definitions"]
    made = type_definitions()
    assert {name: found.get(name) for name in made} == made, "run make manifests"


def test_the_defaults_are_valid() -> None:
    Draft7Validator.check_schema(VALID.schema)
    VALID.validate(VALUES)


def test_everything_that_may_be_set_has_a_default() -> None:
    """And so stands in values.yaml, with what it means."""
    # Both are of a chart above this one.
    assert list(_lacking(VALID.schema["properties"], VALUES)) == ["global", "enabled"]


def _lacking(properties: Mapping[str, Any], values: Mapping[str, Any], path: str = "") -> Iterator[str]:
    for name, field in properties.items():
        if name not in values:
            yield f"{path}{name}"
        elif "properties" in field:
            yield from _lacking(field["properties"], values[name], f"{path}{name}.")


def test_null_is_as_empty_or_is_refused() -> None:
    """Helm takes a value away that is null. Without those that have no empty value nothing could be rendered; policies,
    resources, constraints and labels may be none, and what older values lack is as if nobody had said it."""
    taken = {".".join(path) for path, value in _fields(VALUES) if VALID.is_valid(_without(path)) and value not in EMPTY}
    assert taken == {
        *("policies", "networkPolicy.dnsPorts", "metrics.dashboard.labels"),
        *(f"{part}.{name}" for part in ("webhook", "recommender") for name in NONE_OF_PODS),
        *("webhook.port", "webhook.hostNetwork", "crds.resources", "rbac", "rbac.aggregateToView"),
        *("recommender.prometheus.headersSecret",),
        *(f"{part}.serviceAccount.create" for part in ("webhook", "recommender")),
    }
    assert [path for path, value in _fields(VALUES) if value in EMPTY and not VALID.is_valid(_without(path))] == []


EMPTY: tuple[object, ...] = ("", {}, [])
NONE_OF_PODS = ("resources", "topologySpreadConstraints")


def _fields(values: Mapping[str, Any], path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Every value, and every group of such."""
    for name, value in values.items():
        yield (*path, name), value
        if isinstance(value, dict) and name not in ("policies", "resources", "labels"):
            yield from _fields(value, (*path, name))


def _without(path: tuple[str, ...]) -> dict[str, Any]:
    changed = at = copy.deepcopy(VALUES)
    for part in path[:-1]:
        at = at[part]
    del at[path[-1]]
    return changed


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("vllm.injection.way", "init-container"),
        ("vllm.observability.enabled", False),
        ("webhook.scope", "OptOut"),
        ("webhook.certManager.issuerRef", {"kind": "ClusterIssuer", "name": "internal"}),
        ("policies", {"default": {}, "calm": {"percentile": 95, "minKV": "2Gi", "hitRateLoss": {"points": 0.5}}}),
        ("prices", {"date": "2026-11-01", "currency": "EUR", "products": {"NVIDIA-L40S": 0.95}}),
        ("clusterAutomation.vllm.customOwnerGroups", [{"name": "by-model", "byLabels": ["model"]}]),
        ("image.digest", f"sha256:{'0' * 64}"),
        ("image.registry", "[fd00::5]:5000/mirror/team"),
        ("recommender.persistence.size", "1Pi"),
        ("webhook.port", 10260),
        ("webhook.resources", {"requests": {"memory": "1e9", "cpu": ".5"}, "limits": {"hugepages-2Mi": "128Mi"}}),
        ("global", {"of": "a chart above"}),
        ("enabled", True),
    ],
)
def test_what_may_be_said(path: str, value: object) -> None:
    VALID.validate(_with(path, value))


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("enabled", False),
        ("webhook.replica", 3),
        ("webhook.replicas", 0),
        ("webhook.replicas", "2"),
        ("webhook.port", 443),
        ("webhook.port", 65536),
        ("webhook.hostNetwork", "true"),
        ("webhook.serviceAccount.create", "false"),
        ("rbac.aggregateToView", None),
        ("recommender.prometheus.headersSecret", {"name": "headers", "key": ""}),
        ("crds.resources", {"limits": {"cpu": "much"}}),
        ("webhook.scope", "optin"),
        ("webhook.certManager.duration", "90d"),
        ("webhook.certManager.issuerRef", {"kind": "ClusterIssuer"}),
        ("vllm.injection.way", "none"),
        ("vllm.injection.pluginPort", 65536),
        ("clusterAutomation.vllm.emitter", "mig"),
        ("clusterAutomation.vllm.mode", "dryrun"),
        ("clusterAutomation.vllm.defaultPolicy", "Calm"),
        ("clusterAutomation.vllm.customOwnerGroups", [{"byLabels": ["model"]}]),
        ("policies", {"calm": {"percentile": 98}}),
        ("policies", {"calm": {"hitRateLos": {"points": 1}}}),
        ("policies", {"calm": {"hitRateLoss": {"points": 0}}}),
        ("policies", {"Calm": {}}),
        ("prices", {"currency": "EUR"}),
        ("prices", {"date": "2026-11-01", "products": {"NVIDIA-L40S": "0.95"}}),
        ("image.tag", 1.0),
        ("image.digest", "sha256:0"),
        ("recommender.persistence.accessModes", ["ReadOnlyMany"]),
        ("recommender.resources", {"requests": {"memory": "lots"}}),
        ("recommender.resources", {"requests": {"memory": "1kb"}}),
        ("recommender.resources", {"requests": {"memory": "-1"}}),
        ("networkPolicy.apiServerPorts", []),
    ],
)
def test_what_may_not_be_said(path: str, value: object) -> None:
    assert not VALID.is_valid(_with(path, value))


@pytest.mark.parametrize("name", ["webhook-rbac.yaml", "recommender-rbac.yaml", "viewer-rbac.yaml"])
def test_every_right_says_what_it_is_for(name: str) -> None:
    """In a comment above it; of several for the same purpose, above the first."""
    silent, said = [], False
    for line in (MANIFESTS / name).read_text().splitlines():
        if line.startswith("  - apiGroups:"):
            if not said and not any(f"[{group}]" in line for group in AS_ABOVE):
                silent.append(line)
            said = False
        elif line.startswith("  #"):
            said = True
    assert silent == []
