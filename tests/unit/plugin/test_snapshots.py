"""Snapshots: private, of living processes only, and one number a server for as long as it lives."""

from __future__ import annotations

import os
import signal
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from vllm_plugin import names
from vllm_plugin.snapshots import SnapshotFolder, default_folder, port_of

from .pages import engine, snapshot, worker

ROOT = Path(__file__).parents[3]


def of_servers(*servers: str) -> dict[str, Any]:
    return snapshot(os.getpid(), workers=[worker(server=server) for server in servers])


@pytest.fixture
def folders(tmp_path: Path) -> Iterator[Callable[[], SnapshotFolder]]:
    """Folders of processes that all have this process's number, as in two containers."""
    made: list[SnapshotFolder] = []

    def make() -> SnapshotFolder:
        made.append(SnapshotFolder(tmp_path / "snapshots"))
        return made[-1]

    yield make
    for folder in made:
        folder.close()


WRITER = """
import os, sys, time
from pathlib import Path
from vllm_plugin.snapshots import SnapshotFolder

folder = SnapshotFolder(Path(sys.argv[1]))
folder.write({"pid": os.getpid(), "engines": [], "workers": []})
# A forked child says so itself: by then it has left its parent's lock.
if sys.argv[2] == "plain" or os.fork() == 0:
    print(os.getpid(), flush=True)
time.sleep(600)
"""


def writer(path: Path, how: str) -> tuple[subprocess.Popen[str], int]:
    """A process that has written, and the number of its forked child, or its own."""
    process = subprocess.Popen(
        [sys.executable, "-c", WRITER, str(path), how],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert process.stdout is not None
    return process, int(process.stdout.readline())


@pytest.mark.parametrize("how", ["plain", "forks"])
def test_only_living_processes_count(folders: Callable[[], SnapshotFolder], how: str) -> None:
    """Not even a forked child keeps a killed process on the page."""
    folder = folders()
    process, child = writer(folder.path, how)
    try:
        assert [other["pid"] for other in folder.others()] == [process.pid]
        process.send_signal(signal.SIGKILL)
        process.wait(60)
        if how == "forks":
            os.kill(child, 0)
        assert folder.others() == []
        assert not list(folder.path.glob(f"{process.pid}-*"))
    finally:
        process.kill()
        process.wait(60)
        if how == "forks":
            os.kill(child, signal.SIGKILL)
        assert process.stdout is not None
        process.stdout.close()


def test_the_same_process_number_in_two_containers(folders: Callable[[], SnapshotFolder]) -> None:
    first, second = folders(), folders()
    first.write(snapshot(7, engines=[engine(server="a")]))
    second.write(snapshot(7, engines=[engine(server="b")]))
    assert [other["engines"][0]["server"] for other in first.others()] == ["b"]
    assert [other["engines"][0]["server"] for other in second.others()] == ["a"]
    second.close()
    assert first.others() == []


def test_one_that_has_locked_and_not_yet_written_stays(folders: Callable[[], SnapshotFolder]) -> None:
    first, second = folders(), folders()
    second.write(of_servers("b"))
    for file in first.path.glob("*.json"):
        file.unlink()
    assert first.others() == []
    second.write(of_servers("b"))
    assert len(first.others()) == 1


@pytest.mark.parametrize("text", ["{ torn", "[]", '{"format": 1}'])
def test_what_is_no_snapshot_of_this_release_is_passed_over(folders: Callable[[], SnapshotFolder], text: str) -> None:
    first, second = folders(), folders()
    second.write(of_servers("b"))
    (file,) = first.path.glob("*.json")
    file.write_text(text)
    assert first.others() == []


def test_a_failed_write_leaves_no_old_figures(folders: Callable[[], SnapshotFolder]) -> None:
    first, second = folders(), folders()
    second.write(of_servers("b"))
    (living,) = first.path.glob("*.living")
    living.with_suffix(".tmp").mkdir()
    with pytest.raises(OSError, match="directory"):
        second.write(of_servers("b"))
    assert first.others() == []
    living.with_suffix(".tmp").rmdir()
    second.write(of_servers("b"))
    assert len(first.others()) == 1


def test_what_a_cleaner_removes_comes_back(folders: Callable[[], SnapshotFolder]) -> None:
    first, second = folders(), folders()
    second.write(of_servers("b"))
    for file in first.path.iterdir():
        file.unlink()
    second.write(of_servers("b"))
    assert len(first.others()) == 1


# --- Numbers of servers -------------------------------------------------------------------------------------------


def numbers(folder: SnapshotFolder) -> dict[str, int]:
    servers: dict[str, int] = folder.complete(of_servers())["servers"]
    return servers


def test_a_server_keeps_its_number_when_another_ends(folders: Callable[[], SnapshotFolder]) -> None:
    first, second, same, third = folders(), folders(), folders(), folders()
    first.write(of_servers("a"))
    second.write(of_servers("b"))
    same.write(of_servers("b"))
    assert [numbers(folder) for folder in (first, second, same)] == [{"a": 0}, {"b": 1}, {"b": 1}]
    first.close()
    second.write(of_servers("b"))
    third.write(of_servers("c"))
    assert (numbers(second), numbers(third)) == ({"b": 1}, {"c": 0})


def test_several_servers_of_one_process(folders: Callable[[], SnapshotFolder]) -> None:
    folder = folders()
    folder.write(of_servers("a"))
    folder.write(of_servers("a", "b"))
    assert numbers(folder) == {"a": 0, "b": 1}
    folder.write(of_servers("b"))
    assert numbers(folder) == {"b": 1}
    folder.write(of_servers("b", "c"))
    assert numbers(folder) == {"b": 1, "c": 0}


def test_a_process_that_does_not_know_its_server_belongs_to_the_first(folders: Callable[[], SnapshotFolder]) -> None:
    """An actor of Ray may have another environment than the engine's process."""
    actor, driver = folders(), folders()
    actor.write(of_servers(""))
    driver.write(of_servers("a"))
    assert (numbers(actor), numbers(driver)) == ({"": 0}, {"a": 0})


def test_servers_that_start_together_get_different_numbers(folders: Callable[[], SnapshotFolder]) -> None:
    script = """
import sys, time
from pathlib import Path
from vllm_plugin.snapshots import SnapshotFolder

class Slow(SnapshotFolder):
    def others(self):
        found = super().others()
        time.sleep(0.1)
        return found

folder = Slow(Path(sys.argv[1]))
print("ready", flush=True)
sys.stdin.readline()
report = {"server": sys.argv[2], "engine": 0}
folder.write({"pid": 1, "engines": [report], "workers": []})
print(folder.complete({"engines": [], "workers": []})["servers"][sys.argv[2]], flush=True)
time.sleep(600)
"""
    path = folders().path
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", script, str(path), str(number)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
        )
        for number in range(4)
    ]
    said = [process.stdout for process in processes if process.stdout is not None]
    try:
        assert [one.readline() for one in said] == ["ready\n"] * 4
        for process in processes:
            assert process.stdin is not None
            process.stdin.write("go\n")
            process.stdin.flush()
        assert sorted(int(one.readline()) for one in said) == [0, 1, 2, 3]
    finally:
        for process in processes:
            process.kill()
            process.communicate(timeout=60)


