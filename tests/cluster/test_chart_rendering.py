"""What the chart renders for a table of values: as it is written down beside this file, and as the API server takes it.

What each case changes of the defaults stands in `chart_cases/CASE.diff`. After a change of the chart that is meant,
`REWRITE=1 pytest -m e2e tests/cluster/test_chart_rendering.py` writes them anew: look at what `git diff` says then.
"""

from __future__ import annotations

import difflib
import os
import re
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from bench.lab.chart import CHART, RULES, Helm, HelmError, manifests
from bench.lab.client import documents
from bench.lab.control_plane import ControlPlane
from bench.lab.programs import folder_with
from bench.lab.webhook import MANIFESTS, NAMESPACE
from recommender.api.scopes import Scope
from recommender.leading import LEASE
from vllm_plugin.names import LABEL_INJECT, VERSION

pytestmark = pytest.mark.e2e

Raw = dict[str, Any]

HERE = Path(__file__).parent / "chart_cases"
DASHBOARD = CHART.parent / "grafana" / "vllm-rightsizer.json"
FOREIGN = ("podmonitors", "prometheusrules", "servicemonitors")
REGISTRY = {"image": {"registry": "registry.example/team"}}
STRICT = "rendered-restricted"
"""A namespace that warns of every pod which Pod Security's strictest level would refuse."""
RELEASED = re.compile(rf"(?<![\d.]){re.escape(VERSION)}(?![\d.])")

