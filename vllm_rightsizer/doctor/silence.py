"""Why does a pod with the plugin say nothing? From its spec, and from what answers in its place. Pure."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from recommender.discovery import Pod
from vllm_plugin.names import ENTRY_POINT, ENTRY_POINT_GROUP, ENV_DISABLED
from vllm_rightsizer.doctor.facts import Facts, Page, Raw, moment, titled
from vllm_rightsizer.doctor.fixes import edited, excluded, started_anew
from vllm_rightsizer.doctor.network import blocking_policy, letting_through
from vllm_rightsizer.doctor.scripts import set_for_vllm
from webhook.detection import detect, variable
from webhook.injection import PLUGIN_VOLUME

Reason = tuple[str, str, str]
"""The finding's name, what was seen, and the command."""

PLUGINS = "VLLM_PLUGINS"
_PYTHON_PATH = "PYTHONPATH"
_MESHES = {
    "istio-proxy": "traffic.sidecar.istio.io/excludeInboundPorts",
    "linkerd-proxy": "config.linkerd.io/skip-inbound-ports",
}
"""By the container of the mesh: the annotation with the ports that it leaves alone."""
_RESET = ("reset by peer", "EOF", "Server disconnected")
_REPEATED_ERRORS = 5
"""So many switch a hook off; with fewer, it found nothing to hook."""


@dataclass(frozen=True)
class _Silent:
    """`raw` is the pod, `container` the one with vLLM, `port` that of the plugin. No `page`: nobody asked for it.
    `said`: the recommender's words about its workload."""

    facts: Facts
    pod: Pod
    page: Page | None
    raw: Raw
    container: Raw
    port: int
    said: str

    @property
    def edit(self) -> str:
        return edited(self.pod)

    @property
    def log(self) -> str:
        name = self.container["name"]
        return f"kubectl -n {self.pod.key.namespace} logs {self.pod.name} -c {name} | grep -i rightsizer"


def silence(facts: Facts, pod: Pod, page: Page | None, said: str) -> Reason:
    """Why nobody hears of `pod`, which runs: the first reason that holds. `said`: what the recommender says of it."""
    raw = facts.pod(pod.key.namespace, pod.name)
    begun = raw["spec"].get("initContainers") or ()
    container = next(one for one in (*raw["spec"]["containers"], *begun) if one["name"] == pod.key.container)
    assert pod.address is not None, "it runs"
    silent = _Silent(facts, pod, page, raw, container, pod.address[1], said)
    return next(filter(None, (why(silent) for why in _REASONS)), None) or _unexplained(silent)


def _hooks_off(silent: _Silent) -> Reason | None:
    """Its page is there and stands still."""
    off = silent.page.hooks_off if silent.page is not None else {}
    if silent.page is None or not off:
        return None
    hooks, release = ", ".join(sorted(off)), silent.page.vllm_version or "of this image"
    if max(off.values()) >= _REPEATED_ERRORS:
        seen = f"the plugin's hooks {hooks} are off after errors in vLLM {release}; a new pod tries again"
        return "HookOff", seen, started_anew(silent.pod)
    seen = f"the plugin does not know vLLM {release}: its hooks {hooks} have found nothing to hook"
    return "VersionUnknown", seen, excluded(silent.pod)


def _from_elsewhere(silent: _Silent) -> Reason | None:
    for name in (_PYTHON_PATH, PLUGINS):
        if "valueFrom" in (variable(silent.container, name) or {}):
            return "PluginPathFromElsewhere", f"{name} comes from elsewhere (valueFrom), and hides ours", silent.edit
    for name, value in _set_in_scripts(silent):
        if name == _PYTHON_PATH and _PYTHON_PATH not in value:
            seen = f"its script sets {name} anew, which hides ours: have it append to ${name}"
            return "PluginPathFromElsewhere", seen, silent.edit
    return None


