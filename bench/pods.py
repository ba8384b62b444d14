"""The pods that come of a Kubernetes object, whatever its kind, as near as the object itself tells.

The webhook sees pods only; published manifests are what makes them. A template is taken as it stands wherever it is
found; the controllers below put more into a pod than the template says, so they are followed one by one.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

Raw = dict[str, Any]

_SINGLE_CONTAINER = ("mainContainer", "runner", "container")
_OVERWRITES_COMMAND = "ray.io/overwrite-container-cmd"
_NOT_ON_A_CONTAINER = ("modelFormat", "runtime", "storageUri", "storage", "protocolVersion")
_HUGGING_FACE_SERVER = "kserve/huggingfaceserver:latest"
_LLM_IMAGE = "registry.example/llm-d/llm-d-cuda:latest"
_API_SERVER = ["python3", "-m", "vllm.entrypoints.openai.api_server"]


@dataclass(frozen=True)
class FoundPod:
    place: str
    """Where in the object its template stands."""
    pod: Raw


@dataclass(frozen=True)
class _Surroundings:
    """What an object says above the place that is being looked at."""

    base: Raw | None = None
    """The nearest pod template, which a patch beside or below it changes."""
    shared: dict[str, Raw] = field(default_factory=dict)
    """Templates by name, to which roles refer."""
    overwrites_command: bool = False
    ray_group: str | None = None
    resources: Raw = field(default_factory=dict)
    """Dynamo keeps a service's resources beside its pod."""


def pods_of(documents: Iterable[Any]) -> list[FoundPod]:
    """Every pod that comes of `documents`, the YAML documents of one file."""
    objects = [item for document in documents for item in _flattened(document)]
    found: list[FoundPod] = []
    for obj in objects:
        controller = _CONTROLLERS.get(str(obj.get("kind")))
        prepared = controller(copy.deepcopy(obj), objects) if controller is not None else obj
        found.extend(_anywhere(prepared, str(obj.get("kind")), _Surroundings()))
    return found


def _flattened(document: Any) -> Iterator[Raw]:
    if isinstance(document, dict):
        items = document.get("items")
        if isinstance(items, list):
            for item in items:
                yield from _flattened(item)
        else:
            yield document


def _anywhere(value: Any, place: str, around: _Surroundings) -> Iterator[FoundPod]:
    if isinstance(value, list):
        for at, item in enumerate(value):
            yield from _anywhere(item, f"{place}[{at}]", around)
    if not isinstance(value, dict):
        return
    around = _looking_at(value, around)
    is_template = _is_pod_spec(value.get("spec")) and value.get("kind") in (None, "Pod")
    if is_template:
        yield FoundPod(place, _pod(value.get("metadata"), value["spec"], around))
    elif _is_pod_spec(value):
        yield FoundPod(place, _pod(None, value, around))
    for key in _SINGLE_CONTAINER:
        single = value.get(key)
        if isinstance(single, dict) and not _is_pod_spec(value):
            yield FoundPod(f"{place}.{key}", _pod(None, {"containers": [{"name": key, **single}]}, around))
    reference = value.get("templateRef")
    if isinstance(reference, dict) and reference.get("name") in around.shared:
        merged = merge(around.shared[reference["name"]], reference.get("patch") or {})
        yield FoundPod(f"{place}.templateRef", _pod(merged.get("metadata"), merged["spec"], around))
    for key, member in value.items():
        if key in ("roleTemplates", "templateRef", *_SINGLE_CONTAINER) or (key == "spec" and is_template):
            continue
        if key.startswith("patch") and around.base is not None and isinstance(member, dict):
            member = merge(around.base, member)
        inside = around
        if key in ("headGroupSpec", "workerGroupSpecs"):
            inside = _with(around, ray_group="head" if key == "headGroupSpec" else "worker")
        yield from _anywhere(member, f"{place}.{key}", inside)


def _looking_at(value: Raw, around: _Surroundings) -> _Surroundings:
    """`around`, with what `value` says for all that stands below it."""
    templates = value.get("roleTemplates")
    if isinstance(templates, list):
        around = _with(around, shared={entry["name"]: entry["template"] for entry in templates})
    template = value.get("template")
    if isinstance(template, dict) and _is_pod_spec(template.get("spec")):
        around = _with(around, base=template)
    if ((value.get("metadata") or {}).get("annotations") or {}).get(_OVERWRITES_COMMAND) == "true":
        around = _with(around, overwrites_command=True)
    if "extraPodSpec" in value and isinstance(value.get("resources"), dict):
        around = _with(around, resources=value["resources"])
    return around


def _with(around: _Surroundings, **changes: Any) -> _Surroundings:
    return _Surroundings(**{**around.__dict__, **changes})


def _pod(metadata: Raw | None, spec: Raw, around: _Surroundings) -> Raw:
    """A pod of its own, with the names that a container and the API server need."""
    pod: Raw = copy.deepcopy({"apiVersion": "v1", "kind": "Pod", "metadata": metadata or {}, "spec": spec})
    pod["metadata"] = {key: pod["metadata"][key] for key in ("labels", "annotations") if pod["metadata"].get(key)}
    for at, container in enumerate(pod["spec"]["containers"]):
        container.setdefault("name", f"container-{at}")
        if around.resources:
            container.setdefault("resources", around.resources)
    overwritten = (pod["metadata"].get("annotations") or {}).get(_OVERWRITES_COMMAND) == "true"
    if around.ray_group is not None and not (overwritten or around.overwrites_command):
        _start_ray(pod["spec"]["containers"][0], around.ray_group)
    return pod


