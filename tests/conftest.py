"""What all tests share: property tests that give the same verdict on the same commit."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import settings
from xdist.scheduler import LoadFileScheduling

# A draw that fails once in fifty runs stops somebody else's change. `make fuzz` draws anew each time.
settings.register_profile("same-draws", derandomize=True, deadline=None)
settings.register_profile("new-draws", deadline=None)
settings.load_profile("same-draws")

# The release tests run in environments of their own: see `make matrix`.
collect_ignore = ["conformance"]

TOGETHER = ("tests/lab/", "tests/release/")
"""Folders whose tests share what takes minutes to make: a cluster, two releases. They take the longest."""


def _first_of(nodeid: str) -> int:
    return next((place for place, folder in enumerate(TOGETHER) if nodeid.startswith(folder)), len(TOGETHER))


class FilesAndFolders(LoadFileScheduling):
    """What one process gets as a whole: such a folder, or else a file."""

    def _split_scope(self, nodeid: str) -> str:
        place = _first_of(nodeid)
        return TOGETHER[place] if place < len(TOGETHER) else super()._split_scope(nodeid)


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> FilesAndFolders:
    return FilesAndFolders(config, log)


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What takes the longest comes first."""
    items.sort(key=lambda item: _first_of(item.nodeid))
