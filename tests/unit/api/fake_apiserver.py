"""A collection served over real HTTP, whose server can be told to misbehave in every way that API servers do."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from aiohttp import web

Raw = dict[str, Any]


def thing(name: str, value: int, namespace: str = "prod") -> Raw:
    return {"metadata": {"namespace": namespace, "name": name}, "value": value}


def _status(code: int, reason: str, message: str = "as the test wants it") -> Raw:
    metadata = {"resourceVersion": "1"} if code == 200 else {}
    return {"kind": "Status", "metadata": metadata, "code": code, "reason": reason, "message": message}


@dataclass
class FakeApi:
    """Objects with a history: `changes` are the events since `oldest`, each with the version that it made."""

    version: int = 1
    oldest: int = 1
    objects: dict[str, Raw] = field(default_factory=dict)
    changes: list[tuple[int, Raw]] = field(default_factory=list)
    states: dict[int, dict[str, Raw]] = field(default_factory=lambda: {1: {}})
    """All objects at each version since `oldest`."""
    refusals: list[tuple[int, str]] = field(default_factory=list)
    """Answers to the next requests, status and reason; then all is well again."""
    requests: list[web.Request] = field(default_factory=list)
    times: list[float] = field(default_factory=list)
    watchers: set[asyncio.Task[None]] = field(default_factory=set)
    retry_after: str | None = None
    half_an_event: bool = False
    url: str = ""

    def put(self, raw: Raw) -> None:
        self._changed("MODIFIED" if raw["metadata"]["name"] in self.objects else "ADDED", raw)

    def delete(self, name: str) -> None:
        if name in self.objects:
            self._changed("DELETED", self.objects[name])

    def bookmark(self) -> None:
        """Say how far the server is; the version may have moved by other collections' changes."""
        self.version += 1
        self.states[self.version] = dict(self.objects)
        self.changes.append((self.version, {"type": "BOOKMARK", "object": self._stamped({"metadata": {}})}))

    def compact(self) -> None:
        """Forget the history: who comes with an older version is refused."""
        self.oldest = self.version
        self.changes.clear()
        self.states = {self.version: dict(self.objects)}

    def hang_up(self, *, within_an_event: bool = False) -> None:
        """Break the open watches, in the middle of a line if wanted."""
        self.half_an_event = within_an_event
        for task in self.watchers:
            task.cancel()

    def _stamped(self, raw: Raw) -> Raw:
        return {**raw, "metadata": {**raw["metadata"], "resourceVersion": str(self.version)}}

    def _changed(self, kind: str, raw: Raw) -> None:
        self.version += 1
        stamped = self._stamped(raw)
        if kind == "DELETED":
            del self.objects[raw["metadata"]["name"]]
        else:
            self.objects[raw["metadata"]["name"]] = stamped
        self.states[self.version] = dict(self.objects)
        self.changes.append((self.version, {"type": kind, "object": stamped}))

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        self.requests.append(request)
        self.times.append(time.monotonic())
        if self.refusals:
            code, reason = self.refusals.pop(0)
            headers = {"Retry-After": self.retry_after} if self.retry_after else {}
            return web.json_response(_status(code, reason), status=code, headers=headers)
        if "watch" not in request.query:
            return self._list(request)
        since = int(request.query["resourceVersion"])
        response = web.StreamResponse()
        await response.prepare(request)
        if since < self.oldest:
            # Some servers refuse at once, some on the open watch; this one does the latter, `refusals` the former.
            await response.write(_line({"type": "ERROR", "object": _status(410, "Expired")}))
            return response
        task = asyncio.current_task()
        assert task is not None
        self.watchers.add(task)
        try:
            await self._follow(response, since)
        except asyncio.CancelledError:
            if self.half_an_event:
                with contextlib.suppress(ConnectionError):
                    await response.write(_line({"type": "ADDED", "object": thing("half", 1)})[:20])
            if request.transport is not None:
                request.transport.close()
        finally:
            self.watchers.discard(task)
        return response

    async def _follow(self, response: web.StreamResponse, since: int) -> None:
        while True:
            # Of a history that was compacted meanwhile nothing is left to send: as if the watch had ended.
            if since < self.oldest:
                return
            for version, event in [change for change in self.changes if change[0] > since]:
                await response.write(_line(event))
                since = version
            await asyncio.sleep(0.001)

    def _list(self, request: web.Request) -> web.Response:
        first, _, version = request.query.get("continue", "").partition("@")
        if version and int(version) < self.oldest:
            return web.json_response(_status(410, "Expired"), status=410)
        # All pages are of one version.
        at = int(version) if version else self.version
        items = [raw for name, raw in sorted(self.states[at].items()) if name > first]
        limit = int(request.query.get("limit", "0")) or len(items)
        page, rest = items[:limit], items[limit:]
        metadata = {"resourceVersion": str(at)}
        if rest:
            metadata["continue"] = f"{page[-1]['metadata']['name']}@{at}"
        return web.json_response({"kind": "ThingList", "metadata": metadata, "items": page})


def _line(event: Raw) -> bytes:
    return json.dumps(event).encode() + b"\n"


KUBECONFIG = """
apiVersion: v1
kind: Config
clusters: [{{name: c, cluster: {{server: "{url}"}}}}]
users: [{{name: u, user: {{token: "{token}"}}}}]
contexts: [{{name: x, context: {{cluster: c, user: u}}}}]
current-context: x
"""


@contextlib.asynccontextmanager
async def served(api: FakeApi) -> AsyncIterator[FakeApi]:
    application = web.Application()
    application.router.add_get("/apis/example.org/v1/things", api._answer)
    runner = web.AppRunner(application, handler_cancellation=True, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    host, port = runner.addresses[0][:2]
    api.url = f"http://{host}:{port}"
    try:
        yield api
    finally:
        await runner.cleanup()


def kubeconfig(folder: Path, url: str, token: str = "secret") -> Path:
    file = folder / "kubeconfig"
    file.write_text(KUBECONFIG.format(url=url, token=token))
    return file
