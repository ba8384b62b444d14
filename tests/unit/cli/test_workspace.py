"""The demo's folder: emptied for each run, and nobody else's ever."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from vllm_rightsizer.demo.model import FILES
from vllm_rightsizer.demo.run import workspace
from vllm_rightsizer.errors import UsageError, UserError


def test_what_an_earlier_run_left_goes(tmp_path: Path) -> None:
    with workspace(tmp_path / "demo") as folder:
        (folder / "objects").mkdir()
        (folder / "objects" / "stale.json").write_text("{}")
        (folder / "link").symlink_to(tmp_path)
    with workspace(tmp_path / "demo") as folder:
        assert [entry.name for entry in folder.iterdir()] == [".vllm-rightsizer-demo"]
    assert tmp_path.is_dir()


def test_what_is_not_the_demos_is_not_touched(tmp_path: Path) -> None:
    theirs = tmp_path / "demo" / "thesis.txt"
    theirs.parent.mkdir()
    theirs.write_text("years of work")
    with pytest.raises(UsageError, match="not the demo's"), workspace(tmp_path / "demo"):
        pass
    assert theirs.read_text() == "years of work"


def test_a_link_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "demo").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(UsageError), workspace(tmp_path / "demo"):
        pass


def test_one_demo_at_a_time(tmp_path: Path) -> None:
    with workspace(tmp_path / "demo"), pytest.raises(UserError, match="another demo"), workspace(tmp_path / "demo"):
        pass


def test_a_broken_model_is_made_anew(tmp_path: Path) -> None:
    model = tmp_path / "model"
    model.mkdir()
    (model / FILES[0]).write_text("{}")
    command = [sys.executable, "-m", "vllm_rightsizer.demo.model", str(model)]
    subprocess.run(command, check=True)
    assert {path.name for path in model.iterdir()} >= set(FILES)
    written = (model / FILES[1]).stat().st_mtime_ns
    subprocess.run(command, check=True)
    assert (model / FILES[1]).stat().st_mtime_ns == written
