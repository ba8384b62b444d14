"""`doctor` on a whole cluster, and pods: nothing is found where a real vLLM is measured, and each fault comes first.

Where a fault is about the pod's shape, or about a plugin that nothing loads, an idle Python that starts at once stands
for vLLM. What the plugin of a real vLLM does is seen on a real vLLM.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from bench.lab.client import Raw
from bench.lab.kubectl import Kubectl
from bench.lab.programs import ROOT
from bench.lab.vllm_pods import vllm_pod
from vllm_plugin.names import ANNOTATION_AUTO, LABEL_INJECT, LABEL_INJECTED

from .doctor_lab import TEAM, Fault, first, idle, on_node, pod, run, there, wait_until_well
from .lab_cluster import (
    CHAT,
    NAME,
    PLUGIN_PORT,
    RECOMMENDER,
    SIZES,
    START_SECONDS,
    annotations,
    labels,
    pods_of,
    ready_pod,
    ready_pods,
    tried,
    wait_for,
    workload,
)

LATE = "team-doctor-late"
UNNAMED = "unnamed"
LISTENS = {"readinessProbe": {"tcpSocket": {"port": PLUGIN_PORT}, "periodSeconds": 1}}
_UNSPOKEN = f"{PLUGIN_PORT // 1000}_000 + {PLUGIN_PORT % 1000}"
"""The plugin's port in a script: of one that is spoken of the webhook keeps away."""


@pytest.fixture(scope="module")
def team(kubectl: Kubectl, request: pytest.FixtureRequest) -> Iterator[Kubectl]:
    """Beside the namespace with the vLLM that is measured one more that has opted in."""
    request.getfixturevalue("measured")
    kubectl.namespace(TEAM, {LABEL_INJECT: "enabled"})
    # The webhook learns a little later than we that the plugin is there.
    vllm = vllm_pod(kubectl.scratch / "model", *SIZES)
    wait_for(lambda: LABEL_INJECTED in labels(tried(kubectl, TEAM, vllm)), "plugin")
    yield kubectl
    for name in (TEAM, LATE):
        kubectl("delete", "namespace", name, "--ignore-not-found")


def _plugin_maps(kubectl: Kubectl, namespace: str) -> list[Raw]:
    own = "app.kubernetes.io/managed-by=vllm-rightsizer"
    return kubectl.items(f"--namespace={namespace}", "configmaps", "-l", own)


def test_nothing_is_found_where_all_is_well(team: Kubectl, tmp_path: Path) -> None:
    file = tmp_path / "bundle.tar.gz"
    wait_until_well(team, f"--bundle={file}")
    listed = subprocess.run(["tar", "-xzOf", str(file)], capture_output=True, text=True, check=True).stdout
    # The webhook's own log, which the kubelet gives.
    assert "the caBundle of vllm-rightsizer is written" in listed
    assert "PRIVATE KEY" not in listed


@contextmanager
def pod_older_than_the_opt_in(kubectl: Kubectl) -> Iterator[None]:
    kubectl.namespace(LATE)
    # Once it has the plugin, somebody has to answer for it.
    with there(kubectl, pod("older", idle(_page(), **LISTENS), LATE)):
        kubectl("label", "namespace", LATE, f"{LABEL_INJECT}=enabled")
        wait_for(lambda: _plugin_maps(kubectl, LATE), "plugin")
        yield
        [found] = pods_of(kubectl, LATE, "older")
        assert labels(found)[LABEL_INJECTED] == "true"


@contextmanager
def pythonpath_from_elsewhere(kubectl: Kubectl) -> Iterator[None]:
    path = {"name": "PYTHONPATH", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}}
    with there(kubectl, pod("odd", idle(env=[path]))):
        yield


@contextmanager
def isolated_python(kubectl: Kubectl) -> Iterator[None]:
    with there(kubectl, pod("odd", idle("# vllm", ("-I",)))):
        yield


@contextmanager
def python_that_never_loads_the_plugin(kubectl: Kubectl) -> Iterator[None]:
    with there(kubectl, pod("odd", idle())):
        yield