def _not_named(silent: _Silent) -> Reason | None:
    """The list of plugins is there without ours: written in the pod, in a script, or in a ConfigMap."""
    # What a script says counts last.
    for name, value in _set_in_scripts(silent):
        if name == PLUGINS and not _names_ours(value) and PLUGINS not in value:
            return "PluginNotNamed", f"its script sets {PLUGINS} without {ENTRY_POINT}", silent.edit
    listed = variable(silent.container, PLUGINS)
    if listed is not None:
        seen = f"{PLUGINS} is set without {ENTRY_POINT}: vLLM loads no other"
        return None if _names_ours(str(listed.get("value") or "")) else ("PluginNotNamed", seen, silent.edit)
    for name, plugins in _plugins_of_maps(silent):
        if not _names_ours(plugins):
            seen = f"{PLUGINS} comes from the ConfigMap {name} (envFrom), without {ENTRY_POINT}"
            patch = json.dumps({"data": {PLUGINS: ",".join(filter(None, (plugins, ENTRY_POINT)))}})
            fix = f"kubectl -n {silent.pod.key.namespace} patch configmap/{name} --type=merge -p '{patch}'"
            return "PluginNotNamed", seen, f"{fix} && {started_anew(silent.pod)}"
    return None


def _set_in_scripts(silent: _Silent) -> Iterator[tuple[str, str]]:
    """Variables of Python and vLLM that its command line sets, each with what it is set to."""
    return set_for_vllm(silent.container, (PLUGINS, _PYTHON_PATH))


def _plugins_of_maps(silent: _Silent) -> Iterator[tuple[str, str]]:
    """Name and value; of several that set it, the last one counts."""
    for source in reversed(silent.container.get("envFrom") or ()):
        name, prefix = str((source.get("configMapRef") or {}).get("name") or ""), str(source.get("prefix") or "")
        known = silent.facts.environments.get((silent.pod.key.namespace, name), {})
        if PLUGINS.startswith(prefix) and PLUGINS.removeprefix(prefix) in known:
            yield name, known[PLUGINS.removeprefix(prefix)]
            return


def _names_ours(plugins: str) -> bool:
    return ENTRY_POINT in (one.strip() for one in plugins.split(","))


def _isolated(silent: _Silent) -> Reason | None:
    for engine in detect(silent.raw).engines:
        if engine.name == silent.container["name"] and engine.launch.ignores_pythonpath:
            return "PythonIsolated", "Python is started with -I or -E, which leaves PYTHONPATH aside", silent.edit
    return None


def _map_gone(silent: _Silent) -> Reason | None:
    """The ConfigMap of the plugin that it mounts."""
    name = _mounted_map(silent)
    if name is None or "ConfigMap" in silent.facts.unseen or _map(silent, name) is not None:
        return None
    return "PluginMapGone", f"it mounts the ConfigMap {name}, which is not there", started_anew(silent.pod)


def _map_late(silent: _Silent) -> Reason | None:
    """That ConfigMap has to be there before vLLM starts. Only a guess: of one that was deleted and made anew it cannot
    be seen that it was."""
    name, started = _mounted_map(silent), _started(silent)
    found = _map(silent, name) if name is not None else None
    made = found["metadata"].get("creationTimestamp") if found is not None else None
    if not made or not started or moment(started) >= moment(made):
        return None
    seen = f"it mounts the ConfigMap {name}, which was made after it had started"
    return "PluginMapLate", seen, started_anew(silent.pod)


def _mounted_map(silent: _Silent) -> str | None:
    """Its name; None where the plugin comes from elsewhere."""
    for volume in silent.raw["spec"].get("volumes") or ():
        if volume.get("name") == PLUGIN_VOLUME:
            return (volume.get("configMap") or {}).get("name") or None
    return None


def _map(silent: _Silent, name: str) -> Raw | None:
    return silent.facts.one("ConfigMap", name, silent.pod.key.namespace)


def _started(silent: _Silent) -> str | None:
    """When its vLLM did, the last time."""
    status = silent.raw.get("status") or {}
    for state in (*(status.get("containerStatuses") or ()), *(status.get("initContainerStatuses") or ())):
        if state["name"] == silent.container["name"]:
            return ((state.get("state") or {}).get("running") or {}).get("startedAt")
    return None