CASES: dict[str, Raw] = {
    "observe-only": {"vllm": {"observability": {"enabled": False}}},
    "registry": {"image": {"registry": "registry.example:5000/team/"}},
    "init-container": {
        **REGISTRY,
        "vllm": {"injection": {"way": "init-container", "initContainer": {"memory": "128Mi"}}},
    },
    "image-volume": {
        "image": {"registry": "registry.example/team", "digest": f"sha256:{'1' * 64}"},
        "vllm": {"injection": {"way": "image-volume", "image": {"digest": f"sha256:{'0' * 64}"}}},
    },
    "opt-out": {"webhook": {"scope": "OptOut"}},
    "automation": {
        "clusterAutomation": {
            "vllm": {
                "optimize": True,
                "defaultPolicy": "calm",
                "mode": "DryRun",
                "emitter": "hami",
                "customOwnerGroups": [{"name": "by-model", "byLabels": ["model"]}],
            }
        },
        "policies": {"calm": {"percentile": 100, "minKV": "2Gi", "hitRateLoss": {"points": 0.5}}},
    },
    "nobody-automates": {"clusterAutomation": {"create": False}, "policies": {"default": None}},
    "prices": {"prices": {"date": "2026-11-01", "currency": "EUR", "products": {"NVIDIA-L40S": 0.95}}},
    "cert-manager": {"webhook": {"certManager": {"enabled": True}}},
    "cert-manager-of-others": {
        "webhook": {"certManager": {"enabled": True, "issuerRef": {"kind": "ClusterIssuer", "name": "internal"}}}
    },
    "prometheus": {
        "recommender": {
            "persistence": {"enabled": False},
            "prometheus": {
                "url": "https://thanos.monitoring:9090",
                "tokenSecret": {"name": "thanos-token"},
                "headersSecret": {"name": "thanos-headers"},
                "caConfigMap": {"name": "service-ca"},
                "headers": ["X-Scope-OrgID: team"],
                "matchers": ['cluster="eu"'],
            },
            "api": {"enabled": True},
        }
    },
    "several-recommenders": {
        "recommender": {
            "replicas": 2,
            "persistence": {"enabled": False},
            "prometheus": {"url": "http://prometheus.monitoring:9090"},
            "openCost": "http://opencost:9003",
        }
    },
    "no-election": {"recommender": {"leaderElection": False, "persistence": {"enabled": False}}},
    "claims": {"clusterAutomation": {"vllm": {"emitter": "dra"}}},
    "labels": {
        "commonLabels": {"team": "inference"},
        "webhook": {
            "podLabels": {"sidecar": "no"},
            "podAnnotations": {"example.com/scan": "true"},
            "serviceAccount": {"name": "admission", "annotations": {"example.com/identity": "admission"}},
        },
        "recommender": {
            "podLabels": {"sidecar": "no"},
            "podAnnotations": {"example.com/scan": "true"},
            "serviceAccount": {"name": "sizing"},
        },
    },
    "accounts-of-others": {
        "webhook": {"serviceAccount": {"create": False, "name": "admission"}},
        "recommender": {"serviceAccount": {"create": False, "name": "sizing"}},
        "rbac": {"aggregateToView": False},
    },
    "host-network": {"webhook": {"hostNetwork": True, "port": 10260}},
    "limits": {"crds": {"resources": {"limits": {"cpu": "500m"}}}},
    "network-policies": {
        "recommender": {"prometheus": {"url": "https://thanos.example/api"}, "openCost": "http://opencost:9003"},
        "networkPolicy": {
            "enabled": True,
            "metricsFrom": [{"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "monitoring"}}}],
        }
    },
    "monitors": {
        "metrics": {
            "serviceMonitor": {"enabled": True, "labels": {"release": "prometheus"}},
            "podMonitor": {"enabled": True, "interval": "1m"},
        }
    },
    "placement": {
        "image": {
            "registry": "registry.example/tools",
            "tag": "nightly-1",
            "pullPolicy": "Always",
            "pullSecrets": [{"name": "registry"}],
        },
        "webhook": {
            "replicas": 1,
            "drainSeconds": 30,
            "extraArgs": ["--host=0.0.0.0"],
            "priorityClassName": "system-cluster-critical",
            "nodeSelector": {"kubernetes.io/os": "linux"},
            "tolerations": [{"key": "infra", "operator": "Exists"}],
            "affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [
                {"matchExpressions": [{"key": "pool", "operator": "In", "values": ["infra"]}]}
            ]}}},
            "topologySpreadConstraints": [
                {"maxSkew": 2, "topologyKey": "topology.kubernetes.io/zone", "whenUnsatisfiable": "DoNotSchedule"}
            ],
        },
        "recommender": {"persistence": {"existingClaim": "measurements"}, "tolerations": [{"operator": "Exists"}]},
    },
}  # fmt: skip
ON_PROMETHEUS = {"persistence": {"enabled": False}, "prometheus": {"url": "http://prometheus.monitoring:9090"}}
MORE: dict[str, Raw] = {
    "rules": {"metrics": {"prometheusRule": {"enabled": True}}},
    "dashboard": {"metrics": {"dashboard": {"enabled": True, "annotations": {"grafana_folder": "vLLM"}}}},
    "names": {
        "fullnameOverride": "sizes",
        "nameOverride": "sizing",
        "recommender": {"prometheus": {"url": "http://prometheus.monitoring:9090"}},
        "metrics": {"serviceMonitor": {"enabled": True}},
    },
}
REFUSED_BY_PSS = {("host-network", "Deployment", "dry-vllm-rightsizer-webhook"): "host namespaces (hostNetwork=true)"}
"""By case, kind and name: what `restricted` says of pods that somebody wants all the same."""


