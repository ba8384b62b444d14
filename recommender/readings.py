"""Objects of the API server as values of their types, read anew only where they changed."""

from __future__ import annotations

from typing import TypeVar

from recommender.api.object_store import Raw
from recommender.api.objects import ApiObject, InvalidObjectError

_Kind = TypeVar("_Kind", bound=ApiObject)
_Key = tuple[str, str | None, str]
"""Kind, namespace and name."""


class Readings:
    """Remembers what was read of each object: a fleet's are looked at every round, and few of them change."""

    def __init__(self) -> None:
        self._known: dict[_Key, tuple[Raw, ApiObject | InvalidObjectError]] = {}
        self._lately: set[_Key] = set()

    def read(self, kind: type[_Kind], raw: Raw) -> _Kind:
        """The value of `raw`; raises `InvalidObjectError` as `from_json` does. It must not be changed."""
        metadata = raw["metadata"]
        key = (kind.KIND, metadata.get("namespace"), metadata["name"])
        self._lately.add(key)
        known = self._known.get(key)
        if known is None or known[0] != raw:
            known = self._known[key] = (raw, _read(kind, raw))
        found = known[1]
        if isinstance(found, kind):
            return found
        raise InvalidObjectError(str(found))

    def forget_unread(self) -> None:
        """Forget what nobody has read since the last call."""
        self._known = {key: known for key, known in self._known.items() if key in self._lately}
        self._lately = set()


def _read(kind: type[_Kind], raw: Raw) -> _Kind | InvalidObjectError:
    try:
        return kind.from_json(raw)
    except InvalidObjectError as error:
        # Not the error itself: what it was raised through would live as long.
        return InvalidObjectError(str(error))
