"""Writes end with what was asked for last, however the server takes them; no more of them than it can bear."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from loop_clock import later

from recommender.api.apiserver.connection import ApiServer
from recommender.api.apiserver.pacing import Pacing
from recommender.object_writes import Step, Write, WritePace, Writer, applied, created, deleted
from recommender.telemetry import Telemetry

PATH = "/apis/example.org/v1/things/a"
KEY = ("Thing", "prod", "a")
HASTY = WritePace(per_second=1000, first_delay=0.01, longest_delay=0.05, try_again=0.05, farewell=0.2)
KUBECONFIG = """
apiVersion: v1
kind: Config
clusters: [{{name: c, cluster: {{server: "http://127.0.0.1:{port}"}}}}]
users: [{{name: u, user: {{token: t}}}}]
contexts: [{{name: x, context: {{cluster: c, user: u}}}}]
current-context: x
"""


@dataclass
class Server:
    """Answers each request with the next of `answers`, 200 where there is none."""

    answers: list[int] = field(default_factory=list)
    retry_after: str = ""
    cause: str = ""
    undeclared: frozenset[str] = frozenset()
    """Fields of a status that its definition does not have."""
    taken: list[tuple[str, dict[str, str], Any]] = field(default_factory=list)
    times: list[float] = field(default_factory=list)

    async def answer(self, request: web.Request) -> web.Response:
        self.times.append(asyncio.get_running_loop().time())
        code = self.answers.pop(0) if self.answers else 200
        body = await request.json() if request.can_read_body else None
        lacking = sorted(self.undeclared & (body or {}).get("status", {}).keys())
        if lacking:
            # As API servers do, the first one alone.
            message = (
                f"failed to create typed patch object (prod/a): .status.{lacking[0]}: field not declared in schema"
            )
            return web.json_response({"kind": "Status", "message": message}, status=500)
        if code == 200:
            self.taken.append((request.method, dict(request.query), body))
            return web.json_response({"metadata": {"resourceVersion": "7"}})
        headers = {"Retry-After": self.retry_after} if self.retry_after else {}
        details = {"causes": [{"reason": self.cause}]} if self.cause else {}
        status = {"kind": "Status", "reason": "Because", "message": f"no {code}", "details": details}
        return web.json_response(status, status=code, headers=headers)


@dataclass
class Stand:
    server: Server
    writer: Writer
    telemetry: Telemetry
    done: list[Any] = field(default_factory=list)

    def put(self, *steps: Step, must_not_be_lost: bool = True) -> None:
        self.writer.put(Write(KEY, steps, self.done.append, must_not_be_lost))

    def count(self, outcome: str) -> float:
        found = self.telemetry.registry.get_sample_value(
            "vllm_rightsizer_recommender_object_writes_total", {"kind": "Thing", "outcome": outcome}
        )
        return found or 0.0


@contextlib.asynccontextmanager
async def standing(folder: Path, *answers: int, retry_after: str = "", pace: WritePace = HASTY) -> AsyncIterator[Stand]:
    server = Server(list(answers), retry_after)
    application = web.Application()
    application.router.add_route("*", "/{path:.*}", server.answer)
    runner = web.AppRunner(application, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    file = folder / "kubeconfig"
    file.write_text(KUBECONFIG.format(port=runner.addresses[0][1]))
    api = await ApiServer.connect(file)
    telemetry = Telemetry()
    writer = Writer(api, telemetry, pace)
    try:
        async with writer.running():
            yield Stand(server, writer, telemetry)
    finally:
        await api.close()
        await runner.cleanup()


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(60):
        while not condition():
            await asyncio.sleep(0.001)


async def test_an_object_is_written_once(tmp_path: Path) -> None:
    async with standing(tmp_path) as stand:
        stand.put(applied(PATH, {"x": 1}))
        await until(lambda: stand.done)
        await asyncio.sleep(0.02)
    assert stand.server.taken == [("PATCH", {"fieldManager": "vllm-rightsizer-recommender"}, {"x": 1})]
    assert stand.done == [{"metadata": {"resourceVersion": "7"}}]
    assert stand.count("written") == 1


@pytest.mark.parametrize("code", [401, 403, 422, 429, 500, 503])
async def test_what_is_asked_meanwhile_holds(tmp_path: Path, code: int, caplog: pytest.LogCaptureFixture) -> None:
    """While the server refuses, nothing is lost, and only the newest is written in the end; said once."""
    async with standing(tmp_path, *[code] * 3) as stand:
        stand.put(applied(PATH, {"x": 1}))
        await until(lambda: stand.writer.trouble is not None)
        assert f"no {code}" in str(stand.writer.trouble)
        stand.put(applied(PATH, {"x": 2}))
        await until(lambda: stand.done)
        await until(lambda: stand.writer.trouble is None)
    assert [body for _, _, body in stand.server.taken] == [{"x": 2}]
    assert not stand.writer.waits(KEY)
    refusals = [one for one in caplog.records if "cannot be written" in one.message or "takes no writes" in one.message]
    assert len(refusals) == 1
    assert stand.count({429: "throttled", 403: "refused", 422: "refused"}.get(code, "failed")) == 3


async def test_what_waits_for_its_turn_is_written_as_it_is_then(tmp_path: Path) -> None:
    async with standing(tmp_path, pace=WritePace(per_second=1 / 60, burst=1)) as stand:
        stand.writer.put(Write(("Thing", "prod", "b"), (applied(PATH, {"x": 0}),)))
        stand.put(applied(PATH, {"x": 1}))
        await until(lambda: stand.count("written") == 1)
        await asyncio.sleep(0.02)
        stand.put(applied(PATH, {"x": 2}))
        later(60)
        await until(lambda: stand.done)
    assert [body["x"] for _, _, body in stand.server.taken] == [0, 2]


async def test_throttling_says_how_long(tmp_path: Path) -> None:
    async with standing(tmp_path, 429, retry_after="0.1") as stand:
        stand.put(applied(PATH, {}))
        await until(lambda: stand.done)
    assert stand.server.times[1] - stand.server.times[0] >= 0.1


async def test_fields_of_others_are_taken_over(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async with standing(tmp_path, 409) as stand:
        stand.put(applied(PATH, {}))
        await until(lambda: stand.done)
    assert stand.server.taken[0][1]["force"] == "true"
    assert stand.count("conflict") == 1
    assert "others wrote what is ours" in caplog.text


async def test_an_object_that_is_gone(tmp_path: Path) -> None:
    async with standing(tmp_path, 404) as stand:
        stand.put(applied(PATH, {}))
        await until(lambda: stand.done)
    assert stand.done == [None]
    assert stand.count("gone") == 1


async def test_a_namespace_that_is_being_deleted(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """It takes nothing new; that is nobody's missing right, and no trouble."""
    async with standing(tmp_path, 403) as stand:
        stand.server.cause = "NamespaceTerminating"
        stand.put(created(PATH, {}))
        await until(lambda: stand.done)
        assert stand.writer.trouble is None
    assert stand.done == [None]
    assert stand.count("gone") == 1
    assert "grant" not in caplog.text


