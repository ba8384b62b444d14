"""Reviews sent to a webhook as an API server sends them: over TLS, on connections that are kept."""

from __future__ import annotations

import asyncio
import random
import ssl
import time
from collections.abc import Sequence
from dataclasses import dataclass

import uvloop

_CONNECTIONS = 8
_CLOSED_CONNECTIONS = 16


@dataclass(frozen=True)
class Target:
    """Where the webhook listens, and the authority that its certificate is believed by."""

    host: str
    port: int
    authority: str


class Connection:
    """One kept connection; a request at a time."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, target: Target) -> None:
        self._reader = reader
        self._writer = writer
        self._head = f"POST /mutate HTTP/1.1\r\nHost: {target.host}\r\nContent-Type: application/json\r\n"

    @classmethod
    async def open(cls, target: Target) -> Connection:
        context = ssl.create_default_context(cadata=target.authority)
        return cls(*await asyncio.open_connection(target.host, target.port, ssl=context), target)

    async def review(self, body: bytes) -> bytes:
        """The answer to one review. Raises ValueError where it is not 200."""
        self._writer.write(f"{self._head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
        head = await self._reader.readuntil(b"\r\n\r\n")
        if not head.startswith(b"HTTP/1.1 200"):
            raise ValueError(head.decode())
        length = next(line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:"))
        return await self._reader.readexactly(int(length.partition(b":")[2]))

    def close(self) -> None:
        self._writer.close()


def at_rate(target: Target, bodies: Sequence[bytes], per_second: float, seconds: float) -> list[float]:
    """Seconds from the moment at which each review was due to its answer, at random moments of this mean rate.

    One that comes while all connections are in use waits, and that counts.
    """
    return asyncio.Runner(loop_factory=uvloop.new_event_loop).run(_at_rate(target, bodies, per_second, seconds))


def answers(target: Target, bodies: Sequence[bytes]) -> list[bytes]:
    """One after the other, on one connection."""
    return asyncio.Runner(loop_factory=uvloop.new_event_loop).run(_answers(target, bodies))


def as_fast_as_they_can(targets: Sequence[Target], bodies: Sequence[bytes], seconds: float) -> float:
    """Answers a second with a review waiting on every connection; each target has as many."""
    return asyncio.Runner(loop_factory=uvloop.new_event_loop).run(_as_fast_as_they_can(targets, bodies, seconds))


async def _at_rate(target: Target, bodies: Sequence[bytes], per_second: float, seconds: float) -> list[float]:
    connections = [await Connection.open(target) for _ in range(_CONNECTIONS)]
    free: asyncio.Queue[Connection] = asyncio.Queue()
    for connection in connections:
        await connection.review(bodies[0])
        free.put_nowait(connection)
    arrivals = random.Random(1)
    took: list[float] = []

    async def one(body: bytes, due: float) -> None:
        connection = await free.get()
        answer = await connection.review(body)
        took.append(time.perf_counter() - due)
        free.put_nowait(connection)
        if b'"allowed":true' not in answer.replace(b" ", b""):
            raise ValueError(answer.decode())

    begun = due = time.perf_counter()
    number = 0
    async with asyncio.TaskGroup() as group:
        while due - begun < seconds:
            due += arrivals.expovariate(per_second)
            await asyncio.sleep(max(0.0, due - time.perf_counter()))
            group.create_task(one(bodies[number % len(bodies)], due))
            number += 1
    for connection in connections:
        connection.close()
    return took


async def _answers(target: Target, bodies: Sequence[bytes]) -> list[bytes]:
    connection = await Connection.open(target)
    found = [await connection.review(body) for body in bodies]
    connection.close()
    return found


async def _as_fast_as_they_can(targets: Sequence[Target], bodies: Sequence[bytes], seconds: float) -> float:
    connections = [await Connection.open(targets[at % len(targets)]) for at in range(_CLOSED_CONNECTIONS)]
    begun = time.perf_counter()

    async def keep_asking(connection: Connection, at: int) -> int:
        answered = 0
        while time.perf_counter() - begun < seconds:
            await connection.review(bodies[(at + answered * _CLOSED_CONNECTIONS) % len(bodies)])
            answered += 1
        return answered

    answered = await asyncio.gather(*(keep_asking(connection, at) for at, connection in enumerate(connections)))
    elapsed = time.perf_counter() - begun
    for connection in connections:
        connection.close()
    return sum(answered) / elapsed
