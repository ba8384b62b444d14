"""What all tests share: property tests that give the same verdict on the same commit."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import settings

# A draw that fails once in fifty runs stops somebody else's change. `make fuzz` draws anew each time.
settings.register_profile("same-draws", derandomize=True, deadline=None)
settings.load_profile("same-draws")

# The release tests run in environments of their own: see `make matrix`.
collect_ignore = ["conformance"]

LAB = Path(__file__).parent / "lab"


# Before xdist, which takes down who belongs together.
@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Where groups of tests run beside each other: a file is one, and all of the lab, which share one cluster. It takes
    the longest, and comes first."""
    on_lab = [item for item in items if LAB in item.path.parents]
    others = [item for item in items if LAB not in item.path.parents]
    for item in items:
        item.add_marker(pytest.mark.xdist_group("lab" if LAB in item.path.parents else item.path.stem))
    items[:] = on_lab + others
