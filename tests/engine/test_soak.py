"""The soak (`make soak`), for as long as a test may take: too short to say whether memory is flat, but all else."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench.soak import soak

pytestmark = pytest.mark.engine


def test_requests_of_many_kinds_break_no_hook(tmp_path: Path) -> None:
    figures = {figure.name: figure for figure in soak(tmp_path, 1500)}
    assert figures["soak_requests"].value == 1500
    assert figures["soak_preemptions"].ok
    assert figures["hook_errors"].value == 0
    assert figures["hooks_off"].value == 0
    assert 0 < figures["plugin_memory_peak"].value < figures["process_memory_peak"].value / 100
