"""The newest and the oldest vLLM that work: the release tests in the project's own environment, and in one of 0.7."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from bench import matrix
from bench.release_environments import OLDEST, own

pytestmark = pytest.mark.e2e


def test_the_newest_release(tmp_path: Path) -> None:
    """All of it, a model in a real engine too."""
    result = matrix.tested(own(tmp_path), time.strftime("%Y-%m-%d"), install_seconds=0.0)
    assert result.ok, said(result)
    assert "model" in result.hooks


def test_the_oldest_release() -> None:
    """An environment of its own, removed after: both engines of those days."""
    result = matrix.tried(OLDEST)
    if not result.to_be_had:
        pytest.skip(f"NOT TESTED: the plugin on vLLM {OLDEST}, the oldest that works. {result.error}")
    assert result.ok, said(result)
    assert set(result.hooks) == {"V1", "V0"}


def said(result: matrix.Result) -> str:
    return f"vLLM {result.release}: {result.passed} passed, failed: {result.failed}. {result.error}"
