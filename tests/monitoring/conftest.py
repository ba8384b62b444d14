"""Pods and objects are those of the unit tests; programs of a first run are built with progress on the terminal."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from bench.lab.programs import folder_with

sys.path.append(str(Path(__file__).parents[1] / "unit" / "recommender"))


@pytest.fixture(scope="session", autouse=True)
def programs(request: pytest.FixtureRequest) -> Path:
    with request.config.pluginmanager.getplugin("capturemanager").global_and_fixture_disabled():
        return folder_with("prometheus", "promtool", "thanos")
