"""Leading, by a Lease on the API server: whoever holds it works, the others stand by.

The rules are those of `elections`. What is asked here is only ever one thing at a time, and never longer than the rules
can wait for it.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import secrets
import socket
import time
from collections.abc import AsyncIterator, Callable
from typing import Protocol

from prometheus_client import CollectorRegistry, Gauge

from recommender.api.apiserver.connection import CONNECTION_ERRORS, ApiError, ApiServer, Raw
from recommender.api.apiserver.resources import Resource
from recommender.elections import Claim, Election, Lease, Look, Timing, Wait, claimed, released
from vllm_plugin.names import PREFIX

logger = logging.getLogger(__name__)

LEASES = Resource("coordination.k8s.io", "v1", "leases", "Lease")
LEASE = "vllm-rightsizer-recommender"

_CLOCK = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)
"""Goes on while the process is stopped; on Linux also while the machine sleeps."""
_GONE = 404
_CONFLICT = 409


def clock() -> float:
    """Seconds, by which leases are reckoned."""
    return time.clock_gettime(_CLOCK)


class Leadership(Protocol):
    """Whether this recommender leads, one term after the other."""

    shared: bool
    """Whether there may be others."""

    @property
    def trouble(self) -> str | None:
        """Why it could not come to lead at this moment, in a sentence."""

    def held_seconds(self) -> float:
        """For so long from now on nobody else writes; 0 where that is not sure."""

    async def gained(self) -> None:
        """Waits until a term begins."""

    async def lost(self) -> None:
        """Waits until the term that has begun is over."""

    def cleared(self) -> None:
        """Nothing of the last term is left: another may begin."""

    def resign(self, seconds: float) -> None:
        """Ends the term; no other begins here within that time."""


class Sole:
    """There is nobody else: one term without end."""

    shared = False
    trouble: str | None = None

    def held_seconds(self) -> float:
        return math.inf

    async def gained(self) -> None:
        return

    async def lost(self) -> None:
        await asyncio.Event().wait()

    def cleared(self) -> None:
        return

    def resign(self, seconds: float) -> None:
        raise RuntimeError(f"there is nobody to hand over to for {seconds} s")


class Candidate:
    """One of those who would lead by the lease in `namespace`."""

    shared = True

    def __init__(
        self,
        server: ApiServer,
        namespace: str,
        able: Callable[[], bool],
        registry: CollectorRegistry,
        timing: Timing | None = None,
    ) -> None:
        """`able` says whether it could take up its work at once."""
        self.identity = f"{socket.gethostname()}_{secrets.token_hex(4)}"
        self._server = server
        self._path = LEASES.path(namespace, LEASE)
        self._collection = LEASES.path(namespace)
        self._shown = f"{namespace}/{LEASE}"
        self._timing = timing or Timing()
        self._election = Election(self.identity, self._timing)
        self._able = able
        self._not_before = -math.inf
        self._gives_back = False
        self._term: asyncio.Future[None] | None = None
        """Done when the term is over; until it is cleared away, no other begins."""
        self._begun = asyncio.Event()
        self._ended = asyncio.Event()
        self._leader = ""
        self._trouble: str | None = None
        age = Gauge(
            PREFIX + "recommender_lease_age_seconds",
            "Seconds since the lease was last seen renewed, by whoever leads.",
            registry=registry,
        )
        age.set_function(self._age_seconds)

    @property
    def trouble(self) -> str | None:
        return self._trouble

    def held_seconds(self) -> float:
        return 0.0 if self._gives_back or self._ended.is_set() else self._election.held_seconds(clock())

    async def gained(self) -> None:
        await self._begun.wait()

    async def lost(self) -> None:
        if self._term is not None:
            await asyncio.shield(self._term)

    def cleared(self) -> None:
        self._term = None

    def resign(self, seconds: float) -> None:
        self._not_before = clock() + seconds
        self._gives_back = True
        self._take_note()

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Stands for the length of the block; at its end the lease is given back."""
        task = asyncio.create_task(self._run(), name="lease")
        try:
            yield
        finally:
            # An answer that is on its way is waited for: it says which version is to be given back.
            self._ended.set()
            await asyncio.gather(task, return_exceptions=True)

    async def _run(self) -> None:
        while not self._ended.is_set():
            now = clock()
            step = self._election.step(now, self._able() and self._term is None and now >= self._not_before)
            self._take_note()
            if isinstance(step, Wait):
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._ended.wait(), step.seconds)
            else:
                await self._do(step)
                self._take_note()
            if self._gives_back:
                await self._give_back()
                self._gives_back = False
        await self._give_back()

    async def _do(self, step: Look | Claim) -> None:
        asked = clock()
        held = self._election.held_seconds(asked)
        try:
            async with asyncio.timeout(min(self._timing.request, held or math.inf)):
                if isinstance(step, Look):
                    self._election.seen(await self._read(), clock())
                else:
                    self._election.granted(step, Lease.of(await self._write(step)), asked)
        except ApiError as error:
            if error.status == _CONFLICT or (error.status == _GONE and isinstance(step, Claim) and step.lease):
                self._election.overtaken()
                return
            self._failed(step, f"{error}{_HINTS.get(error.status, '')}")
        except (*CONNECTION_ERRORS, ValueError, KeyError, TypeError, AttributeError) as error:
            self._failed(step, f"{type(error).__name__}: {error}".rstrip(": "))
        except Exception as error:
            logger.exception("the lease %s cannot be looked at", self._shown)
            self._failed(step, f"{type(error).__name__}: {error}")
        else:
            if self._trouble is not None:
                logger.info("the lease %s can be reached again", self._shown)
            self._trouble = None

    async def _read(self) -> Lease | None:
        try:
            return Lease.of(await self._server.request("GET", self._path))
        except ApiError as error:
            if error.status != _GONE:
                raise
            return None

    async def _write(self, claim: Claim) -> Raw:
        body = claimed(claim, self.identity, self._timing, LEASE, time.time())
        if claim.lease is None:
            return await self._server.request("POST", self._collection, body=body)
        return await self._server.request("PUT", self._path, body=body)

    async def _give_back(self) -> None:
        """Whoever stands by need not wait until it has run out."""
        self._election.resigned()
        if self._election.holder != self.identity:
            return
        try:
            async with asyncio.timeout(self._timing.request):
                lease = await self._read()
                if lease is not None and lease.holder == self.identity:
                    body = released(lease, LEASE, time.time())
                    await self._server.request("PUT", self._path, body=body)
                    logger.info("the lease %s is given back", self._shown)
        except Exception as error:
            # Whatever it is: the lease is to be looked at again.
            logger.warning(
                "the lease %s is not given back, it runs out by itself: %s: %s",
                self._shown,
                type(error).__name__,
                error,
            )

    def _failed(self, step: Look | Claim, why: str) -> None:
        self._election.unanswered(step, clock())
        sentence = f"the lease {self._shown} cannot be held or looked at: {why}"
        if sentence != self._trouble:
            logger.warning("%s", sentence)
        self._trouble = sentence

    def _take_note(self) -> None:
        """Begin the term or end it, and say so."""
        leads = self.held_seconds() > 0
        if leads and self._term is None:
            self._term = asyncio.get_running_loop().create_future()
            self._begun.set()
            logger.info("leads now, as %s, by the lease %s", self.identity, self._shown)
        elif not leads and self._term is not None and not self._term.done():
            why = "is left to others" if self._gives_back else "is not surely held"
            logger.warning("leads no more: the lease %s %s", self._shown, why)
            self._term.set_result(None)
            self._begun.clear()
        leader = self._election.holder
        if leader != self._leader:
            self._leader = leader
            if leader not in ("", self.identity):
                logger.info("stands by: %s leads, by the lease %s", leader, self._shown)

    def _age_seconds(self) -> float:
        age = self._election.age_seconds(clock())
        return math.inf if age is None else age


_HINTS = {
    403: " (grant it, see deploy/kubernetes/recommender-rbac.yaml, or run a single one with --no-leader-elect)",
    404: " (the namespace is the pod's own; --namespace names another)",
}
