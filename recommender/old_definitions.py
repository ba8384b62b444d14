"""Fields that the definitions in a cluster do not have yet. Of other writes an API server drops them; a server-side
apply it refuses whole. Whoever writes leaves them out, so that the rest is written.
"""

from __future__ import annotations

import re
from typing import Any

from recommender.api.object_store import Raw

_UNDECLARED = re.compile(r"(\.\S+): field not declared in schema")
"""Of such a refusal, which has no other sign: its status is 500, as of any fault of the server's."""
_ITEM = re.compile(r"\[[^\]]*\]")
_REMEMBERED_SECONDS = 600.0
"""A definition may be brought up to date at any time."""


class OldDefinitions:
    """By kind, the fields that were refused lately. Times in seconds of any clock."""

    def __init__(self) -> None:
        self._lacking: dict[str, tuple[frozenset[str], float]] = {}

    def learn(self, kind: str, refusal: str, now: float) -> frozenset[str]:
        """The fields that `refusal` speaks of and that are not known yet; from now on they are."""
        known = self._fields(kind, now)
        new = frozenset(_ITEM.sub("", path).strip(".") for path in _UNDECLARED.findall(refusal)) - known
        if new:
            self._lacking[kind] = (known | new, now + _REMEMBERED_SECONDS)
        return new

    def part(self, kind: str, body: Raw, now: float) -> Raw:
        """A copy of `body`, which is an object of that kind, as far as it can be written."""
        found: Raw = body
        for path in self._fields(kind, now):
            found = _without(found, path.split("."))
        return found

    def _fields(self, kind: str, now: float) -> frozenset[str]:
        fields, until = self._lacking.get(kind, (frozenset(), now))
        return fields if now < until else frozenset()


def _without(value: Any, path: list[str]) -> Any:
    if isinstance(value, list):
        return [_without(one, path) for one in value]
    if not isinstance(value, dict) or path[0] not in value:
        return value
    rest = {name: inner for name, inner in value.items() if name != path[0]}
    return rest if len(path) == 1 else {**rest, path[0]: _without(value[path[0]], path[1:])}
