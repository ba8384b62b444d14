"""Damage to admission reviews: of values, of structure, and of the text that they travel as. The same for one seed."""

from __future__ import annotations

import copy
import json
import random
from collections.abc import Callable
from typing import Any

from recommender.api.sharing import EMITTERS
from vllm_plugin.names import (
    ANNOTATION_APPLIED,
    ANNOTATION_AUTO,
    ANNOTATION_CONTAINER,
    ANNOTATION_EMITTED,
    ANNOTATION_EMITTER,
    ANNOTATION_EXCLUDE,
    ANNOTATION_ORIGINAL_ARGS,
    ANNOTATION_POLICY,
    ENV_KV_BYTES,
    ENV_PORT,
    ENV_PREFIX,
)

Raw = dict[str, Any]
Path = list[str | int]

_TEXTS = (
    "",
    " ",
    "\n",
    "--",
    "$(A)",
    "$(A)$(A)",
    "$(",
    "${X:-",
    "'",
    '"',
    "`",
    "\\",
    "vllm serve m",
    "vllm",
    "sh",
    "-c",
    "--gpu-memory-utilization",
    "--gpu-memory-utilization=nan",
    "--kv-cache-memory-bytes=1",
    "--num-gpu-blocks-override",
    "9415",
    "é\u2028\U0001f600",
    "\x00\x1b[2J",
    "\ud800",
    "../..",
    "a/b~c~1",
    "x" * 5000,
)
_NUMBERS = (0, -1, 1, 9415, 65536, 1 << 63, 10**40, 0.5, 1e308, float("nan"), float("inf"))
_RECORDS = (
    "{}",
    "[]",
    "null",
    "{",
    '{"main": ["--gpu-memory-utilization=0.4321"]}',
    '{"main": "x"}',
    '{"main": [1]}',
    '{"emitter": "hami", "bytes": 1, "edits": [["main", ["resources", "limits", "nvidia.com/gpumem"], "1", null]]}',
    '{"emitter": "volcano", "bytes": 1, "edits": [[null, ["spec", "schedulerName"], "volcano", 7]]}',
    '{"emitter": "kai", "bytes": 1, "edits": [[null, ["metadata", "annotations"], null, []]]}',
    "[" * 4000,
)
_OUR_ANNOTATIONS: tuple[tuple[str, tuple[str, ...]], ...] = (
    (ANNOTATION_APPLIED, _RECORDS),
    (ANNOTATION_ORIGINAL_ARGS, _RECORDS),
    (ANNOTATION_EMITTED, _RECORDS),
    (ANNOTATION_EMITTER, (*EMITTERS, "?")),
    (ANNOTATION_AUTO, ("true", "false", "maybe")),
    (ANNOTATION_EXCLUDE, ("true", "false", "")),
    (ANNOTATION_CONTAINER, ("main", "sidecar", "none")),
    (ANNOTATION_POLICY, ("careful", "")),
)
_VARIABLES = ("PYTHONPATH", "VLLM_PLUGINS", "ENABLE_KVCACHED", ENV_KV_BYTES, ENV_PORT, f"{ENV_PREFIX}DIR")
_MOST_CHANGES = 5


def mutated_review(review: Raw, draw: random.Random) -> bytes:
    """One review, or what is left of it, as it would come over the wire."""
    changed = copy.deepcopy(review)
    for _ in range(draw.randint(1, _MOST_CHANGES)):
        _pick(draw, _CHANGES)(changed, draw)
    body = json.dumps(changed).encode()
    if draw.random() < 0.03:
        body = _torn(body, draw)
    return body


def _anything(draw: random.Random, depth: int = 0) -> Any:
    kind = draw.randrange(7 if depth < 3 else 4)
    if kind == 0:
        return draw.choice((None, True, False))
    if kind == 1:
        return draw.choice(_NUMBERS)
    if kind in (2, 3):
        return draw.choice(_TEXTS)
    if kind == 4:
        return [_anything(draw, depth + 1) for _ in range(draw.randrange(4))]
    names = ("name", "value", "valueFrom", "kind", "a/b~c", "", "metadata", "limits")
    return {draw.choice(names): _anything(draw, depth + 1) for _ in range(draw.randrange(4))}


def _places(value: Any, at: Path) -> list[Path]:
    found = [at]
    items: Any = ()
    if isinstance(value, dict):
        items = value.items()
    elif isinstance(value, list):
        items = enumerate(value)
    for key, inner in items:
        found += _places(inner, [*at, key])
    return found


def _holder(review: Raw, draw: random.Random) -> tuple[Any, str | int] | None:
    """A random place: what holds it, and under which key."""
    places = _places(review, [])[1:]
    if not places:
        return None
    *way, last = draw.choice(places)
    holder: Any = review
    for key in way:
        holder = holder[key]
    return holder, last


def _replace(review: Raw, draw: random.Random) -> None:
    place = _holder(review, draw)
    if place is not None:
        place[0][place[1]] = _anything(draw)


def _delete(review: Raw, draw: random.Random) -> None:
    place = _holder(review, draw)
    if place is not None:
        del place[0][place[1]]


