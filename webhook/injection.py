"""How the plugin comes into a pod: volumes, variables, a port; nothing that could keep the pod from starting."""

from __future__ import annotations

import hashlib
import posixpath
import re
from collections.abc import Mapping, Sequence
from itertools import chain
from types import MappingProxyType

from recommender.api.automation import flag
from recommender.api.plugin_wheel import WHEEL_FILE, plugin_map_name
from vllm_plugin.names import (
    ENTRY_POINT,
    ENV_DIR,
    ENV_DISABLED,
    ENV_POD_UID,
    ENV_PORT,
    LABEL_INJECTED,
    METRICS_PORT_NAME,
)
from webhook.detection import Engine, variable
from webhook.patches import Patch, Raw
from webhook.settings import InjectionSettings, InjectionWay

PLUGIN_VOLUME = "vllm-rightsizer-plugin"
RUN_VOLUME = "vllm-rightsizer-run"
INIT_CONTAINER = "vllm-rightsizer-plugin"
PLUGIN_FOLDER = "/var/run/vllm-rightsizer/plugin"
RUN_FOLDER = "/var/run/vllm-rightsizer/run"
IMAGE_FOLDER = "/plugin"
"""Where the injector image keeps the wheel."""
WHEEL_PATH = f"{PLUGIN_FOLDER}/{WHEEL_FILE}"
WHEEL_PATH_IN_IMAGE = f"{PLUGIN_FOLDER}{IMAGE_FOLDER}/{WHEEL_FILE}"
"""Where the whole image is mounted."""

_SIZE_LIMIT = "16Mi"
"""Of some kilobytes for each process of vLLM, or of the wheel: what memory limits of containers have to hold."""
_INIT_USER = 65532
_LAST_PORT = 65535
_PORTS_OF_A_HOST = 256
"""Among which pods on the host's network are spread."""
_SPOKEN_PORT = re.compile(r"(?<!\d)\d{4,5}(?!\d)")
_WAY_OF_VOLUME: Mapping[str, InjectionWay] = MappingProxyType(
    {"configMap": "config-map", "emptyDir": "init-container", "image": "image-volume"}
)
_LONGEST_READ = 64 * 1024


_NEVER_WRITABLE = frozenset(("configMap", "downwardAPI", "image", "projected", "secret"))
"""Volumes that Kubernetes mounts read-only, whatever the mount says."""


def refusal(pod: Raw, engines: Sequence[Engine], settings: InjectionSettings) -> str | None:
    """Why the plugin cannot be brought into `pod` without risk; None where it can."""
    spec = pod["spec"]
    if (spec.get("os") or {}).get("name") == "windows":
        return "the pod runs on Windows"
    names = [container.get("name") for container in spec.get("containers") or ()]
    begun = [container.get("name") for container in spec.get("initContainers") or ()]
    if len(names) + len(begun) > len({*names, *begun}):
        return "two of the pod's containers have one name"
    way = _way(pod, settings)
    if way == "init-container" and INIT_CONTAINER in names:
        return f"the pod has a container named {INIT_CONTAINER}"
    ours = frozenset((PLUGIN_VOLUME, *_run_volumes(len(engines))))
    volumes = {volume.get("name"): volume for volume in spec.get("volumes") or ()}
    for engine in engines:
        if engine.launch.ignores_pythonpath:
            return f"container {engine.name} starts Python with -I or -E, which leaves PYTHONPATH aside"
        disabled = variable(engine.container, ENV_DISABLED)
        if disabled is not None and flag(str(disabled.get("value"))):
            return f"container {engine.name} switches it off with {ENV_DISABLED}"
        for name in ("PYTHONPATH", "VLLM_PLUGINS"):
            if "valueFrom" in (variable(engine.container, name) or {}):
                return f"container {engine.name} takes {name} from elsewhere (valueFrom): write its value in the pod"
        blocked = _blocked_folder(engine, ours, volumes)
        if blocked is not None:
            return blocked
    for name in sorted(ours & volumes.keys()):
        kinds = _WAY_OF_VOLUME.keys() if name == PLUGIN_VOLUME else {"emptyDir"}
        if not kinds & volumes[name].keys():
            return f"the pod has another volume named {name}"
    if way == "init-container" and not settings.injector_image and INIT_CONTAINER not in begun:
        return f"the pod has another volume named {PLUGIN_VOLUME}"
    return None


