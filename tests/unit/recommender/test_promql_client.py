"""Over HTTP: what is sent, and what is said where there is no answer."""

from __future__ import annotations

import contextlib
import json
import socket
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
from aiohttp import web
from prometheus_client import CollectorRegistry

from recommender.promql import client as client_module
from recommender.promql.answers import PromSeries
from recommender.promql.client import PrometheusClient, PromqlTelemetry, QueryError
from recommender.promql.settings import PrometheusSettings, PrometheusSettingsError

BODY = {"status": "success", "data": {"resultType": "vector", "result": [{"metric": {"pod": "a"}, "value": [1, "2"]}]}}


@contextlib.asynccontextmanager
async def answering(handler: Callable[[web.Request], web.StreamResponse]) -> AsyncIterator[str]:
    async def handle(request: web.Request) -> web.StreamResponse:
        await request.post()
        return handler(request)

    application = web.Application()
    application.router.add_route("*", "/{path:.*}", handle)
    runner = web.AppRunner(application)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    assert site._server is not None
    try:
        yield f"http://127.0.0.1:{site._server.sockets[0].getsockname()[1]}"  # type: ignore[attr-defined]  # asyncio's
    finally:
        await runner.cleanup()


async def asked(settings: PrometheusSettings, registry: CollectorRegistry | None = None) -> list[PromSeries]:
    found: list[PromSeries] = []
    telemetry = PromqlTelemetry(registry or CollectorRegistry())
    async with PrometheusClient(settings, telemetry) as client:
        try:
            await client.query("up", 1.5, found.append)
        finally:
            counts = {one.labels["outcome"]: one.value for one in telemetry.queries.collect()[0].samples[::2]}
            assert sum(counts.values()) == 1
    return found


async def test_token_tenant_and_query_are_sent(tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.write_text("secret\n")
    seen = []

    def handler(request: web.Request) -> web.StreamResponse:
        seen.append((request.path, dict(request.headers), dict(request._post or {})))
        return web.json_response(BODY)

    async with answering(handler) as url:
        headers = (("X-Scope-OrgID", "team"),)
        [series] = await asked(PrometheusSettings(f"{url}/prometheus/", token_file=token, headers=headers))
        token.write_text("renewed")
        await asked(PrometheusSettings(f"{url}/prometheus", token_file=token, headers=headers))
    assert series.samples == [(1.0, 2.0)]
    path, sent, form = seen[0]
    assert path == "/prometheus/api/v1/query"
    assert sent["X-Scope-OrgID"] == "team"
    assert sent["Authorization"] == "Bearer secret"
    assert form == {"query": "up", "time": "1.500"}
    assert seen[1][1]["Authorization"] == "Bearer renewed"


async def test_secret_headers_are_read_anew(tmp_path: Path) -> None:
    """Whatever the case of their names, they replace those of the command line, and a token replaces theirs."""
    file, token = tmp_path / "headers", tmp_path / "token"
    token.write_text("bearer")
    seen = []

    def handler(request: web.Request) -> web.StreamResponse:
        seen.append((request.headers.getall("Authorization"), request.headers.getall("X-Scope-OrgID")))
        return web.json_response(BODY)

    async with answering(handler) as url:
        plain = (("X-Scope-OrgID", "plain"),)
        file.write_text("Authorization: Basic b25l\n\nx-scope-orgid: team\n")
        await asked(PrometheusSettings(url, headers_file=file, headers=plain))
        file.write_text("authorization: Basic dHdv\r\n")
        await asked(PrometheusSettings(url, headers_file=file, headers=plain))
        await asked(PrometheusSettings(url, headers_file=file, token_file=token, headers=plain))
        file.write_text("X-Scope-OrgID: team\nb25lOnNlY3JldA==\n")
        with pytest.raises(QueryError, match=rf"line 2 of {file} is no header") as error:
            await asked(PrometheusSettings(url, headers_file=file))
        assert "b25l" not in str(error.value)
        file.unlink()
        with pytest.raises(PrometheusSettingsError, match=f"no file {file}"):
            PrometheusSettings(url, headers_file=file)
    assert seen == [
        (["Basic b25l"], ["team"]),
        (["Basic dHdv"], ["plain"]),
        (["Bearer bearer"], ["plain"]),
    ]


async def test_secret_headers_that_are_gone(tmp_path: Path) -> None:
    file = tmp_path / "headers"
    file.touch()
    settings = PrometheusSettings("http://prometheus:9090", headers_file=file)
    file.unlink()
    with pytest.raises(QueryError, match=r"file of headers .* cannot be read"):
        await asked(settings)


@pytest.mark.parametrize(
    ("status", "body", "said"),
    [
        (401, "no org id", r"HTTP 401 \(no org id\): is a tenant's header or a token missing"),
        (403, "{}", "may this token ask"),
        (404, "page not found", "is this the address under which /api/v1/query lies"),
        (422, json.dumps({"status": "error", "error": "query processing would load too many samples"}), "too many"),
        (302, "", "HTTP 302"),
        (200, "<html>", "no JSON"),
        (200, json.dumps(BODY)[:90], "ends in the middle"),
    ],
)
async def test_what_is_wrong_is_said(status: int, body: str, said: str) -> None:
    async with answering(lambda _: web.Response(status=status, text=body, headers={"Location": "/x"})) as url:
        with pytest.raises(QueryError, match=said):
            await asked(PrometheusSettings(url))


async def test_nobody_answers() -> None:
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{nobody.getsockname()[1]}"
        with pytest.raises(QueryError, match=f"no answer from {url}"):
            await asked(PrometheusSettings(url))


async def test_an_endless_answer_is_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client_module, "LARGEST_ANSWER_BYTES", 1 << 20)
    many = {"status": "success", "data": {"result": [{"metric": {}, "value": [1, "2"]}] * 100_000}}
    async with answering(lambda _: web.json_response(many)) as url:
        with pytest.raises(QueryError, match="longer than 1 MiB"):
            await asked(PrometheusSettings(url))
