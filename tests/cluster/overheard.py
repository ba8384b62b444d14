"""An ear at the API server: what one client writes there passes through here, and is noted."""

from __future__ import annotations

import asyncio
import ssl
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import aiohttp
from aiohttp import web

from bench.lab.control_plane import ControlPlane

_NOT_OURS = ("host", "content-length", "transfer-encoding", "connection")


@dataclass(frozen=True)
class Written:
    at: float
    """`time.monotonic`, when the whole request was here."""
    method: str
    path: str


@dataclass
class Overheard:
    """`url` is the API server for one client, which brings its own credentials. While `refusing` is set, writes of
    objects end there with that status, and 429 asks to wait a second; while `closed` is, nothing gets through."""

    url: str = ""
    writes: list[Written] = field(default_factory=list)
    lists: list[str] = field(default_factory=list)
    """Paths of what was read whole."""
    refused: int = 0
    refusing: int | None = None
    closed: bool = False

    def objects(self, since: float = 0.0) -> list[Written]:
        """What passed since then, the lease apart."""
        return [one for one in self.writes if one.at >= since and "/leases" not in one.path]


@contextmanager
def overhearing(plane: ControlPlane) -> Iterator[Overheard]:
    """For the length of the block, on a thread of its own."""
    made, ready, loop = Overheard(), threading.Event(), asyncio.new_event_loop()
    stop = asyncio.Event()
    thread = threading.Thread(target=loop.run_until_complete, args=(_serve(plane, made, ready, stop),))
    thread.start()
    try:
        assert ready.wait(60)
        yield made
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join()
        loop.close()


async def _serve(plane: ControlPlane, made: Overheard, ready: threading.Event, stop: asyncio.Event) -> None:
    context = ssl.create_default_context(cafile=str(plane.ca_file))
    connector = aiohttp.TCPConnector(ssl=context, limit=0)
    async with aiohttp.ClientSession(connector=connector, auto_decompress=False) as session:

        async def passed_on(request: web.Request) -> web.StreamResponse:
            body = await request.read()
            if made.closed:
                return web.Response(status=503)
            if request.method == "GET" and "watch" not in request.query:
                made.lists.append(request.path)
            if request.method != "GET":
                if made.refusing is not None and "/leases" not in request.path:
                    made.refused += 1
                    return web.Response(status=made.refusing, headers={"Retry-After": "1"})
                made.writes.append(Written(time.monotonic(), request.method, request.path))
            headers = {name: value for name, value in request.headers.items() if name.lower() not in _NOT_OURS}
            url = f"{plane.url}{request.raw_path}"
            timeout = aiohttp.ClientTimeout(total=None)
            try:
                async with session.request(
                    request.method, url, headers=headers, data=body or None, timeout=timeout
                ) as answer:
                    kept = {name: value for name, value in answer.headers.items() if name.lower() not in _NOT_OURS}
                    response = web.StreamResponse(status=answer.status, headers=kept)
                    await response.prepare(request)
                    async for chunk in answer.content.iter_any():
                        await response.write(chunk)
                    return response
            except (aiohttp.ClientError, ConnectionError):
                # As where the server itself is gone.
                if request.transport is not None:
                    request.transport.abort()
                raise

        application = web.Application(client_max_size=2**24)
        application.router.add_route("*", "/{path:.*}", passed_on)
        runner = web.AppRunner(application, shutdown_timeout=0.1, access_log=None, handler_cancellation=True)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        made.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
        ready.set()
        await stop.wait()
        await runner.cleanup()
