"""What is ahead of the API server holds until a watch is past it; by a real writer, over HTTP."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from test_object_writes import KEY, PATH, Stand, standing, until

from recommender.object_writes import applied
from recommender.written_objects import Ahead

MADE: dict[str, Any] = {"kind": "Thing", "metadata": {"name": "a", "namespace": "prod"}, "status": {"x": 1}}
WRITTEN = 7
"""The version that the server's answers say."""


async def written(stand: Stand, ahead: Ahead) -> None:
    ahead.write(MADE, (applied(PATH, MADE),), None)
    assert ahead.get(KEY) == MADE
    assert not ahead.is_there(KEY)
    await until(lambda: stand.count("written"))


def shown_at(version: int) -> dict[str, Any]:
    return {**MADE, "metadata": {**MADE["metadata"], "resourceVersion": str(version)}}


@pytest.mark.parametrize("comes_back", [True, False])
async def test_until_the_watch_is_past_it(tmp_path: Path, comes_back: bool) -> None:
    """Also where it never comes back: the write changed nothing, or the object was deleted at once."""
    version = [0]
    async with standing(tmp_path) as stand:
        ahead = Ahead(stand.writer, "test", lambda _: version[0])
        await written(stand, ahead)
        for version[0] in (0, WRITTEN - 1):
            assert ahead.get(KEY) is not None
            ahead.seen(None, shown_at(WRITTEN - 1))
            assert ahead.is_there(KEY)
        if comes_back:
            ahead.seen(None, shown_at(WRITTEN))
            assert not ahead.keys("Thing")
        version[0] = WRITTEN + 1
        assert ahead.get(KEY) is None
        assert not ahead.keys("Thing")


async def test_a_watch_that_is_quicker_than_the_answer(tmp_path: Path) -> None:
    async with standing(tmp_path) as stand:
        ahead = Ahead(stand.writer, "test", lambda _: WRITTEN)
        ahead.write(MADE, (applied(PATH, MADE),), None)
        ahead.seen(None, shown_at(WRITTEN))
        assert ahead.get(KEY) is not None
        await until(lambda: stand.count("written"))
        assert ahead.get(KEY) is None


async def test_what_is_deleted_is_not_held(tmp_path: Path) -> None:
    async with standing(tmp_path) as stand:
        ahead = Ahead(stand.writer, "test", lambda _: 0)
        await written(stand, ahead)
        ahead.seen(shown_at(WRITTEN), None)
        assert ahead.get(KEY) is None
