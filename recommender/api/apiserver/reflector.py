"""The objects of one collection, kept as small values, followed by list and watch.

After a list the watch goes on from the list's version, and after a break from the last version that it showed, so that
no change is missed. Where the server no longer has that version (410), everything is listed again and compared.
"""

from __future__ import annotations

import asyncio
import json
import logging
import random
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from recommender.api.apiserver.connection import (
    CONNECTION_ERRORS,
    JSON,
    METADATA,
    METADATA_LIST,
    ApiError,
    ApiServer,
    Raw,
)
from recommender.api.apiserver.lists import pages
from recommender.api.apiserver.resources import Resource

logger = logging.getLogger(__name__)

T = TypeVar("T")
Key = tuple[str, str]
"""Namespace ("" where the kind has none) and name."""

Changed = Callable[[T | None, T | None], None]
"""Told of each change in the collection: what was kept of the object before, and what is now."""

_TEMPORARY = (401, 429, 503)
"""Refusals that say nothing about the version; after any other the collection is listed anew."""
_AT_ONCE = 20
"""Objects that are read before others have their turn on the event loop."""


@dataclass(frozen=True)
class Selection:
    """Which part of a collection is followed; everything by default."""

    namespace: str | None = None
    name: str | None = None
    labels: str | None = None

    def query(self) -> dict[str, str]:
        said = {"fieldSelector": f"metadata.name={self.name}" if self.name else None, "labelSelector": self.labels}
        return {name: value for name, value in said.items() if value}


@dataclass(frozen=True)
class Pace:
    """How patient a reflector is, in seconds, and how large its pages are, in objects.

    The API server sends a bookmark about every minute; a connection that is silent for longer than `silence` is dead.
    """

    page: int = 100
    first_delay: float = 0.2
    longest_delay: float = 10.0
    look_again: float = 30.0
    silence: float = 100.0
    watch: float = 600.0
    short_watch: float = 1.0


class _WatchEndedError(Exception):
    """The server gave the watch up in an orderly way, but nothing came of it: it may not do so at once again."""