async def test_what_is_there_or_gone_already_is_done(tmp_path: Path) -> None:
    async with standing(tmp_path, 409, 404) as stand:
        stand.put(created(PATH, {}))
        await until(lambda: stand.count("written") == 1)
        stand.put(deleted(PATH))
        await until(lambda: stand.count("written") == 2)


async def test_what_may_be_lost_is_not_tried_again(tmp_path: Path) -> None:
    async with standing(tmp_path, 403) as stand:
        stand.put(applied(PATH, {}), must_not_be_lost=False)
        await until(lambda: stand.count("refused") == 1)
        assert stand.writer.trouble is None
        assert not stand.writer.waits(KEY)


async def test_what_waits_at_the_end_is_written(tmp_path: Path) -> None:
    async with standing(tmp_path, pace=replace(HASTY, farewell=10)) as stand:
        for number in range(5):
            stand.writer.put(Write(("Thing", "prod", str(number)), (applied(PATH, {"x": number}),)))
    assert [body["x"] for _, _, body in stand.server.taken] == list(range(5))


def test_the_pace() -> None:
    """Ten at once, then one every 100 ms; a second without any makes room for ten more."""
    pacing = Pacing(per_second=10, burst=10)
    assert [pacing.wait(100.0) for _ in range(10)] == [0.0] * 10
    assert pacing.wait(100.0) == pytest.approx(0.1)
    assert pacing.wait(100.1) == pytest.approx(0.1)
    assert [pacing.wait(200.0) for _ in range(11)] == [*[0.0] * 10, pytest.approx(0.1)]


async def test_what_a_definition_does_not_have_holds_up_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with standing(tmp_path) as stand:
        stand.server.undeclared = frozenset({"gpus", "replicas"})
        stand.put(applied(PATH, {"status": {"gpus": 2, "kv": 1, "replicas": 2}}))
        await until(lambda: len(stand.done) == 1)
        stand.put(applied(PATH, {"status": {"gpus": 2, "kv": 2, "replicas": 2}}))
        await until(lambda: len(stand.done) == 2)
        assert stand.writer.trouble is None
        # Each field is refused once: then it is known.
        assert len(stand.server.times) == 2 + 2
    assert [body for *_, body in stand.server.taken] == [{"status": {"kv": 1}}, {"status": {"kv": 2}}]
    assert (stand.count("written"), stand.count("failed")) == (2, 0)
    assert caplog.text.count("`vllm-rightsizer crds --apply` brings it up to date") == 2
