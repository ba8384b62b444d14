"""What the webhook writes on a pod about what it did: the annotations `applied`, `original-args` and `skipped`."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

from recommender.api.launches import listed
from recommender.api.sizing_flags import without_sizing_flags
from vllm_plugin.names import ANNOTATION_APPLIED, ANNOTATION_ORIGINAL_ARGS, ANNOTATION_SKIPPED
from webhook.patches import Patch, Raw

_ROOM = 192 * 1024
"""Kubernetes refuses a pod with more than 256 KiB of annotations; others write some after us."""


_MOST_APPLIED = 8
_LONGEST_APPLIED = 128
"""Items, and characters of one, that a pass of ours writes at the most: two flags, or two variables."""


def _by_container(pod: Raw, annotation: str) -> dict[str, list[str]]:
    return listed((pod.get("metadata") or {}).get("annotations") or {}, annotation)


def applied(pod: Raw) -> dict[str, list[str]]:
    """What an earlier pass applied, by container: flags and `NAME=value`."""
    return {
        name: items
        for name, items in _by_container(pod, ANNOTATION_APPLIED).items()
        if len(items) <= _MOST_APPLIED and all(len(item) <= _LONGEST_APPLIED for item in items)
    }


def record(
    pod: Raw,
    patch: Patch,
    done: Mapping[str, Sequence[str]],
    originals: Mapping[str, Sequence[str]],
    skipped: Sequence[str],
) -> None:
    """Write what was `done` to which container, from what (`originals`, without anything of ours), and what was
    `skipped`.
    """
    annotations = (pod.get("metadata") or {}).get("annotations") or {}
    kept = {name: args for name, args in _by_container(pod, ANNOTATION_ORIGINAL_ARGS).items() if name in done}
    for name, original in originals.items():
        # Others may have changed the list between two passes; our own options in it are no such change.
        if without_sizing_flags(kept.get(name, ())) != without_sizing_flags(original):
            kept[name] = list(original)
    written = {
        ANNOTATION_APPLIED: json.dumps(done) if done else None,
        ANNOTATION_SKIPPED: "; ".join(dict.fromkeys(skipped)) or None,
        ANNOTATION_ORIGINAL_ARGS: json.dumps(kept) if kept else None,
    }
    others = {name: value for name, value in annotations.items() if name not in written}
    room = _ROOM - sum(_size(name, str(value)) for name, value in others.items())
    for name, text in written.items():
        if text is not None and _size(name, text) <= room:
            patch.put(("metadata", "annotations", name), text)
            room -= _size(name, text)
        elif name in annotations:
            patch.remove(("metadata", "annotations", name))


def _size(name: str, text: str) -> int:
    return len(name.encode()) + len(text.encode(errors="replace"))
