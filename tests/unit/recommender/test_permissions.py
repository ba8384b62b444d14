"""A request of a connection that needs permission leaves while it has it, or not at all."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from pathlib import Path

import aiohttp
import pytest
from aiohttp import web
from loop_clock import later
from test_object_writes import HASTY, KUBECONFIG, until

from recommender.api.apiserver.connection import ApiServer
from recommender.object_writes import Write, Writer, deleted
from recommender.telemetry import Telemetry

PATH = "/apis/example.org/v1/things/a"


@contextlib.asynccontextmanager
async def connected(folder: Path, permitted: Callable[[], float]) -> AsyncIterator[tuple[ApiServer, list[str]]]:
    """The connection, and what has come to the server, whole or not."""
    come: list[str] = []

    async def answer(request: web.Request) -> web.Response:
        come.append(request.method)
        if request.path.endswith("/slow"):
            await asyncio.sleep(60)
        return web.json_response({})

    application = web.Application()
    application.router.add_route("*", "/{path:.*}", answer)
    runner = web.AppRunner(application, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    file = folder / "kubeconfig"
    file.write_text(KUBECONFIG.format(port=runner.addresses[0][1]))
    server = await ApiServer.connect(file, permitted=permitted)
    try:
        yield server, come
    finally:
        await server.close()
        await runner.cleanup()


async def test_while_it_is_permitted(tmp_path: Path) -> None:
    async with connected(tmp_path, lambda: 60.0) as (server, come):
        assert await server.request("PATCH", PATH, body={"x": 1}) == {}
        assert await server.request("DELETE", PATH) == {}
    assert come == ["PATCH", "DELETE"]


@pytest.mark.parametrize(("method", "body"), [("PATCH", {"x": 1}), ("DELETE", None)])
@pytest.mark.parametrize("asked", [0, 1, 2])
async def test_when_it_ends_before_the_request_has_left(
    tmp_path: Path, method: str, body: dict[str, int] | None, asked: int
) -> None:
    """At first; when a connection is there; when the body is about to follow. A process may stand still in between."""
    answers = [60.0] * asked
    async with connected(tmp_path, lambda: answers.pop() if answers else 0.0) as (server, come):
        if body is None and asked == 2:
            # There is nothing to follow.
            assert await server.request(method, PATH) == {}
            return
        async with asyncio.timeout(60):
            with pytest.raises(aiohttp.ClientError, match="not permitted"):
                await server.request(method, PATH, body=body)
        assert not answers
        await asyncio.sleep(0.05)
        assert come == []


async def test_when_it_ends_before_the_answer_has_come(tmp_path: Path) -> None:
    """Nobody waits on: what the answer would be is not known."""
    async with connected(tmp_path, lambda: 20.0) as (server, come):
        asking = asyncio.create_task(server.request("PATCH", f"{PATH}/slow", body={}))
        await until(lambda: come == ["PATCH"])
        later(20.0)
        answered, _ = await asyncio.wait({asking}, timeout=30)
        assert answered
        with pytest.raises(TimeoutError):
            await asking


async def test_writes_wait_for_it(tmp_path: Path) -> None:
    """And are not tried for long at the end, where it is gone."""
    left = [0.0]
    telemetry = Telemetry()
    async with connected(tmp_path, lambda: left[0]) as (server, come):
        writer = Writer(server, telemetry, replace(HASTY, farewell=30))
        async with asyncio.timeout(60), writer.running():
            writer.put(Write(("Thing", "prod", "a"), (deleted(PATH),)))
            await until(lambda: writer.trouble is not None)
            assert "another recommender may be writing" in str(writer.trouble)
            assert come == []
            left[0] = 60.0
            await until(lambda: come == ["DELETE"])
            await until(lambda: writer.trouble is None)
            left[0] = 0.0
            writer.put(Write(("Thing", "prod", "b"), (deleted(PATH),)))
    assert come == ["DELETE"]