@contextmanager
def port_that_another_container_has(kubectl: Kubectl) -> Iterator[None]:
    """It says so nowhere, or the webhook would have chosen another one."""
    server = "from http.server import HTTPServer, SimpleHTTPRequestHandler as Handler"
    spec = idle()
    [other] = idle(f"{server}\nHTTPServer(('', {_UNSPOKEN}), Handler).serve_forever()", **LISTENS)["containers"]
    spec["containers"].append({**other, "name": "exporter"})
    with there(kubectl, pod("odd", spec)):
        yield


@contextmanager
def release_that_the_plugin_does_not_know(kubectl: Kubectl) -> Iterator[None]:
    """The plugin's own exporter, with the page that it has in a vLLM whose classes have other methods."""
    with there(kubectl, pod("odd", idle(_page("lookup", "admission"), **LISTENS))):
        yield


def _page(*hooks_off: str) -> str:
    """A plugin that speaks, without a vLLM behind it."""
    return f"""
import os, sys
sys.path.append({str(ROOT)!r})
from bench.lab.plugin_pods import PluginPod
class Own(PluginPod):
    uid = os.environ.get("VLLM_RIGHTSIZER_POD_UID", "")
page = Own("odd", port=int(os.environ.get("VLLM_RIGHTSIZER_PORT", {_UNSPOKEN})), hooks_off={hooks_off!r}).served()
page.__enter__()"""


@contextmanager
def network_that_keeps_the_recommender_away(kubectl: Kubectl) -> Iterator[None]:
    """A NetworkPolicy, and what a network that follows policies makes of it: the lab's own follows none. So a rule
    in the pod's network, as such an agent would write it, drops what the recommender sends to the plugin."""
    [recommender] = ready_pods(kubectl, RECOMMENDER, 1)
    [vllm] = pods_of(kubectl, CHAT, NAME)
    policy = {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": {"name": "only-requests", "namespace": CHAT},
        "spec": {
            "podSelector": {"matchLabels": {"app": NAME}},
            "policyTypes": ["Ingress"],
            "ingress": [{"ports": [{"port": 8000}]}],
        },
    }
    rule = f"INPUT --protocol tcp --source {recommender['status']['podIP']} --dport {PLUGIN_PORT} --jump DROP"
    uid = vllm["metadata"]["uid"].replace("-", "[-_]")
    on_node(kubectl, "doctor-drops", _INSIDE.format(uid=uid, command=f"iptables --insert {rule}"))
    try:
        with there(kubectl, policy):
            wait_for(lambda: "True" not in _said(kubectl, "PluginReporting"), "a scrape that fails")
            yield
    finally:
        on_node(kubectl, "doctor-lets-through", _INSIDE.format(uid=uid, command=f"iptables --delete {rule}"))
        # The command's own, which lets the recommender through.
        added = f"networkpolicy/vllm-rightsizer-plugin-{PLUGIN_PORT}"
        kubectl("delete", f"--namespace={CHAT}", added, "--ignore-not-found")
    wait_for(lambda: "True" in _said(kubectl, "PluginReporting"), "a scrape")


_INSIDE = """
for folder in /proc/[0-9]*; do
  grep --quiet --extended-regexp '{uid}' "$folder/cgroup" 2>/dev/null || continue
  if nsenter --target "${{folder#/proc/}}" --net -- {command}; then exit 0; fi
done
exit 1"""
"""By whichever process of the pod is still there."""


