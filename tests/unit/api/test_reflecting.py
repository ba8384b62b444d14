"""The reflector ends with what the server holds, whatever the server does on the way."""

from __future__ import annotations

import asyncio
import logging
import math
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from fake_apiserver import FakeApi, kubeconfig, served, thing
from hypothesis import given, settings
from hypothesis import strategies as st

from recommender.api.apiserver.connection import ApiServer
from recommender.api.apiserver.reflector import Pace, Reflector, Selection
from recommender.api.apiserver.resources import Resource

THINGS = Resource("example.org", "v1", "things", "Thing")
HASTY = Pace(page=3, first_delay=0.001, longest_delay=0.01, look_again=0.02, silence=60, short_watch=0.002)


@dataclass(frozen=True)
class Kept:
    name: str
    value: int


def keep(raw: dict[str, Any]) -> Kept | None:
    value = raw["value"]
    if value == "bad":
        raise ValueError("the value is bad")
    return Kept(raw["metadata"]["name"], value) if value >= 0 else None


@dataclass
class Following:
    """A reflector at work, and the mirror that somebody keeps who is told of its changes only."""

    api: FakeApi
    reflector: Reflector[Kept]
    mirror: dict[str, Kept]
    removed: list[Kept]

    def wanted(self) -> dict[str, int]:
        return {name: raw["value"] for name, raw in self.api.objects.items() if raw["value"] >= 0}

    def held(self) -> dict[str, int]:
        return {kept.name: kept.value for kept in self.reflector.objects.values()}

    async def agrees(self) -> None:
        await until(lambda: self.reflector.synced and self.held() == self.wanted())
        assert self.mirror == {kept.name: kept for kept in self.reflector.objects.values()}


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(60):
        while not condition():
            await asyncio.sleep(0.001)


@asynccontextmanager
async def following(api: FakeApi, pace: Pace = HASTY, **options: Any) -> AsyncIterator[Following]:
    mirror: dict[str, Kept] = {}
    removed: list[Kept] = []

    def changed(before: Kept | None, after: Kept | None) -> None:
        if before is not None:
            assert mirror.pop(before.name) == before
        if after is not None:
            assert after.name not in mirror
            mirror[after.name] = after
        elif before is not None:
            removed.append(before)

    with TemporaryDirectory() as folder:
        async with served(api):
            server = await ApiServer.connect(kubeconfig(Path(folder), api.url))
            reflector = Reflector(server, THINGS, keep, changed=changed, pace=pace, **options)
            task = asyncio.create_task(reflector.run())
            try:
                yield Following(api, reflector, mirror, removed)
                assert not task.done()
            finally:
                task.cancel()
                await server.close()


NAMES = st.sampled_from("abcd")
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("put"), NAMES, st.integers(-1, 3)),
        st.tuples(st.just("put"), NAMES, st.just(4)),
        st.tuples(st.just("delete"), NAMES),
        st.tuples(st.just("bookmark")),
        st.tuples(st.just("compact")),
        st.tuples(st.just("hang up"), st.booleans()),
        st.tuples(st.just("refuse"), st.sampled_from([401, 403, 404, 410, 429, 500, 503, 504]), st.integers(1, 3)),
        st.tuples(st.just("wait"), st.integers(1, 4)),
    ),
    min_size=10,
    max_size=30,
)


@settings(max_examples=12)
@given(STEPS)
def test_nothing_is_missed(steps: list[tuple[Any, ...]]) -> None:
    async def play() -> None:
        async with following(FakeApi()) as at_work:
            for step in steps:
                await play_step(at_work.api, step)
            await at_work.agrees()

    asyncio.run(play())


async def play_step(api: FakeApi, step: tuple[Any, ...]) -> None:
    match step:
        case ("put", name, value):
            api.put(thing(name, value))
        case ("delete", name):
            api.delete(name)
        case ("bookmark",):
            api.bookmark()
        case ("compact",):
            api.compact()
        case ("hang up", within_an_event):
            api.hang_up(within_an_event=within_an_event)
        case ("refuse", code, times):
            api.refusals += [(code, "Because")] * times
            api.hang_up()
        case ("wait", milliseconds):
            await asyncio.sleep(milliseconds / 1000)


def lists_of(api: FakeApi) -> int:
    return sum("watch" not in request.query and "continue" not in request.query for request in api.requests)


async def test_pages_then_a_watch_from_their_version() -> None:
    api = FakeApi()
    for number in range(8):
        api.put(thing(f"t{number}", number))
    async with following(api) as at_work:
        await at_work.agrees()
        await until(lambda: bool(api.watchers))
    pages = [dict(request.query) for request in api.requests if "watch" not in request.query]
    assert [page["limit"] for page in pages] == ["3", "3", "3"]
    assert all("resourceVersion" not in page for page in pages)
    assert api.requests[0].headers["Authorization"] == "Bearer secret"
    watch = api.requests[3].query
    assert (watch["resourceVersion"], watch["allowWatchBookmarks"]) == (str(api.version), "true")
    assert int(watch["timeoutSeconds"]) >= 1