def _way(pod: Raw, settings: InjectionSettings) -> InjectionWay:
    """How the plugin comes into `pod`: as an earlier pass began it, which may have had other settings."""
    for volume in pod["spec"].get("volumes") or ():
        if volume.get("name") == PLUGIN_VOLUME:
            return next((way for kind, way in _WAY_OF_VOLUME.items() if kind in volume), settings.way)
    return settings.way


def _blocked_folder(engine: Engine, ours: frozenset[str], volumes: Mapping[str, Raw]) -> str | None:
    """Why our folders cannot be mounted in `engine`; None where they can."""
    folders = (PLUGIN_FOLDER, RUN_FOLDER)
    for device in engine.container.get("volumeDevices") or ():
        if _folder(device.get("devicePath")) in folders:
            return f"container {engine.name} has a device of its own in our folder"
    for mount in engine.container.get("volumeMounts") or ():
        path = _folder(mount.get("mountPath"))
        if path in folders and mount.get("name") not in ours:
            return f"container {engine.name} has a mount of its own in our folder {path}"
        if any(folder.startswith(path.rstrip("/") + "/") for folder in folders):
            # The container runtime makes the folders that volumes are mounted on; here it could not.
            volume = volumes.get(mount.get("name")) or {}
            claimed = (volume.get("persistentVolumeClaim") or {}).get("readOnly")
            if mount.get("readOnly") or claimed or _NEVER_WRITABLE & volume.keys():
                return f"container {engine.name} has a read-only mount at {path}, above our folders"
    return None


def inject(pod: Raw, engines: Sequence[Engine], patch: Patch, settings: InjectionSettings) -> None:
    """Add to `patch` what brings the plugin into each of `engines`. What is there already is left alone."""
    patch.put(("metadata", "labels", LABEL_INJECTED), "true")
    wheel = WHEEL_PATH_IN_IMAGE if _way(pod, settings) == "image-volume" else WHEEL_PATH
    volumes = {volume.get("name") for volume in pod["spec"].get("volumes") or ()}
    if PLUGIN_VOLUME not in volumes:
        patch.append(("spec", "volumes"), _plugin_volume(settings))
    first = _first_port(pod, settings.plugin_port)
    unset = sum(variable(engine.container, ENV_PORT) is None for engine in engines)
    taken = _ports(pod, first, unset) if unset else set()
    for engine, run_volume in zip(engines, _run_volumes(len(engines)), strict=True):
        if run_volume not in volumes:
            patch.append(("spec", "volumes"), _folder_in_memory(run_volume))
        _mount(engine, patch, {"name": PLUGIN_VOLUME, "mountPath": PLUGIN_FOLDER, "readOnly": True})
        _mount(engine, patch, {"name": run_volume, "mountPath": RUN_FOLDER})
        _add_to_pythonpath(engine, patch, wheel)
        _name_plugin(engine, patch)
        if variable(engine.container, ENV_DIR) is None:
            set_variable(engine, patch, ENV_DIR, RUN_FOLDER)
        if variable(engine.container, ENV_POD_UID) is None:
            own_uid = {"fieldRef": {"apiVersion": "v1", "fieldPath": "metadata.uid"}}
            patch.append((*engine.path, "env"), {"name": ENV_POD_UID, "valueFrom": own_uid})
        _open_port(pod, engine, patch, first, taken)


def add_init_container(pod: Raw, patch: Patch, settings: InjectionSettings) -> None:
    """The second way: a container that copies the wheel. Call it last, it moves the init containers' indices.

    It runs first, because vLLM may be an init container itself (a native sidecar).
    """
    existing = [container.get("name") for container in pod["spec"].get("initContainers") or ()]
    if _way(pod, settings) == "init-container" and INIT_CONTAINER not in existing:
        patch.prepend(("spec", "initContainers"), _init_container(pod, settings))