def _start_ray(container: Raw, group: str) -> None:
    """KubeRay starts Ray in a shell, behind the command that the template may have."""
    own = " ".join([*(container.get("command") or ()), *(container.get("args") or ())])
    ray = "ulimit -n 65536; ray start " + ("--head --block" if group == "head" else "--address=head:6379 --block")
    container["command"] = ["/bin/bash", "-c", "--"]
    container["args"] = [f"{own} && {ray}" if own else ray]


def _is_pod_spec(value: Any) -> bool:
    containers = value.get("containers") if isinstance(value, dict) else None
    return isinstance(containers, list) and bool(containers) and all(isinstance(item, dict) for item in containers)


def merge(base: Any, patch: Any) -> Any:
    """`patch` merged into `base` as Kubernetes does strategically: lists of named things by name, others replaced."""
    if isinstance(base, dict) and isinstance(patch, dict):
        return {**base, **{key: merge(base.get(key), value) for key, value in patch.items()}}
    if isinstance(base, list) and isinstance(patch, list) and all(map(_is_named, [*base, *patch])):
        named = {item["name"]: item for item in base}
        for item in patch:
            named[item["name"]] = merge(named.get(item["name"]), item)
        return list(named.values())
    return copy.deepcopy(base if patch is None else patch)


def _is_named(value: Any) -> bool:
    return isinstance(value, dict) and "name" in value


def _inference_service(obj: Raw, objects: list[Raw]) -> Raw:
    """KServe: `predictor.model` becomes the container of a runtime, with its own arguments behind the runtime's."""
    predictor = (obj.get("spec") or {}).get("predictor") or {}
    model = predictor.pop("model", None)
    if not isinstance(model, dict):
        return obj
    name, model_format = model.get("runtime"), (model.get("modelFormat") or {}).get("name")
    own = {key: value for key, value in model.items() if key not in _NOT_ON_A_CONTAINER}
    runtime = next((other for other in objects if name and (other.get("metadata") or {}).get("name") == name), None)
    if runtime is not None and _is_pod_spec(runtime.get("spec")):
        container = dict(runtime["spec"]["containers"][0])
        own["args"] = [*(container.get("args") or ()), *(own.get("args") or ())]
    elif model_format == "huggingface":
        container = {"image": _HUGGING_FACE_SERVER}
    elif str(model_format).lower() == "vllm":
        container = {"image": "vllm/vllm-openai:latest", "command": list(_API_SERVER)}
    else:
        container = {"image": f"{model_format}-server"}
    predictor["containers"] = [merge({**container, "name": "kserve-container"}, own)]
    return obj


def _llm_inference_service(obj: Raw, _: list[Raw]) -> Raw:
    """KServe's LLMInferenceService: what container `main` leaves open comes from the configuration that it ships."""
    spec = obj.get("spec") or {}
    shipped = {
        "name": "main",
        "image": _LLM_IMAGE,
        "command": ["/bin/bash", "-c"],
        "args": ['eval "vllm serve /mnt/models --port 8000 ${VLLM_ADDITIONAL_ARGS} --enable-ssl-refresh"'],
    }
    if "model" in spec and not any(key in spec for key in ("template", "worker")):
        spec["template"] = {"containers": [{"name": "main"}]}
    for part in (spec, spec.get("prefill") or {}):
        for key in ("template", "worker"):
            for container in (part.get(key) or {}).get("containers") or ():
                if container.get("name") == "main" and not (container.get("command") or container.get("args")):
                    container.update({**shipped, **container})
    return obj


def _kubeai_model(obj: Raw, _: list[Raw]) -> Raw:
    spec = obj.get("spec") or {}
    container: Raw = {"name": "server", "image": spec.get("image") or f"{str(spec.get('engine')).lower()}-server"}
    if spec.get("engine") == "VLLM":
        container["image"] = spec.get("image") or "vllm/vllm-openai:latest"
        container["command"] = list(_API_SERVER)
        container["resources"] = {"limits": {"nvidia.com/gpu": "1"}}
    url = str(spec.get("url", "")).partition("://")[2].partition("?")[0]
    container["args"] = [f"--model={url}", *(spec.get("args") or ())]
    container["env"] = [{"name": name, "value": value} for name, value in (spec.get("env") or {}).items()]
    return {"kind": "Pod", "metadata": obj.get("metadata"), "spec": {"containers": [container]}}


def _nim_service(obj: Raw, _: list[Raw]) -> Raw:
    spec = obj.get("spec") or {}
    image = spec.get("image") or {}
    container = {
        "name": "nim",
        "image": f"{image.get('repository')}:{image.get('tag', 'latest')}",
        "env": spec.get("env") or [],
        "resources": spec.get("resources") or {"limits": {"nvidia.com/gpu": "1"}},
    }
    return {"kind": "Pod", "metadata": obj.get("metadata"), "spec": {"containers": [container]}}


def _kaito_workspace(obj: Raw, _: list[Raw]) -> Raw:
    preset = (obj.get("inference") or {}).get("preset")
    if not isinstance(preset, dict):
        return obj
    container = {
        "name": str(preset.get("name")),
        "image": "aks/kaito/kaito-base:latest",
        "command": ["/bin/sh", "-c", "python3 /workspace/vllm/inference_api.py --served-model-name=preset"],
        "resources": {"limits": {"nvidia.com/gpu": "1"}},
    }
    return {"kind": "Pod", "metadata": obj.get("metadata"), "spec": {"containers": [container]}}


_CONTROLLERS: dict[str, Callable[[Raw, list[Raw]], Raw]] = {
    "InferenceService": _inference_service,
    "LLMInferenceService": _llm_inference_service,
    "LLMInferenceServiceConfig": _llm_inference_service,
    "Model": _kubeai_model,
    "NIMService": _nim_service,
    "Workspace": _kaito_workspace,
}