async def test_after_a_break_the_watch_goes_on_without_a_list() -> None:
    api = FakeApi()
    async with following(api) as at_work:
        await at_work.agrees()
        for number in range(5):
            await until(lambda: bool(api.watchers))
            api.put(thing("a", number))
            api.bookmark()
            api.hang_up(within_an_event=True)
            api.put(thing("b", number))
            await at_work.agrees()
        assert lists_of(api) == 1
        since = [int(request.query["resourceVersion"]) for request in api.requests[1:]]
        assert since == sorted(since)
        assert since[-1] >= since[0] + 4, "a watch begins where the one before it ended"


@pytest.mark.parametrize("on_the_watch", [True, False])
async def test_an_expired_version_is_listed_again(on_the_watch: bool) -> None:
    api = FakeApi()
    api.put(thing("gone", 1))
    async with following(api) as at_work:
        await at_work.agrees()
        await until(lambda: bool(api.watchers))
        api.delete("gone")
        api.put(thing("new", 2))
        api.compact()
        if not on_the_watch:
            api.refusals.append((410, "Expired"))
        api.hang_up()
        await at_work.agrees()
        assert lists_of(api) == 2


async def test_a_list_that_expires_between_its_pages_is_read_in_one_piece() -> None:
    api = FakeApi()
    for number in range(8):
        api.put(thing(f"t{number}", number))
    async with served(api):
        with TemporaryDirectory() as folder:
            server = await ApiServer.connect(kubeconfig(Path(folder), api.url))
            request = server.request

            async def with_a_compaction(*words: Any, **options: Any) -> Any:
                answer = await request(*words, **options)
                if "continue" not in options["query"]:
                    api.put(thing("late", 1))
                    api.compact()
                return answer

            server.request = with_a_compaction  # type: ignore[method-assign]  # a server that compacts at that moment
            reflector = Reflector(server, THINGS, keep, pace=HASTY)
            task = asyncio.create_task(reflector.run())
            await until(lambda: reflector.synced)
            task.cancel()
            await server.close()
    assert len(reflector.objects) == 9
    assert ["limit" in request.query for request in api.requests[:3]] == [True, True, False]


async def test_a_silent_watch_is_given_up_and_listed_anew() -> None:
    api = FakeApi()
    api.put(thing("a", 1))
    async with following(api, Pace(first_delay=0.001, silence=0.05, short_watch=0)) as at_work:
        await at_work.agrees()
        await until(lambda: lists_of(api) >= 3)
        api.put(thing("a", 2))
        await at_work.agrees()