def set_variable(engine: Engine, patch: Patch, name: str, value: str) -> None:
    """Give the container the variable: in place where it is set, else at the end."""
    at = _index(engine.container, name)
    if at is None:
        patch.append((*engine.path, "env"), {"name": name, "value": value})
        return
    if "valueFrom" in engine.container["env"][at]:
        # The API server refuses a variable with both.
        patch.remove((*engine.path, "env", at, "valueFrom"))
    patch.put((*engine.path, "env", at, "value"), value)


def remove_variables(engine: Engine, patch: Patch, names: Sequence[str]) -> None:
    """Take the variables out again. Call it after all other changes to this environment."""
    entries = engine.container.get("env") or ()
    for at in range(len(entries) - 1, -1, -1):
        if entries[at].get("name") in names:
            patch.remove((*engine.path, "env", at))


def _run_volumes(count: int) -> list[str]:
    """One folder an engine: two engines of a pod must not mix their snapshots."""
    return [RUN_VOLUME if at == 0 else f"{RUN_VOLUME}-{at + 1}" for at in range(count)]


def _plugin_volume(settings: InjectionSettings) -> Raw:
    if settings.way == "init-container":
        return _folder_in_memory(PLUGIN_VOLUME)
    if settings.way == "image-volume":
        return {"name": PLUGIN_VOLUME, "image": {"reference": settings.injector_image, "pullPolicy": "IfNotPresent"}}
    # Optional: where the map is missing, the pod starts without the plugin.
    return {"name": PLUGIN_VOLUME, "configMap": {"name": plugin_map_name(), "optional": True}}


def _folder_in_memory(name: str) -> Raw:
    """On disk it would be local storage, for which the cluster autoscaler keeps nodes; one on disk that is full has its
    pod evicted, where this one only refuses to take more."""
    return {"name": name, "emptyDir": {"medium": "Memory", "sizeLimit": _SIZE_LIMIT}}


def _folder(path: object) -> str:
    """`path` in one spelling; /var/run is a link to /run in most images."""
    normal = "/" + posixpath.normpath(str(path or "/")).lstrip("/")
    return f"/var{normal}" if normal == "/run" or normal.startswith("/run/") else normal


def _mount(engine: Engine, patch: Patch, mount: Raw) -> None:
    mounted = {_folder(entry.get("mountPath")) for entry in engine.container.get("volumeMounts") or ()}
    if mount["mountPath"] not in mounted:
        patch.append((*engine.path, "volumeMounts"), mount)


def _add_to_pythonpath(engine: Engine, patch: Patch, wheel: str) -> None:
    entry = variable(engine.container, "PYTHONPATH")
    theirs = "" if entry is None else entry.get("value") or ""
    if entry is None and engine.container.get("envFrom"):
        # A ConfigMap may set it, and ours would hide that. Kubernetes puts the value in; where there is none, the
        # reference stays as it is, a folder that does not exist.
        theirs = "$(PYTHONPATH)"
    parts = [part for part in theirs.split(":") if part]
    if wheel not in parts:
        set_variable(engine, patch, "PYTHONPATH", f"{theirs}:{wheel}" if theirs else wheel)


def _name_plugin(engine: Engine, patch: Patch) -> None:
    """Where the user lists the plugins that vLLM loads, ours has to be among them."""
    entry = variable(engine.container, "VLLM_PLUGINS")
    if entry is None:
        return
    theirs = entry.get("value") or ""
    if ENTRY_POINT not in theirs.split(","):
        set_variable(engine, patch, "VLLM_PLUGINS", f"{theirs},{ENTRY_POINT}" if theirs else ENTRY_POINT)


