"""Objects of ours that are ahead of what the API server has shown: asked for, or written and not come back yet.

They are what counts meanwhile. Were a round to start from what the server still shows, it would forget the round before
it; and a server that refuses to be written would have everything begin anew each time.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from recommender.api.object_store import Raw
from recommender.events import Happening, Told, event, event_namespace, happenings, told_again
from recommender.object_writes import GONE, MERGE, THERE, Key, Step, Write, Writer


@dataclass
class _Entry:
    text: bytes
    stood: Mapping[str, Any] | None
    """The status that the server has; None where it has no such object."""
    version: int | None = None
    """That the write made; None while it is not written."""

    @property
    def obj(self) -> Raw:
        raw: Raw = json.loads(self.text)
        return raw


class Ahead:
    """Writes objects by `writer`, remembers them until they come back, and tells in Events what has changed.

    `instance` is who tells it. `shown` gives the version up to which watches have shown every change of a kind.
    """

    def __init__(self, writer: Writer, instance: str, shown: Callable[[str], int]) -> None:
        self._writer = writer
        self._instance = instance
        self._shown = shown
        self._entries: dict[Key, _Entry] = {}
        self._told = Told()

    def keys(self, kind: str) -> set[Key]:
        """Those of a kind; of some the server may have shown all meanwhile."""
        return {key for key in self._entries if key[0] == kind}

    def get(self, key: Key) -> Raw | None:
        """The object as it is to be; None where the server shows it as it is."""
        entry = self._entries.get(key)
        if entry is None:
            return None
        if entry.version is not None and self._shown(key[0]) >= entry.version:
            # It came back before the answer to the write did, or the write changed nothing, or it was deleted at once.
            del self._entries[key]
            return None
        return entry.obj

    def is_there(self, key: Key) -> bool:
        """Whether the server has the object, even if no watch has shown it."""
        entry = self._entries.get(key)
        return entry is not None and entry.stood is not None

    def write(self, obj: Raw, steps: tuple[Step, ...], shown: Raw | None) -> None:
        """Write `obj` by `steps`; `shown` is what the server shows of it."""
        key = key_of(obj)
        former = self._entries.get(key)
        if former is not None:
            stood = former.stood
        else:
            stood = None if shown is None else shown.get("status") or {}
        entry = self._entries[key] = _Entry(_text(obj), stood)
        status = obj.get("status") or {}
        self._writer.put(Write(key, steps, lambda answer: self._done(key, entry, status, answer)))

    def seen(self, before: Raw | None, after: Raw | None) -> None:
        """A watch has shown a change of an object."""
        raw = after or before
        entry = self._entries.get(key_of(raw)) if raw is not None else None
        if raw is None or entry is None:
            return
        if after is None:
            # Deleted: it is made again when there is something to say of it.
            del self._entries[key_of(raw)]
        elif entry.version is None:
            # What a person has written meanwhile holds; ours is the status alone.
            entry.text = _text({**after, "status": entry.obj["status"]})
        elif int(after["metadata"]["resourceVersion"]) >= entry.version:
            del self._entries[key_of(raw)]

    def _done(self, key: Key, entry: _Entry, status: Mapping[str, Any], answer: Raw | None) -> None:
        """The server has taken a write, or has no such object; `entry` may have been overtaken by a newer one."""
        current = self._entries.get(key)
        if answer is None:
            if current is entry:
                del self._entries[key]
            return
        stood = entry.stood or {}
        for one in {id(entry): entry, id(current): current}.values():
            if one is not None:
                one.stood = status
        if current is entry:
            entry.text = _text(answer)
            entry.version = int(answer["metadata"]["resourceVersion"])
        elif current is not None:
            current.text = _text({**answer, "status": current.obj["status"]})
        for happening in happenings(stood, status):
            self._tell(happening, answer)

    def _tell(self, happening: Happening, regarding: Raw) -> None:
        now = time.time()
        told = event(happening, regarding, now, self._instance)
        namespace, name = event_namespace(regarding), told["metadata"]["name"]
        times = self._told.count(f"{namespace}/{name}", now)
        path = f"/apis/events.k8s.io/v1/namespaces/{namespace}/events"
        first = Step("POST", path, told)
        again = Step("PATCH", f"{path}/{name}", told_again(times, now), MERGE)
        if times == 1:
            # It may be there from before a restart.
            step = Step("POST", path, told, otherwise=(THERE, again))
        else:
            # Or forgotten.
            step = Step("PATCH", again.path, again.body, MERGE, otherwise=(GONE, first))
        self._writer.put(Write(("Event", namespace, name), (step,), must_not_be_lost=False))


def key_of(obj: Raw) -> Key:
    metadata = obj["metadata"]
    return obj["kind"], metadata.get("namespace") or "", metadata["name"]


def same(one: Any, other: Any) -> bool:
    """Whether two values say the same to an API server, which keeps no empty parts apart from absent ones."""
    if one == other:
        return True
    if isinstance(one, dict) and isinstance(other, dict):
        parts = ((one.get(name), other.get(name)) for name in one.keys() | other.keys())
        return all(same(*both) or all(map(_is_empty, both)) for both in parts)
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(same, one, other))
    return False


def _is_empty(value: Any) -> bool:
    return value is None or value == [] or (isinstance(value, dict) and all(map(_is_empty, value.values())))


def _text(obj: Raw) -> bytes:
    metadata = {name: value for name, value in obj["metadata"].items() if name != "managedFields"}
    return json.dumps({**obj, "metadata": metadata}).encode()