def _repeat(review: Raw, draw: random.Random) -> None:
    holder, key = _holder(review, draw) or (None, None)
    if isinstance(holder, list) and isinstance(key, int):
        holder.insert(draw.randrange(len(holder) + 1), copy.deepcopy(holder[key]))


def _add_unknown(review: Raw, draw: random.Random) -> None:
    place = _holder(review, draw)
    if place is not None and isinstance(place[0], dict):
        place[0][draw.choice(("xFuture", "spec", "containers", ""))] = _anything(draw)


def _change_text(review: Raw, draw: random.Random) -> None:
    place = _holder(review, draw)
    if place is None or not isinstance(place[0][place[1]], str):
        return
    text = place[0][place[1]]
    at = draw.randrange(len(text) + 1)
    place[0][place[1]] = text[:at] + draw.choice(_TEXTS) + text[at + draw.randrange(3) :]


def _pod(review: Raw) -> Raw | None:
    request = review.get("request")
    pod = request.get("object") if isinstance(request, dict) else None
    return pod if isinstance(pod, dict) else None


def _containers(review: Raw) -> list[Raw]:
    spec = (_pod(review) or {}).get("spec")
    lists = [spec.get(key) for key in ("containers", "initContainers")] if isinstance(spec, dict) else []
    return [item for items in lists if isinstance(items, list) for item in items if isinstance(item, dict)]


def _annotate(review: Raw, draw: random.Random) -> None:
    pod = _pod(review)
    metadata = pod.setdefault("metadata", {}) if pod is not None else None
    if isinstance(metadata, dict) and isinstance(metadata.setdefault("annotations", {}), dict):
        name, values = draw.choice(_OUR_ANNOTATIONS)
        metadata["annotations"][name] = draw.choice(values)


def _set_variable(review: Raw, draw: random.Random) -> None:
    containers = _containers(review)
    if containers:
        entries = draw.choice(containers).setdefault("env", [])
        if isinstance(entries, list):
            name = draw.choice(_VARIABLES)
            source = {"fieldRef": {"fieldPath": "metadata.name"}}
            entries.append(
                draw.choice(({"name": name, "value": draw.choice(_TEXTS)}, {"name": name, "valueFrom": source}))
            )


def _extend_arguments(review: Raw, draw: random.Random) -> None:
    containers = _containers(review)
    if containers:
        items = draw.choice(containers).setdefault(draw.choice(("command", "args")), [])
        if isinstance(items, list):
            items.insert(draw.randrange(len(items) + 1), draw.choice(_TEXTS))


def _shuffle_pod(review: Raw, draw: random.Random) -> None:
    """What other webhooks and odd authors do: sidecars, the host's network, an order of their own."""
    spec = (_pod(review) or {}).get("spec")
    if not isinstance(spec, dict):
        return
    choice = draw.randrange(4)
    if choice == 0:
        spec["hostNetwork"] = draw.choice((True, False, "yes"))
    elif choice == 1 and isinstance(spec.get("containers"), list):
        draw.shuffle(spec["containers"])
    elif choice == 2 and isinstance(spec.get("containers"), list):
        moved = [{**item, "restartPolicy": "Always"} for item in spec["containers"] if isinstance(item, dict)]
        spec["initContainers"] = moved
        spec["containers"] = [{"name": "app", "image": "app"}]
    else:
        spec["schedulerName"] = draw.choice(("kai-scheduler", "volcano", "default-scheduler", ""))


def _damage_envelope(review: Raw, draw: random.Random) -> None:
    request = review.get("request")
    choice = draw.randrange(4)
    if choice == 0 or not isinstance(request, dict):
        review[draw.choice(("kind", "apiVersion", "request"))] = _anything(draw)
    elif choice == 1:
        request["uid"] = _anything(draw)
    elif choice == 2:
        request[draw.choice(("operation", "kind", "namespace", "subResource", "dryRun"))] = _anything(draw)
    else:
        request["object"] = _anything(draw)


Change = Callable[[Raw, random.Random], None]
_CHANGES: tuple[tuple[Change, int], ...] = (
    (_replace, 5),
    (_delete, 3),
    (_repeat, 2),
    (_add_unknown, 1),
    (_change_text, 5),
    (_annotate, 4),
    (_set_variable, 3),
    (_extend_arguments, 4),
    (_shuffle_pod, 2),
    (_damage_envelope, 1),
)


def _pick(draw: random.Random, choices: tuple[tuple[Change, int], ...]) -> Change:
    [chosen] = draw.choices([change for change, _ in choices], [weight for _, weight in choices])
    return chosen


def _torn(body: bytes, draw: random.Random) -> bytes:
    choice = draw.randrange(4)
    if choice == 0:
        return body[: draw.randrange(len(body))]
    if choice == 1:
        at = draw.randrange(len(body))
        return body[:at] + bytes([draw.randrange(256)]) + body[at + 1 :]
    if choice == 2:
        return draw.choice((b"", b"null", b"[]", b'"x"', b"{}", b'{"kind": "Pod"}', b"\xff\xfe", b"[" * 100_000))
    return body + draw.choice((b"}", b" ", body))
