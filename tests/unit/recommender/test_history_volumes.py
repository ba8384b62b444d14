"""A volume that is full, or that the kernel has made read-only: said, waited for, and nothing of it lost.

On a real file system of eight megabytes, which only root can mount.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from test_history import stored
from test_observation import PERIOD, look

from recommender import service
from recommender.history import History
from recommender.history_files import VolumeError
from recommender.observation import Observer
from recommender.telemetry import Telemetry
from vllm_plugin.names import PREFIX

_ENDED = 40
"""Looks: an interval is two."""


class Volume:
    """A file system of its own at `path`."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def remount(self, how: str) -> None:
        subprocess.run(["mount", "-o", f"remount,{how}", self.path], check=True)

    def fill(self) -> None:
        """To the last byte."""
        with (self.path / "filler").open("wb", buffering=0) as filler, contextlib.suppress(OSError):
            while True:
                filler.write(bytes(4096))

    def empty(self) -> None:
        (self.path / "filler").unlink()


@pytest.fixture
def volume(tmp_path: Path) -> Iterator[Volume]:
    path = tmp_path / "volume"
    path.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", path]
    if os.geteuid() or not shutil.which("mount") or subprocess.run(mount, check=False, capture_output=True).returncode:
        pytest.skip("only root may mount a volume, and only where the kernel lets it")
    try:
        yield Volume(path)
    finally:
        subprocess.run(["umount", "--lazy", path], check=True)


def test_nothing_is_lost_while_a_volume_is_full(volume: Volume, caplog: pytest.LogCaptureFixture) -> None:
    path, telemetry = volume.path / "history.db", Telemetry()
    with History.open(path) as history:
        observer = Observer(history, telemetry)
        for step in range(4):
            look(observer, step * PERIOD)
        volume.fill()
        before = len(stored(path))
        for step in range(4, _ENDED):
            look(observer, step * PERIOD)
        assert "is the disk full, or the volume read-only" in str(observer.fault)
        assert telemetry.registry.get_sample_value(PREFIX + "recommender_history_failures_total") == _ENDED - 4
        assert caplog.text.count("what is observed waits in memory") == 1
        # What stands in the store can be read all the while.
        assert len(stored(path)) == before == 1
        volume.empty()
        look(observer, _ENDED * PERIOD)
        assert observer.fault is None
        found = stored(path)
        assert [interval.start for interval in found] == [60.0 * number for number in range(_ENDED // 2)]
        assert sum(interval.requests for interval in found) == 10 * PERIOD * (_ENDED - 1)
    assert not list(volume.path.glob("*unreadable*"))


def test_a_start_on_a_full_volume(volume: Volume) -> None:
    """What is there is read and kept; what comes waits."""
    path = filled(volume)
    before = stored(path)
    volume.fill()
    with History.open(path) as history:
        observer = Observer(history, Telemetry())
        for step in range(_ENDED, 2 * _ENDED):
            look(observer, step * PERIOD)
        assert observer.fault is not None
        assert stored(path) == before
        volume.empty()
        look(observer, 2 * _ENDED * PERIOD)
        assert observer.fault is None
    assert len(stored(path)) == 2 * len(before)
    assert not list(volume.path.glob("*unreadable*"))


def test_a_start_on_a_read_only_volume(volume: Volume) -> None:
    """An error that says so; the history is whole once the volume is."""
    path = filled(volume)
    before = stored(path)
    volume.remount("ro")
    with pytest.raises(VolumeError, match="Read-only file system"):
        History.open(path)
    volume.remount("rw")
    with History.open(path):
        assert stored(path) == before
    assert not list(volume.path.glob("*unreadable*"))


def filled(volume: Volume) -> Path:
    path = volume.path / "history.db"
    with History.open(path) as history:
        observer = Observer(history, Telemetry())
        for step in range(_ENDED):
            look(observer, step * PERIOD)
        assert observer.fault is None
        observer.flush(_ENDED * PERIOD)
    return path


async def test_a_recommender_waits_for_a_read_only_volume(volume: Volume) -> None:
    """Restarts by a supervisor would help nobody: it says what is wrong, and goes on by itself."""
    path = filled(volume)
    said: list[str] = []

    def waits(why: str) -> None:
        said.append(why)
        volume.remount("rw")

    volume.remount("ro")
    history = await service._opened(path, 0.0, waits)
    history.close()
    assert len(said) == 1
    assert "Read-only file system" in said[0]
