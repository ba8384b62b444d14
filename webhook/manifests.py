"""What the webhook would change in the pods of a manifest: the same functions, on the pod templates inside it."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import jsonpatch

from recommender.api.automation import resolve_automation
from webhook.admission import refused_options
from webhook.changes import change_pod
from webhook.choices import Choices
from webhook.detection import detect
from webhook.injection import refusal
from webhook.patches import Raw
from webhook.settings import InjectionSettings
from webhook.sizes import given


@dataclass(frozen=True)
class Rewritten:
    """The object with its pods changed; a sentence for each change and for each thing left alone, with its place."""

    obj: Raw
    changes: list[str]
    skipped: list[str]


@dataclass(frozen=True)
class _Template:
    """A pod inside an object: `holder` has its `spec` under `key`, and its metadata where it is a pod template."""

    place: str
    holder: Raw
    key: str
    has_metadata: bool
    owner: Raw
    """The object it stands in, whose annotations count as the workload's."""


def rewrite_object(obj: Raw, kv_bytes: int | None, utilization: str | None) -> Rewritten:
    """`obj` (a Pod, any workload that holds pod templates, a List) as its pods would start with these sizes.

    `obj` itself stays as it is. Only the fields concerned are touched, so that a ruamel document keeps its comments.
    """
    changed = copy.deepcopy(obj)
    changes: list[str] = []
    skipped: list[str] = []
    templates = list(_templates(changed, str(changed.get("kind") or "object"), changed))
    for template in templates:
        _rewrite_template(template, kv_bytes, utilization, changes, skipped)
    if not templates:
        skipped.append(f"{_title(obj)}: it holds no pod; its pods are changed when they are created")
    return Rewritten(changed, changes, skipped)


def _rewrite_template(
    template: _Template,
    kv_bytes: int | None,
    utilization: str | None,
    changes: list[str],
    skipped: list[str],
) -> None:
    metadata = template.holder.get("metadata") if template.has_metadata else None
    pod: Raw = {"metadata": metadata, "spec": template.holder[template.key]}
    automation = resolve_automation(_annotations(pod), _annotations(template.owner), None, None)
    if automation.excluded:
        skipped.append(f"{template.place}: excluded by annotation")
        return
    detection = detect(pod)
    if not detection.engines:
        skipped.append(f"{template.place}: {detection.reason}")
        return
    refused = refusal(pod, detection.engines, InjectionSettings())
    if refused is not None:
        skipped.append(f"{template.place}: no plugin, nothing is sized: {refused}")
        return
    skipped += [f"{template.place}, container {sentence}" for sentence in refused_options(detection.engines)]
    sizes = {engine.name: given(engine, kv_bytes, utilization) for engine in detection.engines}
    change = change_pod(pod, detection.engines, Choices(sizes), InjectionSettings())
    changes.append(f"{template.place}: the plugin is brought in")
    changes += [f"{template.place}, container {name}: {' '.join(size.shown)}" for name, size in sizes.items()]
    jsonpatch.apply_patch(pod, list(change.operations), in_place=True)
    # Where there is no pod template, the pods' metadata is nowhere to be written.
    if template.has_metadata:
        template.holder["metadata"] = pod["metadata"]


def _templates(value: Any, place: str, owner: Raw) -> Iterator[_Template]:
    """Every pod inside `value`, whatever the kind: whatever holds a list of containers is a pod's spec."""
    if isinstance(value, list):
        for at, item in enumerate(value):
            yield from _templates(item, f"{place}[{at}]", item if isinstance(item, dict) and "kind" in item else owner)
    if not isinstance(value, dict):
        return
    for key, member in value.items():
        if _is_pod_spec(member):
            # A pod template has `metadata` and `spec`; KServe's runtimes have the containers in the spec of the whole.
            is_template = key == "spec" and (value.get("kind") in (None, "Pod"))
            yield _Template(f"{place}.{key}", value, key, is_template, owner)
        yield from _templates(member, f"{place}.{key}", owner)


def _is_pod_spec(value: Any) -> bool:
    containers = value.get("containers") if isinstance(value, dict) else None
    return isinstance(containers, list) and bool(containers) and all(isinstance(item, dict) for item in containers)


def _annotations(obj: Raw) -> Raw:
    return (obj.get("metadata") or {}).get("annotations") or {}


def _title(obj: Raw) -> str:
    return f"{obj.get('kind') or 'object'} {(obj.get('metadata') or {}).get('name') or ''}".strip()
