"""docs/quick-start.md, steps 1 to 3: the first measurements of what ran before anything of ours was there."""

from __future__ import annotations

import pytest

from bench.lab.kubectl import Kubectl
from vllm_plugin.names import LABEL_INJECTED

from .lab_cluster import (
    FIGURES,
    RECOMMENDER,
    WEBHOOK,
    Installed,
    Measured,
    created,
    is_untouched,
    labels,
    plugin_says,
    ready_pods,
)

pytestmark = pytest.mark.usefixtures("served")


def test_both_servers_are_ready_after_the_install(kubectl: Kubectl, installed: Installed) -> None:
    assert installed.began
    # A probe may come too late while vLLM starts beside them; for a rollout that is over once they were ready.
    assert ready_pods(kubectl, WEBHOOK, 2)
    assert ready_pods(kubectl, RECOMMENDER, 1)
    said = kubectl.get("clusterautomation", "default")["spec"]
    assert said == {"vllmOptimize": False, "mode": "DryRun"}


def test_running_pods_stay_as_they_are(measured: Measured) -> None:
    assert is_untouched(measured.before)


def test_the_next_pod_has_the_plugin_and_its_own_arguments(installed: Installed, measured: Measured) -> None:
    assert labels(measured.pod)[LABEL_INJECTED] == "true"
    own, now = ([one["args"] for one in pod["spec"]["containers"]] for pod in (measured.before, measured.pod))
    assert own == now
    # The label was set after the install, and the restart came after the label.
    FIGURES.append(f"helm install to the first pod admitted: {created(measured.pod) - installed.began:.0f} s")


def test_the_page_of_the_plugin_is_shown(measured: Measured) -> None:
    shown = {line.partition("{")[0]: float(line.split()[-1]) for line in measured.shown.splitlines()}
    prefix = "vllm_rightsizer_"
    assert shown[f"{prefix}model_weights_bytes"] > 0
    assert shown[f"{prefix}kv_cache_capacity_bytes"] == plugin_says(measured.pod, f"{prefix}kv_cache_capacity_bytes")
    for name in ("kv_cache_active_bytes", "kv_demand_peak_bytes", "kv_cache_reusable_bytes"):
        assert f"{prefix}{name}" in shown
    for name in ("lookup_tokens_total", "hit_tokens_total"):
        assert f"{prefix}{name}" in shown


def test_a_preliminary_size_is_asked_for(kubectl: Kubectl, preliminary: float) -> None:
    assert preliminary
    assert kubectl.get("vllmpolicy", "preliminary")["spec"]["observationWindow"] == "10m"