# --- Where --------------------------------------------------------------------------------------------------------


def test_the_folder_is_private_and_somebody_elses_is_refused(tmp_path: Path) -> None:
    folder = SnapshotFolder(tmp_path / "snapshots")
    assert stat.S_IMODE(folder.path.stat().st_mode) == 0o700
    shared = tmp_path / "tmp"
    shared.mkdir()
    shared.chmod(0o1777)
    (shared / "open").mkdir()
    (shared / "open").chmod(0o777)
    with pytest.raises(PermissionError):
        SnapshotFolder(shared / "open")
    (shared / "link").symlink_to(tmp_path)
    with pytest.raises(PermissionError):
        SnapshotFolder(shared / "link")


def test_the_default_folder_differs_by_port() -> None:
    assert default_folder({}, 9415) != default_folder({}, 9416)


def test_pods_that_share_a_volume_do_not_share_a_folder() -> None:
    given = {names.ENV_DIR: "/run/x"}
    assert default_folder(given, 9415) == Path("/run/x") / os.uname().nodename
    assert default_folder({**given, names.ENV_POD_UID: "1-2"}, 9415) == Path("/run/x/1-2")


@pytest.mark.parametrize(("text", "port"), [(None, 9415), ("", 9415), ("9500", 9500), ("0", 9415), ("http", 9415)])
def test_ports(text: str | None, port: int) -> None:
    assert port_of(text) == port
