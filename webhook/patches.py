"""JSON patches of single fields, built by hand on the object as it came.

The object is never written out again: fields that this program has never heard of survive because nobody touches them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeAlias

Raw: TypeAlias = dict[str, Any]
Path: TypeAlias = tuple[str | int, ...]
"""Keys and list indices from the root, unescaped."""


def pointer(path: Path) -> str:
    """The JSON pointer (RFC 6901) of `path`."""
    return "".join("/" + str(part).replace("~", "~0").replace("/", "~1") for part in path)


class Patch:
    """Collects the operations that turn one object into another.

    Missing parents are made on the way. Whatever goes through a list index is guarded by a `test` of the name that is
    expected there, so that a patch never lands in another container than it was made for.
    """

    def __init__(self, obj: Raw) -> None:
        self.operations: list[Raw] = []
        self._obj = obj
        self._created: dict[Path, Any] = {}
        self._guarded: set[Path] = set()

    def put(self, path: Path, value: Any) -> None:
        """Set the member of a map; nothing where it has that value already."""
        if path not in self._created and self._find(path) == value:
            return
        parent = self._ensure(path[:-1], {})
        if parent is not None:
            parent[path[-1]] = value
        else:
            self._add(path, path, value)

    def append(self, path: Path, value: Any) -> None:
        """Add one element at the end of the list at `path`."""
        created = self._ensure(path, [])
        if created is not None:
            created.append(value)
        else:
            self._add(path, (*path, "-"), value)

    def prepend(self, path: Path, value: Any) -> None:
        """Add one element before the others. It moves the indices of that list: call it after all other changes."""
        created = self._ensure(path, [])
        if created is not None:
            created.insert(0, value)
        else:
            self._add(path, (*path, 0), value)

    def splice(self, path: Path, wanted: Sequence[str]) -> None:
        """Make the list of strings at `path` the `wanted` one, by changing only the elements that differ."""
        present: list[str] = list(self._find(path) or ())
        if not present:
            for item in wanted:
                self.append(path, item)
            return
        head = _common(present, wanted)
        tail = _common(present[head:][::-1], wanted[head:][::-1])
        for at in range(len(present) - tail - 1, head - 1, -1):
            self._guard(path)
            self.operations.append({"op": "test", "path": pointer((*path, at)), "value": present[at]})
            self.operations.append({"op": "remove", "path": pointer((*path, at))})
        for at in range(head, len(wanted) - tail):
            self._add(path, (*path, at if tail else "-"), wanted[at])

    def remove(self, path: Path) -> None:
        """Take out what stands at `path`; of several elements of one list, the last one first."""
        self._guard(path)
        self.operations.append({"op": "remove", "path": pointer(path)})

    def _add(self, guarded: Path, path: Path, value: Any) -> None:
        self._guard(guarded)
        self.operations.append({"op": "add", "path": pointer(path), "value": value})

    def _ensure(self, path: Path, empty: Any) -> Any:
        """The map or list at `path` where this patch creates it, so that it can be filled; None where it was there."""
        if path in self._created:
            return self._created[path]
        if not path:
            return None
        found = self._find(path)
        if found is not None:
            if not isinstance(found, type(empty)):
                raise TypeError(f"{pointer(path)} is no {'list' if isinstance(empty, list) else 'object'}")
            return None
        parent = self._ensure(path[:-1], {})
        self._created[path] = empty
        if parent is not None:
            parent[path[-1]] = empty
        else:
            self._add(path, path, empty)
        return empty

    def _find(self, path: Path) -> Any:
        """What stands at `path` in the object; None where nothing does (`null` counts as nothing, as in Kubernetes)."""
        found: Any = self._obj
        for part in path:
            if isinstance(found, dict):
                found = found.get(part)
            elif isinstance(found, list) and isinstance(part, int) and part < len(found):
                found = found[part]
            else:
                return None
        return found

    def _guard(self, path: Path) -> None:
        for end, part in enumerate(path, start=1):
            element = path[:end]
            if not isinstance(part, int) or element in self._guarded:
                continue
            self._guarded.add(element)
            name = self._find((*element, "name"))
            if isinstance(name, str):
                self.operations.append({"op": "test", "path": pointer((*element, "name")), "value": name})


def _common(left: Sequence[str], right: Sequence[str]) -> int:
    """How many elements the two have in common from the start."""
    count = 0
    for one, other in zip(left, right, strict=False):
        if one != other:
            break
        count += 1
    return count