@contextmanager
def autoscaler_by_the_usage_of_the_pool(kubectl: Kubectl) -> Iterator[None]:
    target = {"apiVersion": "apps/v1", "kind": "Deployment", "name": NAME}
    wanted = {"type": "AverageValue", "averageValue": "800m"}
    metric = {"type": "Pods", "pods": {"metric": {"name": "vllm:kv_cache_usage_perc"}, "target": wanted}}
    scaler = {
        "apiVersion": "autoscaling/v2",
        "kind": "HorizontalPodAutoscaler",
        "metadata": {"name": "by-usage", "namespace": CHAT},
        "spec": {"minReplicas": 1, "maxReplicas": 2, "scaleTargetRef": target, "metrics": [metric]},
    }
    mine = (f"--namespace={CHAT}", f"deployment/{NAME}")
    # Where the quick start has come to its sizes, it says so itself, and goes on with it.
    was = annotations(kubectl.get(*mine)).get(ANNOTATION_AUTO)
    kubectl("annotate", *mine, "--overwrite", f"{ANNOTATION_AUTO}=true")
    try:
        with there(kubectl, scaler):
            wait_for(lambda: "True" in _said(kubectl, "AutoscalerConflict"), "a warning")
            yield
    finally:
        kubectl("annotate", *mine, "--overwrite", f"{ANNOTATION_AUTO}={was}" if was else f"{ANNOTATION_AUTO}-")


def _said(kubectl: Kubectl, type_: str) -> list[str]:
    """The condition's status, of each recommendation for the vLLM that is measured."""
    found = [one for one in kubectl.items(f"--namespace={CHAT}", "vllmrec") if "status" in one]
    return [one["status"] for raw in found for one in raw["status"].get("conditions", ()) if one["type"] == type_]


FAULTS = (
    Fault(pod_older_than_the_opt_in, "PodNotAdmitted", "older than the opt-in", "kubectl replace --force"),
    Fault(pythonpath_from_elsewhere, "PluginRefused", "takes PYTHONPATH from elsewhere", "annotate pod/odd"),
    Fault(isolated_python, "PluginRefused", "starts Python with -I or -E", "annotate pod/odd"),
    Fault(python_that_never_loads_the_plugin, "PluginSilent", "nothing answers on port", "entry_points", mends=False),
    Fault(port_that_another_container_has, "PortTaken", "something else answers", "| grep", mends=False),
    Fault(release_that_the_plugin_does_not_know, "VersionUnknown", "admission, lookup", "annotate pod/odd"),
    Fault(network_that_keeps_the_recommender_away, "NetworkPolicyBlocks", "only-requests", "apply", mends=False),
    Fault(autoscaler_by_the_usage_of_the_pool, "AutoscalerConflict", "by-usage", "get horizontal", mends=False),
)


@pytest.mark.parametrize("fault", FAULTS, ids=str)
def test_fault_is_named_first(team: Kubectl, fault: Fault) -> None:
    fault.tried(team)


def test_a_vllm_that_is_told_to_load_other_plugins(team: Kubectl) -> None:
    """A real one: a ConfigMap lists its plugins, which the webhook does not see. After the command it is measured."""
    plugins = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "settings", "namespace": TEAM}}
    spec = vllm_pod(team.scratch / "model", *SIZES)
    spec["containers"][0]["envFrom"] = [{"configMapRef": {"name": "settings"}}]
    with there(
        team,
        {**plugins, "data": {"VLLM_PLUGINS": "lora_filesystem_resolver"}},
        workload("Deployment", TEAM, UNNAMED, spec),
    ):
        before = _ready(team)
        found = first(team, "PluginNotNamed", "comes from the ConfigMap settings")
        assert found["about"] == f"Pod {TEAM}/{before['metadata']['name']}"
        run(team, found["fix"])
        wait_for(lambda: _ready(team)["metadata"]["uid"] != before["metadata"]["uid"], "another vLLM", START_SECONDS)
        wait_until_well(team)
        wait_for(lambda: _reports(team), "what it measures")
    wait_until_well(team)


def _ready(kubectl: Kubectl) -> Raw:
    return ready_pod(kubectl, TEAM, UNNAMED)


def _reports(kubectl: Kubectl) -> bool:
    found = kubectl.items(f"--namespace={TEAM}", "vllmrec")
    said = json.dumps([one.get("status") for one in found if one["spec"]["targetRef"]["name"] == UNNAMED])
    return '"1 of 1 pods report' in said
