"""What is written to the API server: in order, at a bounded rate, and again where it failed.

Rounds do not wait for it. What is asked for an object while an earlier write of it still waits takes that one's place,
so that however long the server refuses, what is written in the end is what holds.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import time
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass

from recommender.api.apiserver.connection import CONNECTION_ERRORS, JSON, ApiError, ApiServer, NotPermittedError, Raw
from recommender.api.apiserver.pacing import Pacing
from recommender.old_definitions import OldDefinitions
from recommender.telemetry import Telemetry

logger = logging.getLogger(__name__)

Key = tuple[str, str, str]
"""Kind, namespace ("" where the kind has none), and name."""

FIELD_MANAGER = "vllm-rightsizer-recommender"
APPLY = "application/apply-patch+yaml"
MERGE = "application/merge-patch+json"

GONE = 404
THERE = 409
"""Somebody else wrote at the same moment, or the same fields; or the object to be created is there."""
_THROTTLED = 429
_TOO_EARLY = (_THROTTLED, 500, 502, 503, 504)
_NAMESPACE_GOES = "NamespaceTerminating"
"""The cause of a refusal to create anything in a namespace that is being deleted."""


@dataclass(frozen=True)
class Step:
    """One request. `otherwise` is what is asked instead where the server answers with that status, None for nothing:
    then the step is done."""

    method: str
    path: str
    body: Raw | None = None
    content_type: str = JSON
    query: Mapping[str, str] | None = None
    otherwise: tuple[int, Step | None] | None = None


@dataclass(frozen=True)
class Write:
    """What is asked for one object: steps, one after the other. `done` is told the last answer, None where the object,
    or its namespace, is gone. Where it must not be lost it is tried until it is done, otherwise only while the server
    cannot be reached.
    """

    key: Key
    steps: tuple[Step, ...]
    done: Callable[[Raw | None], None] = lambda _: None
    must_not_be_lost: bool = True


@dataclass(frozen=True)
class WritePace:
    """How fast, and how patient, in seconds."""

    per_second: float = 20.0
    burst: int = 50
    first_delay: float = 0.5
    longest_delay: float = 5.0
    try_again: float = 10.0
    """After a refusal that says no; of one kind and namespace a single object tries."""
    farewell: float = 5.0
    """For what still waits at the end."""


def applied(path: str, body: Raw) -> Step:
    """Server-side apply. Fields that others wrote are taken over, in a second request so that it can be seen."""
    query = {"fieldManager": FIELD_MANAGER}
    forced = Step("PATCH", path, body, APPLY, {**query, "force": "true"})
    return Step("PATCH", path, body, APPLY, query, (THERE, forced))


def merged(path: str, body: Raw) -> Step:
    """What is in `body` in the place of what stands there, whatever else does."""
    return Step("PATCH", path, body, MERGE, {"fieldManager": FIELD_MANAGER})


def created(path: str, body: Raw) -> Step:
    """Create an object whose name says what it holds: one that is there is the right one."""
    return Step("POST", path, body, query={"fieldManager": FIELD_MANAGER}, otherwise=(THERE, None))


def deleted(path: str) -> Step:
    return Step("DELETE", path, otherwise=(GONE, None))


class Writer:
    """Writes one object after the other, on the event loop of the rounds."""

    def __init__(self, server: ApiServer, telemetry: Telemetry, pace: WritePace | None = None) -> None:
        self._server = server
        self._telemetry = telemetry
        self._pace = pace or WritePace()
        self._pacing = Pacing(self._pace.per_second, self._pace.burst)
        self._waiting: dict[Key, Write] = {}
        self._not_before: dict[Key, float] = {}
        self._held_until = 0.0
        self._failures = 0
        self._unreachable: str | None = None
        self._refused: dict[Key, str] = {}
        self._blocked: dict[tuple[str, str], tuple[int, float]] = {}
        """Kinds and namespaces in which nothing may be written: how often that was said, and when it is tried again."""
        self._said: set[tuple[str, str]] = set()
        """Those of which a refusal has been logged."""
        self._definitions = OldDefinitions()
        self._more = asyncio.Event()

    @property
    def trouble(self) -> str | None:
        """Why something is not written, in a sentence."""
        if self._unreachable is not None:
            return f"the API server takes no writes: {self._unreachable}"
        if not self._refused:
            return None
        (kind, namespace, name), why = next(iter(self._refused.items()))
        others = f" (and {len(self._refused) - 1} more)" if len(self._refused) > 1 else ""
        return f"{kind} {_shown(namespace, name)} cannot be written{others}: {why}"

    def put(self, write: Write) -> None:
        """Ask for `write`, in the place of what waits for the same object."""
        if self._waiting.get(write.key) is None:
            self._not_before.pop(write.key, None)
        self._waiting[write.key] = write
        self._telemetry.object_writes_waiting.set(len(self._waiting))
        self._more.set()

    def waits(self, key: Key) -> bool:
        """Whether a write of that object is not done yet."""
        return key in self._waiting

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Writes for the length of the block; what waits at its end is tried once more, for a moment."""
        task = asyncio.create_task(self._run(), name="writes")
        try:
            yield
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._pace.farewell):
                    while self._next(time.monotonic()) is not None:
                        await asyncio.sleep(0.02)
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            if self._waiting:
                why = f": {self.trouble}" if self.trouble else ""
                logger.warning("%d objects were not written any more%s", len(self._waiting), why)
            self._telemetry.object_writes_waiting.set(0)

    async def _run(self) -> None:
        while True:
            now = time.monotonic()
            write = self._next(now)
            if now < self._held_until:
                # What is asked for meanwhile waits with the rest: nobody looks through all of it each time.
                await asyncio.sleep(self._held_until - now)
                continue
            if write is None:
                self._more.clear()
                times = [self._time_of(key) for key in self._waiting]
                pause = min(times) - now if times else None
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._more.wait(), pause if pause is None else max(pause, 0.0))
                continue
            await asyncio.sleep(self._pacing.wait(now))
            # It may have been replaced meanwhile.
            write = self._waiting[write.key]
            try:
                await self._do(write)
            except Exception:
                logger.exception("%s cannot be written, that is given up", write.key)
                self._over(write, "failed")

    def _next(self, now: float) -> Write | None:
        """The first that may be tried."""
        if now < self._held_until:
            return None
        return next((write for key, write in self._waiting.items() if self._time_of(key) <= now), None)

    def _time_of(self, key: Key) -> float:
        """From when on it may be tried."""
        return max(self._not_before.get(key, 0.0), self._blocked.get(key[:2], (0, 0.0))[1])

    async def _do(self, write: Write) -> None:
        try:
            answer: Raw | None = None
            for step in write.steps:
                answer = await self._take(step, write.key)
        except ApiError as error:
            self._refusal(write, error)
        except NotPermittedError:
            self._hold("another recommender may be writing")
        except (*CONNECTION_ERRORS, ValueError) as error:
            self._hold(f"{type(error).__name__}: {error}")
            self._count(write.key, "failed")
        else:
            self._reached()
            self._blocked.pop(write.key[:2], None)
            if write.key[:2] in self._said:
                self._said.discard(write.key[:2])
                logger.info("%s %s is written again", write.key[0], _shown(*write.key[1:]))
            self._over(write, "written")
            write.done(answer)

    async def _take(self, step: Step, key: Key) -> Raw | None:
        body, applies = step.body, step.content_type == APPLY
        if body is not None and applies:
            body = self._definitions.part(key[0], body, time.monotonic())
        try:
            return await self._server.request(
                step.method, step.path, query=step.query, body=body, content_type=step.content_type
            )
        except ApiError as error:
            if applies and (lacking := self._definitions.learn(key[0], error.message, time.monotonic())):
                logger.warning(
                    "%s: the definition in the cluster has no %s, which is left out: `vllm-rightsizer crds --apply` "
                    "brings it up to date",
                    key[0],
                    ", ".join(sorted(lacking)),
                )
                return await self._take(step, key)
            if step.otherwise is None or error.status != step.otherwise[0]:
                raise
            if applies:
                self._count(key, "conflict")
                logger.warning("%s %s: others wrote what is ours, it is taken over: %s", key[0], key[2], error.message)
        return None if step.otherwise[1] is None else await self._take(step.otherwise[1], key)

    def _refusal(self, write: Write, error: ApiError) -> None:
        """What a refusal means for the write."""
        kind, namespace, name = write.key
        if error.status in _TOO_EARLY or error.status == 401:
            self._hold(str(error), error.retry_after_seconds)
            self._count(write.key, "throttled" if error.status == _THROTTLED else "failed")
            return
        self._reached()
        if error.status == GONE or _NAMESPACE_GOES in error.causes:
            logger.info("%s %s is not written: it, or its namespace, is gone", kind, _shown(namespace, name))
            self._over(write, "gone")
            write.done(None)
            return
        if error.status == THERE:
            # Somebody wrote at the same moment.
            self._not_before[write.key] = time.monotonic() + self._pace.first_delay
            self._count(write.key, "conflict")
            return
        hint = " (grant it, see deploy/kubernetes/recommender-rbac.yaml)" if error.status == 403 else ""
        if (kind, namespace) not in self._said:
            self._said.add((kind, namespace))
            logger.error("%s %s cannot be written: %s%s", kind, _shown(namespace, name), error, hint)
        if write.must_not_be_lost:
            delay = self._pace.try_again
            if error.status == 403:
                # Soon at first: an API server that has just started refuses all until it has read its roles.
                times = self._blocked.get((kind, namespace), (0, 0.0))[0]
                delay = min(delay, self._pace.first_delay * 2.0 ** min(times, 16))
                self._blocked[kind, namespace] = (times + 1, time.monotonic() + delay * random.uniform(1, 1.5))
            else:
                self._not_before[write.key] = time.monotonic() + delay * random.uniform(1, 1.5)
            self._refused[write.key] = f"{error}{hint}"
            self._count(write.key, "refused")
        else:
            self._over(write, "refused")

    def _over(self, write: Write, outcome: str) -> None:
        """Done, one way or the other; what was asked meanwhile still waits."""
        self._count(write.key, outcome)
        if self._waiting.get(write.key) is write:
            del self._waiting[write.key]
            self._not_before.pop(write.key, None)
            self._refused.pop(write.key, None)
        self._telemetry.object_writes_waiting.set(len(self._waiting))

    def _hold(self, why: str, seconds: float | None = None) -> None:
        """Nothing is written for a while: the server asks for it, or cannot be reached."""
        if self._unreachable is None:
            logger.warning("the API server takes no writes, they wait: %s", why)
        self._unreachable = why
        backoff = min(self._pace.longest_delay, self._pace.first_delay * 2.0 ** min(self._failures, 16))
        self._failures += 1
        pause = backoff if seconds is None else max(seconds, self._pace.first_delay)
        self._held_until = time.monotonic() + pause * random.uniform(1, 1.5)

    def _reached(self) -> None:
        if self._unreachable is not None:
            logger.info("the API server takes writes again")
        self._unreachable = None
        self._failures = 0

    def _count(self, key: Key, outcome: str) -> None:
        self._telemetry.object_writes.labels(key[0], outcome).inc()


def _shown(namespace: str, name: str) -> str:
    return f"{namespace}/{name}" if namespace else name