def _blocked(silent: _Silent) -> Reason | None:
    policy = blocking_policy(silent.facts, silent.raw, silent.port)
    if policy is None or _another_answers(silent) is not None:
        return None
    seen = f"{titled(policy, 'NetworkPolicy')} does not let the recommender reach port {silent.port}"
    return "NetworkPolicyBlocks", seen, letting_through(silent.facts, silent.raw, silent.port, policy)


def _port_taken(silent: _Silent) -> Reason | None:
    """By another container that declares it, or by vLLM itself where it is told to serve there."""
    for other in _containers(silent.raw):
        declared = {
            item.get("containerPort") for item in other.get("ports") or () if item.get("protocol", "TCP") == "TCP"
        }
        if other is not silent.container and silent.port in declared:
            seen = f"container {other['name']} has the plugin's port {silent.port}, too"
            return "PortTaken", seen, silent.edit
    words = (*(silent.container.get("command") or ()), *(silent.container.get("args") or ()))
    line = " ".join(map(str, words)) + " "
    if f"--port={silent.port} " in line or f"--port {silent.port} " in line:
        return "PortTaken", f"vLLM itself has the plugin's port {silent.port}, too", silent.edit
    return None


def _meshed(silent: _Silent) -> Reason | None:
    """A mesh that wants to know who calls resets what does not come through it: the API server, or, where it lets that
    in, the recommender alone."""
    trouble = silent.page.trouble if silent.page is not None else None
    if not any(word in f"{trouble} {silent.said}" for word in _RESET):
        return None
    for one in _containers(silent.raw):
        if annotation := _MESHES.get(str(one["name"])):
            seen = f"the mesh's {one['name']} resets plain connections"
            seen += f": name port {silent.port} in the annotation {annotation} of its pod template"
            return "MeshBlocks", seen, silent.edit
    return None


def _another_answers(silent: _Silent) -> Reason | None:
    page = silent.page
    if page is None or page.trouble is None or not page.answered:
        return None
    return "PortTaken", f"on port {silent.port} something else answers: {page.trouble}", silent.log


def _not_heard(silent: _Silent) -> Reason | None:
    if silent.page is None or silent.page.trouble is not None:
        return None
    seen = f"its page is there, and the recommender takes nothing from it: {silent.said}"
    return "PluginNotHeard", seen, f"kubectl -n {silent.pod.key.namespace} describe vllmrecommendations"


def _unexplained(silent: _Silent) -> Reason:
    if silent.page is None:
        # Nobody has looked: not allowed to, or one of too many.
        seen = f"the recommender hears nothing from port {silent.port}: {silent.said}"
    else:
        seen = f"nothing answers on port {silent.port}: vLLM has not loaded the plugin ({silent.page.trouble})"
    return "PluginSilent", seen, _look_inside(silent)


def _look_inside(silent: _Silent) -> str:
    asked = f"m.entry_points(group='{ENTRY_POINT_GROUP}', name='{ENTRY_POINT}')"
    where = f"kubectl -n {silent.pod.key.namespace} exec {silent.pod.name} -c {silent.container['name']}"
    variables = f"{{name: os.environ.get(name) for name in ('PYTHONPATH', '{PLUGINS}', '{ENV_DISABLED}')}}"
    return f'{where} -- python3 -c "import importlib.metadata as m, os; print({asked}, {variables})"'


def _containers(raw: Raw) -> list[Raw]:
    """Those that run beside each other: other init containers are over."""
    spec = raw["spec"]
    sidecars = [one for one in spec.get("initContainers") or () if one.get("restartPolicy") == "Always"]
    return [*(spec.get("containers") or ()), *sidecars]


_REASONS: tuple[Callable[[_Silent], Reason | None], ...] = (
    _hooks_off,
    _from_elsewhere,
    _not_named,
    _isolated,
    _map_gone,
    _blocked,
    _port_taken,
    _meshed,
    _another_answers,
    _not_heard,
    _map_late,
)
