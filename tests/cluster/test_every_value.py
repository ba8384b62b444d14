"""Every value of the chart is explained where it stands, and changes something."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from bench.lab.chart import CHART, Helm, HelmError
from bench.lab.programs import folder_with

pytestmark = pytest.mark.e2e

Raw = dict[str, Any]
Place = tuple[str, ...]

FILE = CHART / "values.yaml"
VALUES: Raw = YAML(typ="safe", pure=True).load(FILE)

TERMS: list[Raw] = [{"key": "gpu", "operator": "Exists"}]
OTHERS: dict[str, Any] = {
    "image.digest": f"sha256:{'1' * 64}",
    "vllm.injection.image.digest": f"sha256:{'1' * 64}",
    "image.pullPolicy": "Always",
    "image.pullSecrets": [{"name": "registry"}],
    "vllm.injection.way": "init-container",
    "vllm.injection.initContainer.cpu": "200m",
    "vllm.injection.initContainer.memory": "1Gi",
    "clusterAutomation.vllm.mode": "DryRun",
    "clusterAutomation.vllm.emitter": "hami",
    "clusterAutomation.vllm.customOwnerGroups": [{"name": "by-model", "byLabels": ["model"]}],
    "policies.default": {"percentile": 100},
    "prices": {"date": "2026-11-01"},
    "webhook.scope": "OptOut",
    "webhook.certManager.issuerRef": {"name": "internal"},
    "webhook.certManager.duration": "24h",
    "webhook.certManager.renewBefore": "1h",
    "recommender.persistence.size": "1Ti",
    "recommender.persistence.accessModes": ["ReadWriteMany"],
    "recommender.prometheus.url": "http://prometheus:9090",
    "recommender.openCost": "http://opencost:9003",
    "networkPolicy.apiServerPorts": [8443],
    "networkPolicy.dnsPorts": [8053],
    "networkPolicy.metricsFrom": [{"podSelector": {}}],
    "metrics.prometheusRule.runbookBase": "https://git.example/vllm-rightsizer/",
}
"""A value other than the default, where it cannot be told from that."""
BY_NAME: dict[str, Any] = {
    "resources": {"requests": {"cpu": "1"}},
    "tolerations": TERMS,
    "affinity": {"nodeAffinity": {}},
    "topologySpreadConstraints": [],
    "interval": "1m",
    "cpu": "2",
    "memory": "2Gi",
}
"""The same by the last part of the name."""
MONITORS = ("serviceMonitor", "podMonitor", "prometheusRule", "dashboard")
REGISTRY: Raw = {"image": {"registry": "registry.example/team"}}
PROMETHEUS: Raw = {"recommender": {"prometheus": {"url": "http://prometheus:9090"}}}
NEEDED: dict[str, Raw] = {
    "vllm.injection.way": REGISTRY,
    "vllm.injection.image": {**REGISTRY, "vllm": {"injection": {"way": "image-volume"}}},
    "vllm.injection.initContainer": {**REGISTRY, "vllm": {"injection": {"way": "init-container"}}},
    "webhook.certManager": {"webhook": {"certManager": {"enabled": True}}},
    "webhook.serviceAccount.create": {"webhook": {"serviceAccount": {"name": "admission"}}},
    "recommender.serviceAccount.create": {"recommender": {"serviceAccount": {"name": "sizing"}}},
    "recommender.prometheus": PROMETHEUS,
    "recommender.prometheus.tokenSecret.key": {
        "recommender": {"prometheus": {"url": "http://prometheus:9090", "tokenSecret": {"name": "token"}}}
    },
    "recommender.prometheus.headersSecret.key": {
        "recommender": {"prometheus": {"url": "http://prometheus:9090", "headersSecret": {"name": "headers"}}}
    },
    "recommender.prometheus.caConfigMap.key": {
        "recommender": {"prometheus": {"url": "http://prometheus:9090", "caConfigMap": {"name": "authority"}}}
    },
    "recommender.replicas": {"recommender": {"persistence": {"enabled": False}, **PROMETHEUS["recommender"]}},
    "recommender.podDisruptionBudget": {
        "recommender": {"replicas": 2, "persistence": {"enabled": False}, **PROMETHEUS["recommender"]}
    },
    "networkPolicy": {"networkPolicy": {"enabled": True}},
    **{f"metrics.{monitor}": {"metrics": {monitor: {"enabled": True}}} for monitor in MONITORS},
}
"""What must be said besides, by where a name begins; the longest holds."""
SWITCHED_ON: Raw = {
    **REGISTRY,
    "vllm": {"injection": {"way": "init-container"}},
    "webhook": {"certManager": {"enabled": True}},
    **PROMETHEUS,
    "networkPolicy": {"enabled": True},
    "metrics": {kind: {"enabled": True} for kind in MONITORS},
}
"""Most of what is off by default."""
ODD = "1e3"
"""A name that YAML takes for a number."""
_OF_PODS: Raw = {
    "serviceAccount": {"name": ODD, "annotations": {"one": ODD}},
    "podLabels": {"one": ODD},
    "podAnnotations": {"one": ODD},
    "nodeSelector": {"one": ODD},
    "priorityClassName": ODD,
    "extraArgs": [ODD],
    "resources": {"requests": {"cpu": 0.5, "memory": 67108864}},
}
ODD_NAMES: Raw = {
    "nameOverride": ODD,
    "fullnameOverride": "null",
    "commonLabels": {"one": ODD},
    "image": {"registry": "[fd00::5]:5000", "tag": ODD, "pullSecrets": [{"name": ODD}]},
    "vllm": {"injection": {"way": "init-container", "initContainer": {"cpu": 0.5, "memory": 67108864}}},
    "clusterAutomation": {"vllm": {"defaultPolicy": ODD}},
    "policies": {ODD: {"minKV": 2147483648}},
    "networkPolicy": {"enabled": True},
    "metrics": {kind: {"enabled": True} for kind in MONITORS},
    "webhook": _OF_PODS,
    "recommender": {
        **_OF_PODS,
        "serviceAccount": {"name": "2e3", "annotations": {"one": ODD}},
        "persistence": {"size": 10737418240, "storageClassName": ODD},
        "prometheus": {
            "url": "http://prometheus",
            **{kind: {"name": ODD} for kind in ("tokenSecret", "headersSecret", "caConfigMap")},
        },
    },
}


def _leaves(values: Raw, path: Place = ()) -> Iterator[tuple[Place, Any]]:
    for name, value in values.items():
        if isinstance(value, dict) and value and name != "resources":
            yield from _leaves(value, (*path, name))
        else:
            yield (*path, name), value


LEAVES = dict(_leaves(VALUES))


def _another(path: Place, value: Any) -> Any:
    """Of what the value may be, something else."""
    name = ".".join(path)
    if name in OTHERS:
        return OTHERS[name]
    if path[-1] in BY_NAME:
        return BY_NAME[path[-1]]
    if isinstance(value, bool):
        return not value
    if isinstance(value, int):
        return value + 1
    if isinstance(value, str):
        return "other"
    return ["other"] if isinstance(value, list) else {"other": "one"}


def _merged(values: Raw, path: Place, value: Any) -> Raw:
    made = copy.deepcopy(values)
    inner = made
    for part in path[:-1]:
        inner = inner.setdefault(part, {})
    inner[path[-1]] = value
    return made


_RENDERED: dict[str, str] = {}
"""What others need, rendered once."""


@pytest.fixture(scope="module")
def helm(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Helm:
    with request.config.pluginmanager.getplugin("capturemanager").global_and_fixture_disabled():
        folder_with("helm")
    return Helm(tmp_path_factory.mktemp("helm"))


@pytest.mark.parametrize("path", LEAVES, ids=".".join)
def test_it_changes_something(helm: Helm, path: Place) -> None:
    begins = [".".join(path[:length]) for length in range(len(path), 0, -1)]
    needed = next((NEEDED[begin] for begin in begins if begin in NEEDED), {})
    value = LEAVES[path]
    other = _another(path, value)
    assert other != value
    if path in dict(_leaves(needed)):
        # It is what the others need.
        needed = {}
    begun = json.dumps(needed)
    if begun not in _RENDERED:
        _RENDERED[begun] = helm.render(needed)
    assert helm.render(_merged(needed, path, other)) != _RENDERED[begun]


@pytest.mark.parametrize(
    "more",
    [{}, {"webhook": {"certManager": {"enabled": True}}}, {"recommender": {"persistence": {"existingClaim": ODD}}}],
    ids=["own", "cert-manager", "existing-claim"],
)
def test_names_stay_texts_and_bytes_whole_numbers(helm: Helm, more: Raw) -> None:
    """Whatever YAML or Helm, to which every number of a file is a float, would make of them."""
    values = {**ODD_NAMES, **{part: {**ODD_NAMES[part], **settings} for part, settings in more.items()}}
    rendered = helm("template", ODD, str(CHART), f"--namespace={ODD}", values=values)
    assert {"- --init-cpu=0.5", "- --init-memory=67108864"} <= {line.strip() for line in rendered.splitlines()}
    documents = list(YAML(typ="safe", pure=True).load_all(StringIO(rendered)))
    assert [found for document in documents for found in _not_as_written(document)] == []
    assert [document["kind"] for document in documents if not isinstance(document["metadata"]["name"], str)] == []


@pytest.mark.parametrize("version", [4, 3])
def test_null_is_as_empty(helm: Helm, tmp_path: Path, version: int) -> None:
    """Of each value that has an empty one, all at once."""
    if version != helm.version:
        helm = Helm(tmp_path, version=version)
    empty, nothing = SWITCHED_ON, SWITCHED_ON
    for path, value in LEAVES.items():
        if path in dict(_leaves(SWITCHED_ON)) or path[0] == "policies":
            continue
        if path[-1] == "resources":
            # An empty mapping would leave the defaults in place.
            empty = _merged(empty, path, dict.fromkeys(value))
        elif path[-1] == "topologySpreadConstraints" or value in ("", {}, []):
            empty = _merged(empty, path, type(value)())
        else:
            continue
        nothing = _merged(nothing, path, None)
    assert nothing["webhook"]["podLabels"] is None
    assert helm.render(nothing) == helm.render(empty)


def test_null_where_nothing_is_empty(helm: Helm) -> None:
    for path in (("webhook", "scope"), ("vllm", "observability"), ("networkPolicy", "apiServerPorts")):
        with pytest.raises(HelmError, match=rf"(?s){path[0]}.*{path[1]}"):
            helm.render(_merged({}, path, None))


def _not_as_written(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    if isinstance(value, dict):
        for name, inner in value.items():
            yield from _not_as_written(name, (*path, "name"))
            yield from _not_as_written(inner, (*path, name))
    elif isinstance(value, list):
        for index, inner in enumerate(value):
            yield from _not_as_written(inner, (*path, index))
    elif value == float(ODD) or (isinstance(value, float) and value.is_integer()):
        yield (*path, value)


def test_it_is_explained() -> None:
    """By a comment above it, or above the first of a run of values of the same depth, or above what it is part of."""
    explained: dict[int, bool] = {}
    """By depth."""
    missing = []
    comment = False
    for line in FILE.read_text().splitlines():
        if not line.strip():
            explained, comment = {}, False
            continue
        depth = len(line) - len(line.lstrip())
        if line.lstrip().startswith("#"):
            comment = True
            continue
        above = any(said for other, said in explained.items() if other < depth)
        explained = {other: said for other, said in explained.items() if other <= depth}
        explained[depth] = comment or explained.get(depth, False)
        if not line.rstrip().endswith(":") and not explained[depth] and not above:
            missing.append(line.strip())
        comment = False
    assert missing == []
