"""Objects of the API server as values of their types, read anew only where they changed."""

from __future__ import annotations

from typing import TypeVar

from recommender.api.object_store import Raw
from recommender.api.objects import ApiObject

_Kind = TypeVar("_Kind", bound=ApiObject)


class Readings:
    """Remembers what was read of each object: a fleet's are looked at every round, and few of them change."""

    def __init__(self) -> None:
        self._known: dict[tuple[str, str | None, str], tuple[Raw, ApiObject]] = {}

    def read(self, kind: type[_Kind], raw: Raw) -> _Kind:
        """The value of `raw`; raises `InvalidObjectError` as `from_json` does. It must not be changed."""
        metadata = raw["metadata"]
        key = (kind.KIND, metadata.get("namespace"), metadata["name"])
        known = self._known.get(key)
        if known is not None and known[0] == raw and isinstance(known[1], kind):
            return known[1]
        found = kind.from_json(raw)
        self._known[key] = (raw, found)
        return found

    def keep(self, kind: type[ApiObject], names: set[tuple[str | None, str]]) -> None:
        """Forget those of `kind` that are not among these namespaces and names."""
        for key in [key for key in self._known if key[0] == kind.KIND and key[1:] not in names]:
            del self._known[key]
