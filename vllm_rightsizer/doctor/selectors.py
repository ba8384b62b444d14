"""Kubernetes' label selectors. Pure."""

from __future__ import annotations

from collections.abc import Mapping

from recommender.api.object_store import Raw

Labels = Mapping[str, str]


def selects(selector: Raw, found: Labels) -> bool:
    """Whether `selector` takes an object with these labels; an empty one takes all."""
    if any(found.get(name) != value for name, value in (selector.get("matchLabels") or {}).items()):
        return False
    return all(_holds(term, found) for term in selector.get("matchExpressions") or ())


def _holds(term: Raw, found: Labels) -> bool:
    value, values = found.get(term["key"]), term.get("values") or ()
    match term["operator"]:
        case "In":
            return value in values
        case "NotIn":
            return value not in values
        case "Exists":
            return value is not None
        case _:
            return value is None