@pytest.fixture(scope="module")
def helm(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Helm:
    with request.config.pluginmanager.getplugin("capturemanager").global_and_fixture_disabled():
        folder_with("helm", "helm3")
    return Helm(tmp_path_factory.mktemp("helm"))


@pytest.fixture(scope="module")
def default(helm: Helm) -> str:
    return helm.render()


def _documents(text: str) -> list[Raw]:
    return [document for document in YAML(typ="safe", pure=True).load_all(StringIO(text)) if document]


def test_lint(helm: Helm) -> None:
    assert "0 chart(s) failed" in helm("lint", "--strict", str(CHART))


def test_what_kubectl_applies_is_what_the_chart_renders(helm: Helm, tmp_path: Path) -> None:
    made = manifests(helm, tmp_path / "rendered")
    found = {file.name: file.read_text() for file in MANIFESTS.glob("*.yaml") if file.name != "namespace.yaml"}
    assert found == made, "run make manifests"


@pytest.mark.parametrize("case", [*CASES, *MORE])
def test_both_helms_render_the_same(tmp_path: Path, helm: Helm, case: str) -> None:
    values = CASES.get(case) or MORE[case]
    old = Helm(tmp_path, version=3)
    by_name = {}
    for program in (helm, old):
        found = _documents(program.render(values))
        by_name[program.version] = {f"{one['kind']}/{one['metadata']['name']}": one for one in found}
    assert by_name[3] == by_name[4]


@pytest.mark.parametrize("case", CASES)
def test_what_a_value_changes(helm: Helm, default: str, case: str) -> None:
    # That of the next release changes nothing.
    before, after = (RELEASED.sub("VERSION", text).splitlines() for text in (default, helm.render(CASES[case])))
    lines = difflib.unified_diff(before, after, "default", case, n=2, lineterm="")
    # Numbers of lines would change with every line above them.
    diff = "".join(f"{'@@' if line.startswith('@@') else line.rstrip()}\n" for line in lines)
    file = HERE / f"{case}.diff"
    if os.environ.get("REWRITE"):
        HERE.mkdir(exist_ok=True)
        file.write_text(diff)
    assert diff == file.read_text()


@pytest.mark.parametrize("case", [*CASES, *MORE])
def test_it_fits_together(helm: Helm, case: str) -> None:
    """Whatever the objects are called: each that is named in another one is there."""
    values = CASES.get(case) or MORE[case]
    found = _documents(helm.render(values))
    names = {(one["kind"], one["metadata"]["name"]): one for one in found}
    for part in ("webhook", "recommender"):
        account = values.get(part, {}).get("serviceAccount", {})
        if not account.get("create", True):
            assert ("ServiceAccount", account["name"]) not in names, "it is somebody else's"
            names["ServiceAccount", account["name"]] = {}
    for one in found:
        if one["kind"] == "Deployment":
            spec = one["spec"]["template"]["spec"]
            assert ("ServiceAccount", spec["serviceAccountName"]) in names
            labels = one["spec"]["template"]["metadata"]["labels"]
            assert one["spec"]["selector"]["matchLabels"].items() <= labels.items()
        elif one["kind"].endswith("Binding"):
            assert (one["roleRef"]["kind"], one["roleRef"]["name"]) in names
            assert ("ServiceAccount", one["subjects"][0]["name"]) in names
        elif one["kind"] == "Service":
            [target] = [
                other["spec"]["template"]["spec"]["containers"][0]
                for other in found
                if other["kind"] == "Deployment" and other["spec"]["selector"]["matchLabels"] == one["spec"]["selector"]
            ]
            assert one["spec"]["ports"][0]["targetPort"] in {port["name"] for port in target["ports"]}
            if any(argument.startswith("--prometheus=") for argument in target["args"]):
                job = _job(one, found)
                assert f'--prometheus-recommender-matcher=job="{job}"' in target["args"]
    for one in found:
        if one["kind"] == "Role" and one["metadata"]["name"].endswith("-recommender"):
            assert one["rules"][-1]["resourceNames"] == [LEASE]
    [configuration] = [one for one in found if one["kind"] == "MutatingWebhookConfiguration"]
    called = configuration["webhooks"][0]["clientConfig"]["service"]["name"]
    assert ("Service", called) in names
    [container] = names["Deployment", called]["spec"]["template"]["spec"]["containers"]
    own = configuration["metadata"]["name"]
    assert {f"--service={called}", f"--configuration={own}"} <= set(container["args"])
    assert names["ClusterRole", called]["rules"][-1]["resourceNames"] == [own]
    if ("Role", called) in names:
        [secret] = names["Role", called]["rules"][-1]["resourceNames"]
        assert f"--tls-secret={secret}" in container["args"]
    else:
        [mounted] = names["Deployment", called]["spec"]["template"]["spec"]["volumes"]
        assert names["Certificate", called]["spec"]["secretName"] == mounted["secret"]["secretName"]


def _job(service: Raw, found: list[Raw]) -> str:
    """What Prometheus' operator calls the job of a Service: as that, unless its ServiceMonitor says otherwise."""
    labels = service["metadata"]["labels"].items()
    for one in found:
        if one["kind"] == "ServiceMonitor" and one["spec"]["selector"]["matchLabels"].items() <= labels:
            for rule in one["spec"]["endpoints"][0].get("relabelings", ()):
                if rule["targetLabel"] == "job":
                    return str(rule["replacement"])
    return str(service["metadata"]["name"])


def test_the_rules_are_those_of_prometheus(helm: Helm) -> None:
    values = {"metrics": {"prometheusRule": {"enabled": True, "labels": {"release": "prometheus"}}}}
    [made] = [one for one in _documents(helm.render(values)) if one["kind"] == "PrometheusRule"]
    assert made["spec"] == documents(RULES)[0]["spec"]
    assert made["metadata"]["labels"]["release"] == "prometheus"


@pytest.mark.parametrize("slash", ["/", ""])
def test_an_alert_leads_to_its_runbook_where_that_is_read(helm: Helm, slash: str) -> None:
    base = "https://git.example/vllm-rightsizer/blob/main/"
    values = {"metrics": {"prometheusRule": {"enabled": True, "runbookBase": base.rstrip("/") + slash}}}
    [made] = [one for one in _documents(helm.render(values)) if one["kind"] == "PrometheusRule"]
    alerts = [rule for group in made["spec"]["groups"] for rule in group["rules"] if "alert" in rule]
    assert alerts
    for alert in alerts:
        assert alert["annotations"]["runbook_url"] == f"{base}docs/runbooks/{alert['alert']}.md"
    with pytest.raises(HelmError, match="runbookBase"):
        helm.render({"metrics": {"prometheusRule": {"runbookBase": "git.example"}}})


def test_the_dashboard_is_that_of_grafana(helm: Helm) -> None:
    values = {"metrics": {"dashboard": {"enabled": True, "namespace": "monitoring"}}}
    [made] = [one for one in _documents(helm.render(values)) if one["kind"] == "ConfigMap"]
    assert (made["metadata"]["namespace"], made["metadata"]["labels"]["grafana_dashboard"]) == ("monitoring", "1")
    [text] = made["data"].values()
    assert text == DASHBOARD.read_text().rstrip("\n")


@pytest.fixture(scope="module")
def takes_everything(crds: ControlPlane, request: pytest.FixtureRequest) -> ControlPlane:
    """The API server, which knows the kinds of cert-manager and of Prometheus' operator, too."""
    with request.config.pluginmanager.getplugin("capturemanager").global_and_fixture_disabled():
        operators = folder_with(*(f"monitoring.coreos.com_{kind}.yaml" for kind in FOREIGN))
        managers = folder_with("cert-manager-controller")
    files = [operators / f"monitoring.coreos.com_{kind}.yaml" for kind in FOREIGN]
    files += [managers / f"crd-{kind}.yaml" for kind in ("certificates", "issuers")]
    definitions = [document for file in files for document in documents(file)]
    for definition in definitions:
        definition["metadata"].pop("labels", None)
    crds.define(*definitions)
    crds.namespace(STRICT, {"pod-security.kubernetes.io/warn": "restricted"})
    return crds


@pytest.mark.parametrize("case", [*CASES, *MORE])
def test_the_api_server_takes_it(takes_everything: ControlPlane, helm: Helm, case: str) -> None:
    """Every field of every object is one that it knows, hooks too; and no pod is one that `restricted` refuses."""
    client = takes_everything.client
    text = helm("template", "dry", str(CHART), f"--namespace={STRICT}", values=CASES.get(case) or MORE[case])
    found = _documents(text)
    assert any(document["kind"] == "Job" for document in found)
    for document in found:
        metadata = document["metadata"]
        path = client.collection(document["apiVersion"], document["kind"], metadata.get("namespace"))
        assert metadata.get("namespace") == (STRICT if "/namespaces/" in path else None), document["kind"]
        options = {"fieldManager": "test", "force": "true", "dryRun": "All", "fieldValidation": "Strict"}
        client.patch(f"{path}/{metadata['name']}", document, "apply", **options)
        refused = REFUSED_BY_PSS.get((case, document["kind"], metadata["name"]))
        assert [refused in one for one in client.warnings if refused] == ([True] if refused else client.warnings)


@pytest.mark.parametrize("scope", Scope)
def test_a_scope_is_what_the_api_server_selects(crds: ControlPlane, helm: Helm, scope: Scope) -> None:
    """The recommender's idea of it, and the selector by which the webhook is called."""
    client = crds.client
    said = {
        "silent": {},
        "in": {LABEL_INJECT: "enabled"},
        "out": {LABEL_INJECT: "disabled"},
        "odd": {LABEL_INJECT: "x"},
    }
    for name, labels in said.items():
        crds.namespace(f"scope-{scope.value}-{name}".lower(), labels)
    client.patch("/api/v1/namespaces/kube-public", {"metadata": {"labels": {LABEL_INJECT: "enabled"}}})
    [configuration] = [
        one
        for one in _documents(helm.render({"webhook": {"scope": scope.value}}))
        if one["kind"] == "MutatingWebhookConfiguration"
    ]
    selector = configuration["webhooks"][0]["namespaceSelector"]
    words = [f"{key}={value}" for key, value in selector.get("matchLabels", {}).items()]
    words += [f"{one['key']} notin ({','.join(one['values'])})" for one in selector["matchExpressions"]]
    selected = client.get("/api/v1/namespaces", labelSelector=",".join(words))["items"]
    covered = [
        one["metadata"]["name"]
        for one in client.get("/api/v1/namespaces")["items"]
        if scope.covers(one["metadata"]["name"], one["metadata"]["labels"]) and one["metadata"]["name"] != NAMESPACE
    ]
    assert [one["metadata"]["name"] for one in selected] == covered
    assert f"scope-{scope.value}-in".lower() in covered
    assert (f"scope-{scope.value}-silent".lower() in covered) == (scope is Scope.OPT_OUT)


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"webhook": {"replica": 3}}, "replica"),
        ({"webhook": {"scope": "optin"}}, "scope"),
        ({"fullnameOverride": "Sizes"}, "fullnameOverride"),
        ({"policies": {"calm": {"percentile": 98}}}, "percentile"),
        ({"clusterAutomation": {"vllm": {"emitter": "mig"}}}, "emitter"),
        ({"webhook": {"serviceAccounts": {"name": "x"}}}, "serviceAccounts"),
        ({"image": {"registry": "https://registry.example"}}, "registry"),
        ({"vllm": {"injection": {"image": {"registry": "registry.example"}}}}, "registry"),
        ({"commonLabels": {"app.kubernetes.io/name": "mine"}}, "app.kubernetes.io/name"),
        ({part: {"serviceAccount": {"name": "x"}} for part in ("webhook", "recommender")}, "serviceAccount.name"),
        ({"webhook": {"serviceAccount": {"create": False}}}, r"webhook\.serviceAccount\.name: with create: false"),
        ({"recommender": {"serviceAccount": {"create": False}}}, r"recommender\.serviceAccount\.name: with create"),
        ({"webhook": {"port": 443}}, "port"),
        ({"recommender": {"replicas": 2}}, r"SQLite .*persistence\.enabled=false"),
        ({"recommender": {"replicas": 2, "persistence": {"accessModes": ["ReadWriteMany"]}}}, "SQLite"),
        ({"recommender": {"replicas": 2, "persistence": {"enabled": False}}}, "prometheus.url"),
        ({"recommender": {"replicas": 2, "leaderElection": False, **ON_PROMETHEUS}}, "leaderElection: without it"),
        ({"vllm": {"injection": {"way": "init-container"}}}, "image.registry"),
        ({"vllm": {"injection": {"way": "image-volume"}}}, "image.registry"),
    ],
)
def test_helm_refuses_what_may_not_be_said(helm: Helm, values: Raw, said: str) -> None:
    with pytest.raises(HelmError, match=said):
        helm.render(values)
