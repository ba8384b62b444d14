"""Why does a pod with the plugin say nothing? From its spec, and from what answers in its place. Pure."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from recommender.discovery import Pod
from vllm_plugin.names import ENTRY_POINT, ENTRY_POINT_GROUP
from vllm_rightsizer.doctor.facts import Facts, Page, Raw
from vllm_rightsizer.doctor.fixes import started_anew
from vllm_rightsizer.doctor.network import blocking_policy
from webhook.detection import detect, variable
from webhook.injection import PLUGIN_VOLUME

Reason = tuple[str, str, str]
"""The finding's name, what was seen, and the command."""


@dataclass(frozen=True)
class _Silent:
    """`raw` is the pod, `container` the one with vLLM, `port` that of the plugin. No `page`: nobody asked for it."""

    facts: Facts
    pod: Pod
    page: Page | None
    raw: Raw
    container: Raw
    port: int

    @property
    def edit(self) -> str:
        workload = self.pod.key.workload
        return f"kubectl -n {self.pod.key.namespace} edit {workload.kind.lower()}/{workload.name}"

    @property
    def log(self) -> str:
        name = self.container["name"]
        return f"kubectl -n {self.pod.key.namespace} logs {self.pod.name} -c {name} | grep -i rightsizer"


def silence(facts: Facts, pod: Pod, page: Page | None) -> Reason:
    """Why nobody hears of `pod`, which runs: the first reason that holds."""
    raw = facts.pod(pod.key.namespace, pod.name)
    container = next(one for one in _containers(raw) if one["name"] == pod.key.container)
    assert pod.address is not None, "it runs"
    silent = _Silent(facts, pod, page, raw, container, pod.address[1])
    return next(filter(None, (why(silent) for why in _REASONS)), None) or _not_loaded(silent)


def _from_elsewhere(silent: _Silent) -> Reason | None:
    for name in ("PYTHONPATH", "VLLM_PLUGINS"):
        if "valueFrom" in (variable(silent.container, name) or {}):
            return "PluginPathFromElsewhere", f"{name} comes from elsewhere (valueFrom), and hides ours", silent.edit
    return None


def _not_named(silent: _Silent) -> Reason | None:
    plugins = variable(silent.container, "VLLM_PLUGINS")
    if plugins is None or ENTRY_POINT in str(plugins.get("value") or "").split(","):
        return None
    return "PluginNotNamed", f"VLLM_PLUGINS is set without {ENTRY_POINT}: vLLM loads no other", silent.edit


def _isolated(silent: _Silent) -> Reason | None:
    for engine in detect(silent.raw).engines:
        if engine.name == silent.container["name"] and engine.launch.ignores_pythonpath:
            return "PythonIsolated", "Python is started with -I or -E, which leaves PYTHONPATH aside", silent.edit
    return None


def _map_gone(silent: _Silent) -> Reason | None:
    """The ConfigMap of the plugin that it mounts."""
    if "ConfigMap" in silent.facts.unseen:
        return None
    there = {one["metadata"]["name"] for one in silent.facts.of("ConfigMap", silent.pod.key.namespace)}
    for volume in silent.raw["spec"].get("volumes") or ():
        name = (volume.get("configMap") or {}).get("name")
        if (
            volume.get("name") == PLUGIN_VOLUME
            and name
            and name not in there
            and "ConfigMap" not in silent.facts.unseen
        ):
            seen = f"it mounts the ConfigMap {name}, which is not there"
            return "PluginMapGone", seen, started_anew(silent.pod.key)
    return None


def _blocked(silent: _Silent) -> Reason | None:
    policy = blocking_policy(silent.facts, silent.raw, silent.port)
    if policy is None or _another_answers(silent) is not None:
        return None
    name = policy["metadata"]["name"]
    seen = f"NetworkPolicy {name} does not let the recommender reach port {silent.port}"
    return "NetworkPolicyBlocks", seen, f"kubectl -n {silent.pod.key.namespace} edit networkpolicy/{name}"


def _port_taken(silent: _Silent) -> Reason | None:
    """By another container that declares it, or by vLLM itself where it is told to serve there."""
    for other in _containers(silent.raw):
        declared = {item.get("containerPort") for item in other.get("ports") or ()}
        if other is not silent.container and silent.port in declared:
            seen = f"container {other['name']} has the plugin's port {silent.port}, too"
            return "PortTaken", seen, silent.edit
    words = (*(silent.container.get("command") or ()), *(silent.container.get("args") or ()))
    line = " ".join(map(str, words)) + " "
    if f"--port={silent.port} " in line or f"--port {silent.port} " in line:
        return "PortTaken", f"vLLM itself has the plugin's port {silent.port}, too", silent.edit
    return None


def _another_answers(silent: _Silent) -> Reason | None:
    page = silent.page
    if page is None or page.trouble is None or not page.answered:
        return None
    return "PortTaken", f"on port {silent.port} something else answers: {page.trouble}", silent.log


def _not_heard(silent: _Silent) -> Reason | None:
    if silent.page is not None and silent.page.trouble is not None:
        return None
    return "PluginNotHeard", "the recommender does not reach its page", silent.log


def _not_loaded(silent: _Silent) -> Reason:
    asked = f"m.entry_points(group='{ENTRY_POINT_GROUP}', name='{ENTRY_POINT}')"
    where = f"kubectl -n {silent.pod.key.namespace} exec {silent.pod.name} -c {silent.container['name']}"
    look = f'{where} -- python3 -c "import importlib.metadata as m; print({asked})"'
    trouble = silent.page.trouble if silent.page is not None else ""
    return "PluginSilent", f"nothing answers on port {silent.port}: vLLM has not loaded the plugin ({trouble})", look


def _containers(raw: Raw) -> list[Raw]:
    spec = raw["spec"]
    return [*(spec.get("containers") or ()), *(spec.get("initContainers") or ())]


_REASONS: tuple[Callable[[_Silent], Reason | None], ...] = (
    _from_elsewhere,
    _not_named,
    _isolated,
    _map_gone,
    _blocked,
    _port_taken,
    _another_answers,
    _not_heard,
)