async def test_a_server_that_is_not_there(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.socket() as nobody, caplog.at_level(logging.INFO):
        nobody.bind(("127.0.0.1", 0))
        server = await ApiServer.connect(kubeconfig(tmp_path, f"http://127.0.0.1:{nobody.getsockname()[1]}"))
        tried, request = 0, server.request

        async def counted(*words: Any, **options: Any) -> Any:
            nonlocal tried
            tried += 1
            return await request(*words, **options)

        monkeypatch.setattr(server, "request", counted)
        reflector = Reflector(server, THINGS, keep, pace=HASTY)
        task = asyncio.create_task(reflector.run())
        await until(lambda: reflector.trouble is not None and tried >= 5)
        task.cancel()
        await server.close()
    assert not reflector.synced
    assert reflector.age_seconds == float("inf")
    # Said once, however often it was tried.
    assert caplog.text.count("things.example.org cannot be followed") == 1


@pytest.mark.parametrize("refused", [True, False])
async def test_a_server_that_refuses_is_asked_slowly(refused: bool) -> None:
    """No hot loop: what is refused at once, and what is hung up at once, waits twice as long each time."""
    api = FakeApi()
    first = 0.02
    async with following(api, Pace(first_delay=first, longest_delay=10)) as at_work:
        await at_work.agrees()
        api.refusals += [(500, "InternalError")] * (1000 if refused else 0)
        for _ in range(150):
            api.hang_up()
            await asyncio.sleep(0.001)
    spent = api.times[-1] - api.times[0]
    # The list, the first watch, and those for which there was time: first × (1 + 2 + 4 + …).
    assert len(api.requests) <= 3 + math.log2(spent / first + 1)


async def test_throttling_says_how_long() -> None:
    api = FakeApi(refusals=[(429, "TooManyRequests")], retry_after="0.3")
    async with following(api) as at_work:
        await at_work.agrees()
        assert at_work.reflector.trouble is None
    assert api.times[1] - api.times[0] >= 0.3


@pytest.mark.parametrize("may_be_absent", [True, False])
async def test_a_kind_that_the_cluster_does_not_have(may_be_absent: bool, caplog: pytest.LogCaptureFixture) -> None:
    api = FakeApi(refusals=[(404, "NotFound")] * 3)
    async with following(api, may_be_absent=may_be_absent) as at_work:
        await until(lambda: len(api.requests) == 2)
        assert at_work.reflector.synced is may_be_absent
        assert ("install its CustomResourceDefinition" in caplog.text) is not may_be_absent
        api.put(thing("a", 1))
        await at_work.agrees()
        # And one that it has no longer.
        api.refusals += [(410, "Expired"), (404, "NotFound"), (404, "NotFound")]
        api.hang_up()
        await until(lambda: not at_work.reflector.objects)
        assert at_work.mirror == {}
        assert at_work.reflector.synced is may_be_absent
        await at_work.agrees()


async def test_what_is_not_allowed_is_named(caplog: pytest.LogCaptureFixture) -> None:
    api = FakeApi(refusals=[(403, "Forbidden")] * 2)
    async with following(api) as at_work:
        await until(lambda: len(api.requests) == 2)
        assert not at_work.reflector.synced
        assert "grant the verbs list and watch on things.example.org" in str(at_work.reflector.trouble)
        await at_work.agrees()
        assert at_work.reflector.trouble is None
    assert caplog.text.count("grant the verbs") == 1


async def test_what_one_can_do_without(caplog: pytest.LogCaptureFixture) -> None:
    """Nobody waits for it, it is said once, and it is followed once it may be; what was known before holds on."""
    api = FakeApi(refusals=[(403, "Forbidden")] * 5)
    api.put(thing("a", 1))
    with caplog.at_level(logging.INFO):
        async with following(api, may_be_refused=True) as one:
            await until(lambda: one.reflector.lack is not None)
            assert (one.reflector.synced, one.reflector.trouble, one.held()) == (True, None, {})
            assert "grant the verbs list and watch on things.example.org" in str(one.reflector.lack)
            assert one.reflector.age_seconds < math.inf
            await until(lambda: one.reflector.lack is None)
            await one.agrees()
            api.refusals += [(403, "Forbidden")] * 5
            api.hang_up()
            await until(lambda: one.reflector.lack is not None)
            assert one.held() == {"a": 1}
            await until(lambda: one.reflector.lack is None)
    assert caplog.text.count("what needs them does without") == 2


async def test_trouble_ends_with_the_next_watch() -> None:
    """Not only with its first event, which may be a minute away."""
    api = FakeApi()
    async with following(api) as at_work:
        await at_work.agrees()
        api.refusals += [(503, "ServiceUnavailable")] * 3
        api.hang_up()
        await until(lambda: at_work.reflector.trouble is not None)
        await until(lambda: at_work.reflector.trouble is None)


async def test_a_bad_object_keeps_what_it_said(caplog: pytest.LogCaptureFixture) -> None:
    api = FakeApi()
    bad: Any = "bad"
    api.put(thing("a", 1))
    api.put(thing("never", bad))
    async with following(api) as at_work:
        await until(lambda: at_work.held() == {"a": 1})
        api.put(thing("a", bad))
        api.put(thing("b", 2))
        await until(lambda: at_work.held() == {"a": 1, "b": 2})
        api.refusals.append((410, "Expired"))
        api.hang_up()
        await until(lambda: lists_of(api) == 2)
        assert at_work.held() == {"a": 1, "b": 2}
        api.delete("a")
        await until(lambda: at_work.held() == {"b": 2})
    said = [record.getMessage() for record in caplog.records if "cannot be understood" in record.getMessage()]
    assert [("prod/a" in line, "holds on" in line) for line in said] == [(False, False), (True, True)]


async def test_an_answer_that_is_no_list_changes_nothing() -> None:
    api = FakeApi()
    api.put(thing("a", 1))
    async with following(api) as at_work:
        await at_work.agrees()
        api.compact()
        api.refusals += [(410, "Expired"), (200, "a single object")]
        api.hang_up()
        await until(lambda: not api.refusals and lists_of(api) == 3 and bool(api.watchers))
        assert at_work.held() == {"a": 1}
        assert at_work.removed == []


async def test_a_selection_and_metadata_alone() -> None:
    api = FakeApi()
    selection = Selection(name="a", labels="x=y")
    async with following(api, selection=selection, metadata_only=True) as at_work:
        await until(lambda: bool(api.watchers) and at_work.reflector.synced)
    for request, kind in zip(api.requests[:2], ("PartialObjectMetadataList", "PartialObjectMetadata"), strict=True):
        assert request.query["fieldSelector"] == "metadata.name=a"
        assert request.query["labelSelector"] == "x=y"
        assert request.headers["Accept"] == f"application/json;as={kind};g=meta.k8s.io;v=v1"


def test_paths() -> None:
    assert THINGS.path() == "/apis/example.org/v1/things"
    assert THINGS.path("prod", "a") == "/apis/example.org/v1/namespaces/prod/things/a"
    assert Resource("", "v1", "secrets", "Secret").path("prod") == "/api/v1/namespaces/prod/secrets"
    assert str(THINGS) == "things.example.org"
