"""The environment of a container, and `$(VAR)` in its command, as Kubernetes makes them."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

from vllm_rightsizer.errors import UserError

Raw = dict[str, Any]
ConfigMapData = Callable[[str], Mapping[str, str] | None]
"""The text entries of a ConfigMap by its name; None where there is no such map."""

_REFERENCE = re.compile(r"\$(?:\$|\(([^)]*)\))")
_KEYED_FIELD = re.compile(r"metadata\.(labels|annotations)\['(.+)'\]")


def expand(text: str, variables: Mapping[str, str]) -> str:
    """`text` with each `$(VAR)` replaced. `$$` stands for a dollar sign, and unknown variables stay as they are."""

    def value_of(match: re.Match[str]) -> str:
        return "$" if match[0] == "$$" else variables.get(match[1], match[0])

    return _REFERENCE.sub(value_of, text)


def environment(container: Raw, pod: Raw, config_map: ConfigMapData) -> dict[str, str]:
    """The variables that `container` is given beyond its image's; a value may refer to variables before it."""
    if container.get("envFrom"):
        raise UserError(f"container {container['name']}: the demo's kubelet knows env, not envFrom")
    written: dict[str, str] = {}
    for variable in container.get("env") or ():
        name = variable["name"]
        if "valueFrom" not in variable:
            written[name] = expand(variable.get("value") or "", written)
            continue
        value = _value_from(variable["valueFrom"], name, pod, config_map)
        if value is not None:
            written[name] = value
    return written


def _value_from(source: Raw, name: str, pod: Raw, config_map: ConfigMapData) -> str | None:
    if "fieldRef" in source:
        return _field(pod, source["fieldRef"]["fieldPath"], name)
    if "configMapKeyRef" in source:
        reference = source["configMapKeyRef"]
        value = (config_map(reference["name"]) or {}).get(reference["key"])
        if value is None and not reference.get("optional"):
            raise UserError(f"variable {name}: ConfigMap {reference['name']} has no key {reference['key']}")
        return value
    raise UserError(f"variable {name}: the demo's kubelet knows fieldRef and configMapKeyRef, not {', '.join(source)}")


def _field(pod: Raw, path: str, name: str) -> str:
    metadata, spec, status = pod["metadata"], pod["spec"], pod.get("status") or {}
    if keyed := _KEYED_FIELD.fullmatch(path):
        return str((metadata.get(keyed[1]) or {}).get(keyed[2], ""))
    fields = {
        "metadata.name": metadata["name"],
        "metadata.namespace": metadata["namespace"],
        "metadata.uid": metadata.get("uid", ""),
        "spec.nodeName": spec.get("nodeName", ""),
        "spec.serviceAccountName": spec.get("serviceAccountName", "default"),
        "status.podIP": status.get("podIP", ""),
        "status.hostIP": status.get("hostIP", ""),
    }
    if path not in fields:
        raise UserError(f"variable {name}: the demo's kubelet does not know the field {path}")
    return str(fields[path])
