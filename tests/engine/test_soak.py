"""The soak (`make soak`), for as long as a test may take: too short to say whether memory is flat, but all else."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

pytestmark = pytest.mark.engine


def test_requests_of_many_kinds_break_no_hook() -> None:
    """In a process of its own: hooks and their errors are of the process."""
    command = [sys.executable, "-m", "bench.soak", "--json", "--requests", "1500"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    figures = {figure["name"]: figure for figure in map(json.loads, done.stdout.splitlines())}
    assert figures, done.stderr
    assert figures["soak_requests"]["value"] == 1500
    assert figures["soak_preemptions"]["ok"]
    assert figures["hook_errors"]["value"] == 0
    assert figures["hooks_off"]["value"] == 0
    assert 0 < figures["plugin_memory_peak"]["value"] < figures["process_memory_peak"]["value"] / 100
