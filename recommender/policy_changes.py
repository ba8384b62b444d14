"""From the policy that a workload has to another one that is only tried: a named one, or some of its fields changed."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any

from pydantic import ValidationError

from recommender.api.object_store import ObjectReader
from recommender.api.objects import InvalidObjectError
from recommender.api.policies import PolicySpec, VLLMPolicy

PolicyChange = Callable[[PolicySpec], PolicySpec]


class PolicyChangeError(ValueError):
    """A policy that cannot be tried; the message says which setting or policy, and what is wrong with it."""


def policy_change(store: ObjectReader, policy: str | None, settings: Sequence[str]) -> PolicyChange:
    """The policy called `policy`, or each workload's own, with `settings` (FIELD=VALUE) changed in it.

    Raises `PolicyChangeError`.
    """
    fixed = None if policy is None else _policy(store, policy)
    changes = [_setting(text) for text in settings]

    def change(own: PolicySpec) -> PolicySpec:
        spec = (fixed or own).to_json()
        for path, value in changes:
            *parents, last = path
            holder: dict[str, Any] = spec
            for parent in parents:
                below = holder.setdefault(parent, {})
                if not isinstance(below, dict):
                    raise PolicyChangeError(f"set {'.'.join(path)}: {parent} has no fields of its own")
                holder = below
            holder[last] = value
        return _checked(spec)

    # What is wrong with a setting is said before any history is read.
    change(PolicySpec())
    return change


def _checked(spec: dict[str, Any]) -> PolicySpec:
    try:
        return PolicySpec.model_validate(spec)
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(str(part) for part in first["loc"])
        said = first["msg"]
        if first["type"] == "extra_forbidden":
            said = "there is no such field: see `kubectl explain vllmpolicy.spec --recursive`"
        raise PolicyChangeError(f"set {field}: {said}") from error


def _policy(store: ObjectReader, name: str) -> PolicySpec:
    raw = store.get(VLLMPolicy.KIND, None, name)
    if raw is None:
        there = ", ".join(sorted(one["metadata"]["name"] for one in store.list(VLLMPolicy.KIND))) or "none"
        raise PolicyChangeError(f"there is no VLLMPolicy {name}; there is: {there}")
    try:
        return VLLMPolicy.from_json(raw).spec
    except InvalidObjectError as error:
        raise PolicyChangeError(str(error)) from error


def _setting(text: str) -> tuple[list[str], Any]:
    name, equals, value = text.partition("=")
    if not equals or not all(name.split(".")):
        raise PolicyChangeError(f"set {text} is no FIELD=VALUE, such as hitRateLoss.points=2")
    try:
        return name.split("."), json.loads(value)
    except (ValueError, RecursionError):
        return name.split("."), value
