"""Which rights the chart gives for which values: those of what is switched on. docs/security.md has each of them."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from bench.lab.chart import Helm
from bench.lab.programs import ROOT, folder_with
from bench.lab.webhook import NAMESPACE
from vllm_rightsizer.doctor.rights import rights_of_recommender, rights_of_webhook

from .recommenders import RULE_OF_CLAIMS

pytestmark = pytest.mark.e2e

Raw = dict[str, Any]
Right = tuple[str, str, str]
"""Component, verb and resource."""

PAGE = ROOT / "docs" / "security.md"
COMPONENTS = ("webhook", "recommender", "crds")
REGISTRY = {"image": {"registry": "registry.example/team"}}
PROMETHEUS = {"persistence": {"enabled": False}, "prometheus": {"url": "http://prometheus.monitoring:9090"}}
WITH_CLAIMS: Raw = {"recommender": {"gpuClaims": True}}


def of(component: str, resource: str, *verbs: str) -> set[Right]:
    return {(component, verb, resource) for verb in verbs}


PLUGIN_MAPS = of("recommender", "configmaps", "list", "watch", "create")
CLAIMS = of("recommender", "resourceclaimtemplates", "list", "watch", "create", "delete")
LEASES = of("recommender", "leases", "create", "get", "update")
OWN_CERTIFICATES = of("webhook", "secrets", "create", "list", "watch", "patch") | of(
    "webhook", "mutatingwebhookconfigurations", "patch"
)
DEFINITIONS = of("crds", "customresourcedefinitions", "create", "get", "patch")

DIFFERENCES: dict[str, tuple[Raw, set[Right]]] = {
    "by init container": ({**REGISTRY, "vllm": {"injection": {"way": "init-container"}}}, PLUGIN_MAPS),
    "by image volume": ({**REGISTRY, "vllm": {"injection": {"way": "image-volume"}}}, PLUGIN_MAPS),
    "without the plugin": ({"vllm": {"observability": {"enabled": False}}}, PLUGIN_MAPS),
    "the emitter dra": ({"clusterAutomation": {"vllm": {"emitter": "dra"}}}, CLAIMS),
    "dra of others": (WITH_CLAIMS, CLAIMS),
    "dra of others by name": ({"clusterAutomation": {"create": False}, **WITH_CLAIMS}, CLAIMS),
    "another emitter": ({"clusterAutomation": {"vllm": {"emitter": "hami"}}}, set()),
    "cert-manager": ({"webhook": {"certManager": {"enabled": True}}}, OWN_CERTIFICATES),
    "no election": ({"recommender": {"leaderElection": False}}, LEASES),
    "definitions by hand": ({"crds": {"apply": False}}, DEFINITIONS),
    "two on Prometheus": ({"recommender": {"replicas": 2, **PROMETHEUS}}, set()),
    "all namespaces": ({"webhook": {"scope": "OptOut"}}, set()),
    "HTTP API": ({"recommender": {"api": {"enabled": True}}}, set()),
    "network policies": ({"networkPolicy": {"enabled": True}}, set()),
    "automation": ({"clusterAutomation": {"vllm": {"optimize": True}}}, set()),
    "prices": ({"prices": {"date": "2026-11-01"}}, set()),
}
"""What a value adds to the rights of the defaults, or takes away."""


@pytest.fixture(scope="module")
def helm(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Helm:
    with request.config.pluginmanager.getplugin("capturemanager").global_and_fixture_disabled():
        folder_with("helm")
    return Helm(tmp_path_factory.mktemp("helm"))


_RENDERED: dict[str, list[Raw]] = {}


def rendered(helm: Helm, values: Raw | None) -> list[Raw]:
    """What these values make, hooks included; rendered once."""
    key = json.dumps(values)
    if key not in _RENDERED:
        found = YAML(typ="safe", pure=True).load_all(StringIO(helm.render(values)))
        _RENDERED[key] = [one for one in found if one]
    return _RENDERED[key]


def rules(helm: Helm, values: Raw | None) -> dict[str, list[Raw]]:
    """Of each component; none of it is granted twice, or to nobody."""
    found: dict[str, list[Raw]] = {}
    documents = rendered(helm, values)
    bound = {(one["roleRef"]["kind"], one["roleRef"]["name"]) for one in documents if one["kind"].endswith("Binding")}
    for one in documents:
        component = one["metadata"].get("labels", {}).get("app.kubernetes.io/component")
        if one["kind"] in ("ClusterRole", "Role") and component in COMPONENTS:
            assert (one["kind"], one["metadata"]["name"]) in bound
            found.setdefault(component, []).extend(one["rules"])
    return found


def rights(helm: Helm, values: Raw | None) -> set[Right]:
    return {
        (component, verb, resource)
        for component, granted in rules(helm, values).items()
        for rule in granted
        for resource in rule["resources"]
        for verb in rule["verbs"]
    }


@pytest.mark.parametrize("case", DIFFERENCES)
def test_what_a_feature_adds_or_takes_away(helm: Helm, case: str) -> None:
    values, different = DIFFERENCES[case]
    assert rights(helm, values) ^ rights(helm, None) == different


@pytest.mark.parametrize("case", DIFFERENCES)
def test_the_programs_are_told_of_it(helm: Helm, case: str) -> None:
    """What may not be followed is not tried again and again, and the doctor misses nothing of it."""
    values, _ = DIFFERENCES[case]
    granted = rights(helm, values)
    arguments: dict[str, list[str]] = {
        one["spec"]["template"]["spec"]["containers"][0]["name"]: one["spec"]["template"]["spec"]["containers"][0][
            "args"
        ]
        for one in rendered(helm, values)
        if one["kind"] == "Deployment"
    }
    said = arguments["recommender"]
    assert ("--no-plugin-maps" in said) == bool(PLUGIN_MAPS - granted)
    assert ("--no-gpu-claims" in said) == bool(CLAIMS - granted)
    assert ("--no-leader-elect" in said) == bool(LEASES - granted)
    needed = rights_of_recommender(
        NAMESPACE,
        elects="--no-leader-elect" not in said,
        plugin_maps="--no-plugin-maps" not in said,
        claims="--no-gpu-claims" not in said,
    ) | rights_of_webhook(
        NAMESPACE,
        "vllm-rightsizer",
        "vllm-rightsizer-webhook-tls",
        own_certificates=not any(one.startswith("--tls-dir") for one in arguments["webhook"]),
    )
    assert {(one.component, one.verb, one.resource) for one in needed} == {one for one in granted if one[0] != "crds"}


def test_the_page_has_each_right_and_no_other(helm: Helm) -> None:
    assert written(PAGE, COMPONENTS) == rights(helm, WITH_CLAIMS)


def test_rules_of_claims_are_those_that_tests_grant(helm: Helm) -> None:
    [rule] = [one for one in rules(helm, WITH_CLAIMS)["recommender"] if one["resources"] == ["resourceclaimtemplates"]]
    assert rule == RULE_OF_CLAIMS


def written(page: Path, who: Sequence[str]) -> set[Right]:
    """The table of rights: a row has who has them, verbs, and resources."""
    found: set[Right] = set()
    _, _, table = page.read_text().partition("\n## Every right\n")
    for component, verbs, resources in re.findall(
        rf"^\| ({'|'.join(who)}) \| ([a-z, ]+) \| ([^|]+) \|", table, re.MULTILINE
    ):
        for resource in re.findall(r"`([a-z/]+)`", resources):
            for verb in verbs.split(", "):
                assert (component, verb, resource) not in found, "it stands there twice"
                found.add((component, verb, resource))
    return found
