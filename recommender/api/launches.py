"""What of a pod decides how a size reaches it, and what it frees; of the pod as its author wrote it."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from recommender.api.fingerprints import container_of, product_of
from recommender.api.sharing import WHOLE_GPU, amounts_of, as_written
from recommender.api.sizing_flags import sizing_flag
from recommender.api.workloads import LWS_WORKER_INDEX, is_of_group
from vllm_plugin.names import ANNOTATION_APPLIED, ANNOTATION_ORIGINAL_ARGS, ANNOTATION_SKIPPED, ENV_PREFIX

_NO_EMITTER = "no emitter: "
"""How the webhook begins the reason for which it asks no scheduler for a share."""


@dataclass(frozen=True, slots=True)
class Launch:
    """One container of a pod that runs vLLM."""

    node: str = ""
    """Where the pod runs; empty until a scheduler said so."""
    gpus: int = 0
    """Whole GPUs that the container asks for."""
    is_first: bool = True
    """Whether it is the first container of the pod."""
    is_pinned: bool = False
    """Whether the pod keeps to one product of GPU."""
    in_group: bool = False
    """Whether several pods form one engine: all of them hold whole GPUs."""
    may_be_member: bool = False
    """Whether another pod of the group may have the scheduler, and this one nothing but ranks."""
    sizing_arguments: tuple[str, ...] = ()
    """The author's own sizing options."""
    takes_variables: bool = False
    """Whether the webhook saw no argument list, so that sizes come as variables."""
    declined: str | None = None
    """Why the webhook asks no scheduler for a share, where it said so."""


UNKNOWN_LAUNCH = Launch()


def launch_of(pod: dict[str, Any], container_name: str) -> Launch:
    """What `pod` says of the container `container_name`; whatever the webhook changed is looked through."""
    metadata, spec = pod.get("metadata") or {}, pod.get("spec") or {}
    annotations: dict[str, str] = metadata.get("annotations") or {}
    container = container_of(as_written(pod), container_name) or {}
    gpus = str(amounts_of(container).get(WHOLE_GPU, "0"))
    arguments = listed(annotations, ANNOTATION_ORIGINAL_ARGS).get(container_name)
    applied = listed(annotations, ANNOTATION_APPLIED).get(container_name)
    if arguments is None:
        arguments = [*(container.get("command") or ()), *(container.get("args") or ())] if applied is None else []
    skipped = annotations.get(ANNOTATION_SKIPPED) or ""
    first: dict[str, Any] = next(iter(spec.get("containers") or ()), {})
    return Launch(
        node=sys.intern(spec.get("nodeName") or ""),
        gpus=int(gpus) if gpus.isdecimal() else 0,
        is_first=first.get("name") == container_name,
        is_pinned=bool(product_of(pod)),
        in_group=is_of_group(pod),
        may_be_member=is_of_group(pod) and (metadata.get("labels") or {}).get(LWS_WORKER_INDEX) != "0",
        sizing_arguments=tuple(_sizing_arguments(arguments)),
        # In a dry run nothing is applied, and the reason says what would be.
        takes_variables=any(item.startswith(ENV_PREFIX) for item in applied or ())
        or f"+ {ENV_PREFIX}" in skipped.partition(f"{container_name} would change: ")[2].partition("; ")[0],
        declined=next(
            (part.removeprefix(_NO_EMITTER) for part in skipped.split("; ") if part.startswith(_NO_EMITTER)), None
        ),
    )


def _sizing_arguments(arguments: list[str]) -> list[str]:
    kept: list[str] = []
    value_follows = False
    for token in arguments:
        found = not value_follows and sizing_flag(token) is not None
        if found or value_follows:
            kept.append(token)
        value_follows = found and "=" not in token
    return kept


def listed(annotations: Mapping[str, str], name: str) -> dict[str, list[str]]:
    """A list of texts for each container, as the webhook writes them; empty where the annotation is none of its own."""
    try:
        read = json.loads(annotations.get(name) or "{}")
    except ValueError:
        return {}
    if not isinstance(read, dict):
        return {}
    return {
        container: items
        for container, items in read.items()
        if isinstance(items, list) and all(isinstance(item, str) for item in items)
    }