def _open_port(pod: Raw, engine: Engine, patch: Patch, first: int, taken: set[int]) -> None:
    entry = variable(engine.container, ENV_PORT)
    if entry is None:
        port = next(port for port in chain(range(first, _LAST_PORT + 1), range(1024, first)) if port not in taken)
        set_variable(engine, patch, ENV_PORT, str(port))
    elif not str(entry.get("value", "")).isdecimal():
        return
    else:
        port = int(entry["value"])
    taken.add(port)
    declared = engine.container.get("ports") or ()
    known = any(item.get("name") == METRICS_PORT_NAME or item.get("containerPort") == port for item in declared)
    # On the host's network a declared port is one that the scheduler keeps free: two such pods would not fit a node.
    if not known and 0 < port <= _LAST_PORT and not pod["spec"].get("hostNetwork"):
        opened = {"name": METRICS_PORT_NAME, "containerPort": port, "protocol": "TCP"}
        patch.append((*engine.path, "ports"), opened)


def _first_port(pod: Raw, first: int) -> int:
    """The port from which on a free one is looked for. Pods on the host's network share its ports with all others
    there: each begins at a place of its own.
    """
    uid = (pod.get("metadata") or {}).get("uid")
    if not pod["spec"].get("hostNetwork") or not uid:
        return first
    place = int.from_bytes(hashlib.sha256(str(uid).encode()).digest()[:2], "big") % _PORTS_OF_A_HOST
    return first + place if first + place <= _LAST_PORT else first


def _ports(pod: Raw, first: int, wanted: int) -> set[int]:
    """Ports that are not ours to take: those that the pod's containers declare, and whatever looks like one in their
    arguments and variables, since vLLM may be told to serve on ours. `wanted` of them are looked for from `first` on.
    """
    spec = pod["spec"]
    declared: set[int] = set()
    texts: list[str] = []
    for container in (*(spec.get("initContainers") or ()), *(spec.get("containers") or ())):
        declared.update(item.get("containerPort") for item in container.get("ports") or ())
        texts += container.get("command") or ()
        texts += container.get("args") or ()
        texts += [entry.get("value") or "" for entry in container.get("env") or ()]
    spoken = "\n".join(text[:_LONGEST_READ] for text in texts if isinstance(text, str))
    # As a rule nobody speaks of them at all.
    if any(str(first + at) in spoken for at in range(wanted + len(declared))):
        declared.update(map(int, _SPOKEN_PORT.findall(spoken)))
    return declared


def _index(container: Raw, name: str) -> int | None:
    entries = container.get("env") or ()
    return next((at for at in range(len(entries) - 1, -1, -1) if entries[at].get("name") == name), None)


def _init_container(pod: Raw, settings: InjectionSettings) -> Raw:
    security: Raw = {
        "allowPrivilegeEscalation": False,
        "capabilities": {"drop": ["ALL"]},
        "readOnlyRootFilesystem": True,
        "runAsNonRoot": True,
        "seccompProfile": {"type": "RuntimeDefault"},
    }
    # A pod that says who it runs as keeps that; root would contradict runAsNonRoot. OpenShift allows no other user than
    # the one that it has written into each container.
    if not (pod["spec"].get("securityContext") or {}).get("runAsUser"):
        said = ((one.get("securityContext") or {}).get("runAsUser") for one in pod["spec"]["containers"])
        security["runAsUser"] = next(filter(None, said), _INIT_USER)
    built: Raw = {
        "name": INIT_CONTAINER,
        "image": settings.injector_image,
        "command": ["cp", "-r", f"{IMAGE_FOLDER}/.", PLUGIN_FOLDER],
        "securityContext": security,
        "volumeMounts": [{"name": PLUGIN_VOLUME, "mountPath": PLUGIN_FOLDER}],
    }
    if not pod["spec"].get("resources"):
        # Resources of the whole pod decide its QoS class alone, and none of its containers may have more.
        # Requests and limits alike, so that a Guaranteed pod stays one.
        amounts = {"cpu": settings.init_cpu, "memory": settings.init_memory}
        built["resources"] = {"requests": amounts, "limits": dict(amounts)}
    return built