class Reflector(Generic[T]):
    """Follows `resource` until cancelled, and never raises.

    `keep` makes a small immutable value of a raw object, or None to keep nothing of it. An object of which it raises is
    reported once, and what was kept before holds on. Only one task may run it; `objects` is read on the same loop.
    """

    def __init__(
        self,
        server: ApiServer,
        resource: Resource,
        keep: Callable[[Raw], T | None],
        *,
        changed: Changed[T] | None = None,
        selection: Selection | None = None,
        metadata_only: bool = False,
        may_be_absent: bool = False,
        may_be_refused: bool = False,
        pace: Pace | None = None,
    ) -> None:
        self.resource = resource
        self._server = server
        self._keep = keep
        self._changed = changed
        self._selection = selection or Selection()
        self._accept, self._accept_list = (METADATA, METADATA_LIST) if metadata_only else (JSON, JSON)
        self._may_be_absent = may_be_absent
        self._may_be_refused = may_be_refused
        self._pace = pace or Pace()
        self._objects: dict[Key, T] = {}
        self._misread: dict[Key, str] = {}
        self._version: str | None = None
        self._synced = False
        self._heard_at: float | None = None
        self._trouble: str | None = None
        self._lack: str | None = None
        self._failures = 0
        self._paged = True

    @property
    def objects(self) -> Mapping[Key, T]:
        """What is kept, by namespace and name."""
        return self._objects

    @property
    def synced(self) -> bool:
        """The collection has been read whole, and exists (or need not)."""
        return self._synced

    @property
    def age_seconds(self) -> float:
        """Since the server was last heard of; infinite before the first list."""
        return float("inf") if self._heard_at is None else time.monotonic() - self._heard_at

    @property
    def version(self) -> int:
        """The newest of the server's versions up to which every change has been seen; 0 where it cannot be told."""
        return int(self._version or 0)

    @property
    def trouble(self) -> str | None:
        """Why the collection is not followed at this moment, in a sentence."""
        return self._trouble

    @property
    def lack(self) -> str | None:
        """Why a collection that may be refused is not followed: whoever reads it goes without."""
        return self._lack

    async def run(self) -> None:
        while True:
            try:
                if self._version is None:
                    await self._list()
                await self._watch()
                delay = self._delay(self._pace.first_delay)
            except ApiError as error:
                delay = self._refused(error)
            except (*CONNECTION_ERRORS, _WatchEndedError, ValueError, KeyError, TypeError, AttributeError) as error:
                # The second half is a body that is no list or no event: a proxy's page, or half an answer.
                delay = self._failed(f"{type(error).__name__}: {error}")
            except Exception:
                logger.exception("following %s failed, it is listed anew", self.resource)
                self._version = None
                delay = self._failed("an error of ours")
            await asyncio.sleep(delay)

    async def _list(self) -> None:
        """Read the collection whole."""
        fresh: dict[Key, T] = {}
        seen: set[Key] = set()
        version = ""
        limit = self._pace.page if self._paged else None
        async for page in pages(self._server, self._path, self._selection.query(), limit, self._accept_list):
            # An empty list says null; what has no items at all is no list.
            for number, raw in enumerate(page["items"] or (), start=1):
                key = _key(raw)
                seen.add(key)
                value = self._kept(key, raw)
                if value is not None:
                    fresh[key] = value
                if number % _AT_ONCE == 0:
                    await asyncio.sleep(0)
            version = page["metadata"]["resourceVersion"]
        self._replace(fresh)
        self._misread = {key: said for key, said in self._misread.items() if key in seen}
        self._version = version
        self._synced = self._paged = True
        self._heard()

    async def _watch(self) -> None:
        """Follow the changes since the last known version, until the server ends the watch."""
        query = {
            **self._selection.query(),
            "watch": "true",
            "allowWatchBookmarks": "true",
            "resourceVersion": self._version or "",
            "timeoutSeconds": str(max(1, round(self._pace.watch * random.uniform(0.5, 1)))),
        }
        begun = time.monotonic()
        events = 0
        async with self._server.stream(self._path, query, self._accept, self._pace.silence) as lines:
            self._heard()
            try:
                async for line in lines:
                    self._take(json.loads(line))
                    self._heard()
                    self._failures = 0
                    events += 1
                    if events % _AT_ONCE == 0:
                        await asyncio.sleep(0)
            except TimeoutError:
                if not events:
                    # Not even a bookmark: so it is with a server that was restored to an older state. A list tells.
                    self._version = None
                raise
        if events or time.monotonic() - begun >= self._pace.short_watch:
            self._failures = 0
        else:
            raise _WatchEndedError("the server ended the watch at once")

    def _take(self, event: Raw) -> None:
        kind, raw = event["type"], event["object"]
        if kind == "ERROR":
            details = raw.get("details") or {}
            raise ApiError(
                int(raw.get("code") or 500),
                str(raw.get("reason")),
                str(raw.get("message")),
                details.get("retryAfterSeconds"),
            )
        version = raw["metadata"]["resourceVersion"]
        if kind in ("ADDED", "MODIFIED"):
            key = _key(raw)
            self._put(key, self._kept(key, raw))
        elif kind == "DELETED":
            key = _key(raw)
            self._misread.pop(key, None)
            self._put(key, None)
        self._version = version

    def _kept(self, key: Key, raw: Raw) -> T | None:
        try:
            value = self._keep(raw)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            held = self._objects.get(key)
            if self._misread.get(key) != str(error):
                self._misread[key] = str(error)
                what = "it is passed over" if held is None else "what it said before holds on"
                name = "/".join(part for part in key if part)
                logger.warning("%s %s cannot be understood, %s: %s", self.resource.kind, name, what, error)
            return held
        self._misread.pop(key, None)
        return value

    def _put(self, key: Key, value: T | None) -> None:
        before = self._objects.get(key)
        if value == before:
            return
        if value is None:
            del self._objects[key]
        else:
            self._objects[key] = value
        if self._changed is not None:
            self._changed(before, value)

    def _replace(self, fresh: Mapping[Key, T]) -> None:
        """In one step: whoever reads sees the collection as it was, or as it is."""
        for key in [key for key in self._objects if key not in fresh]:
            self._put(key, None)
        for key, value in fresh.items():
            self._put(key, value)

    def _heard(self) -> None:
        self._heard_at = time.monotonic()
        if self._trouble is not None or self._lack is not None:
            logger.info("%s are followed again", self.resource)
            self._trouble = self._lack = None

    def _refused(self, error: ApiError) -> float:
        """What a refusal means, and how long to wait."""
        if error.status == 410:
            # A list whose pages outlived their version is read in one piece the next time.
            self._paged = self._version is not None
            self._version = None
            self._failures += 1
            return self._delay(self._backoff())
        if error.status == 404:
            self._version = None
            self._replace({})
            self._synced = self._may_be_absent
            if self._may_be_absent:
                self._heard_at = time.monotonic()
                self._trouble = self._lack = None
            else:
                self._say(f"the cluster has no {self.resource}: install its CustomResourceDefinition")
            return self._delay(self._pace.look_again)
        if error.status == 403:
            self._denied(f"not allowed: {error.message} (grant the verbs list and watch on {self.resource})")
            # Without a pause at first: an API server that has just started refuses all until it has read its roles.
            self._failures += 1
            return self._delay(min(self._backoff(), self._pace.look_again))
        if error.status not in _TEMPORARY:
            self._version = None
        delay = self._failed(str(error))
        asked = error.retry_after_seconds
        return delay if asked is None else self._delay(max(asked, self._pace.first_delay))

    def _denied(self, sentence: str) -> None:
        if not self._may_be_refused:
            self._say(sentence)
            return
        if sentence != self._lack:
            logger.warning("%s are not followed, and what needs them does without: %s", self.resource, sentence)
        self._lack, self._trouble = sentence, None
        # Whoever reads need not wait for it; and the server was heard of.
        self._synced = True
        self._heard_at = time.monotonic()

    def _failed(self, sentence: str) -> float:
        self._say(sentence)
        self._failures += 1
        return self._delay(self._backoff())

    def _backoff(self) -> float:
        return min(self._pace.longest_delay, self._pace.first_delay * 2.0 ** min(self._failures - 1, 16))

    def _delay(self, seconds: float) -> float:
        """Between `seconds` and half as much again: many clients that lost one server come back one by one."""
        return seconds * random.uniform(1, 1.5)

    def _say(self, sentence: str) -> None:
        if sentence != self._trouble:
            logger.warning("%s cannot be followed, what is known holds on: %s", self.resource, sentence)
        self._trouble = sentence

    @property
    def _path(self) -> str:
        return self.resource.path(self._selection.namespace)


def _key(raw: Raw) -> Key:
    metadata: dict[str, Any] = raw["metadata"]
    return metadata.get("namespace") or "", metadata["name"]
