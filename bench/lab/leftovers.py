"""What a node leaves behind in the kernel and in folders that its programs share with others, and how it goes again."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

_SYSCTLS = (
    "vm/overcommit_memory",
    "kernel/panic",
    "kernel/panic_on_oops",
    "net/ipv4/ip_forward",
    "net/ipv4/conf/all/route_localnet",
)
"""That kubelet and kube-proxy set."""
_ELSEWHERE = ("/run/containerd", "/run/netns", "/var/lib/cni", "/var/lib/kubelet", "/var/log/containers")
"""Where the programs write whatever their settings say."""
_BEFORE = "before.json"
_CONTROL_GROUPS = Path("/sys/fs/cgroup")
_PODS = "kubepods"
"""The control group of all pods, in each hierarchy."""
_END_SECONDS = 60.0
"""What was killed is gone when the kernel has taken back its memory, and its namespaces a while after that."""
_SHIM = "containerd-shim"
_CHAINS = ("KUBE-", "CNI-")
_TABLES = [(command, table) for command in ("iptables", "ip6tables") for table in ("nat", "filter", "mangle")]
_OF_BUILDERS = Path("/var/lib/containers")
"""Mounts there come and go with images that are built."""


@dataclass(frozen=True)
class Leftovers:
    """How the machine was before a node was started, whose own folders are `folders`.

    It is written down in the first of them, so that another process can take away what one that was killed has left."""

    folders: tuple[Path, ...]
    sysctls: Mapping[str, str]
    found: frozenset[Path]
    """What lay elsewhere, and which control groups of pods there were."""

    @classmethod
    def looked(cls, *folders: Path) -> Leftovers:
        """As it is now."""
        sysctls = {name: Path("/proc/sys", name).read_text() for name in _SYSCTLS}
        made = cls(folders, sysctls, frozenset((*_entries(*map(Path, _ELSEWHERE)), *_groups_of_pods())))
        folders[0].mkdir(parents=True, exist_ok=True)
        known = {"folders": folders, "sysctls": sysctls, "found": sorted(made.found)}
        # At once: half of it would keep everybody from taking anything away.
        part = folders[0] / f"{_BEFORE}.part"
        part.write_text(json.dumps(known, default=str))
        part.replace(folders[0] / _BEFORE)
        return made

    @classmethod
    def abandoned(cls, state: Path) -> Leftovers | None:
        """Those of a node whose process has ended without taking them away; None where there is none. `state` is the
        first of its folders."""
        try:
            known = json.loads((state / _BEFORE).read_text())
        except FileNotFoundError:
            return None
        return cls(tuple(map(Path, known["folders"])), known["sysctls"], frozenset(map(Path, known["found"])))

    def remove(self, bridge: str) -> None:
        """Take away what was not there before: once all programs have ended."""
        _end_shims(self.folders[0])
        _remove_cgroups(self.found)
        _remove_network(bridge)
        made = [entry for entry in _entries(*map(Path, _ELSEWHERE)) if entry not in self.found]
        _unmount_below(*self.folders, *made)
        for name, value in self.sysctls.items():
            with contextlib.suppress(OSError):
                Path("/proc/sys", name).write_text(value)
        for leftover in (*made, *self.folders):
            if leftover.is_dir() and not leftover.is_symlink():
                shutil.rmtree(leftover, ignore_errors=True)
            else:
                leftover.unlink(missing_ok=True)


def traces(folder: Path) -> set[str]:
    """What can be seen of nodes on this machine, a line each: rules, links, mounts, control groups, sysctls, files, and
    programs that speak of `folder`. What is there after a node and was not before, it has left behind."""
    found = {f"{name} = {Path('/proc/sys', name).read_text().strip()}" for name in _SYSCTLS}
    for command, table in _TABLES:
        found |= {f"{command} -t {table} {rule}" for rule in rules(command, table)}
    # By their names and addresses: numbers and states change by themselves. What a network has lent, it may change.
    addresses = (line.split() for line in _said_by("ip", "-o", "address"))
    found |= {" ".join(words[1:4]) for words in addresses if "dynamic" not in words}
    found |= {f"link {line.split()[1]}" for line in _said_by("ip", "-o", "link")}
    found |= {f"mount {place}" for place in _mounted() if not place.is_relative_to(_OF_BUILDERS)}
    found |= {f"control group {group}" for group in _groups_of_pods()}
    found |= {f"file {entry}" for entry in _entries(*map(Path, _ELSEWHERE))}
    for pid, command in _processes():
        if str(folder) in command or _SHIM in command:
            found.add(f"process {pid}: {command}")
    return found


def left(folder: Path, before: set[str]) -> set[str]:
    """The traces that are there and were not `before`, and that stay: others come and go, and what has ended may take
    the kernel a while."""
    deadline = time.monotonic() + _END_SECONDS
    while (found := traces(folder) - before) and time.monotonic() < deadline:
        time.sleep(0.2)
    return found


def pods_of_others(state: Path) -> bool:
    """Whether pods run here that no node has started whose first folder is `state`: a kubelet ends those that it does
    not know."""
    if (state / _BEFORE).exists():
        return False
    return any(_processes_in(group) for group in _groups_of_pods())


def quietly(*command: str) -> None:
    """Run a command that may have nothing to do."""
    subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def _said_by(*command: str) -> list[str]:
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    return done.stdout.splitlines()


def _processes() -> Iterator[tuple[int, str]]:
    """All but this one, with their command lines."""
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            command = (process / "cmdline").read_text(errors="replace").replace("\0", " ").strip()
            if process.name != str(os.getpid()):
                yield int(process.name), command


def _end_shims(state: Path) -> None:
    """What stands between containerd and a container outlives both."""
    for pid, command in _processes():
        if _SHIM in command and str(state) in command:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


def _entries(*folders: Path) -> list[Path]:
    """The folders that are there, and all that lies in them. What goes meanwhile is left out."""
    found: list[Path] = []
    for folder in folders:
        if folder.exists():
            found.append(folder)
        for place, names, files in os.walk(folder):
            found += [Path(place, name) for name in (*names, *files)]
    return found


def _groups_of_pods() -> list[Path]:
    """All control groups that kubelets have made for pods, those that hold others first."""
    return [Path(place) for place, _, _ in os.walk(_CONTROL_GROUPS) if _PODS in Path(place).parts]


def _processes_in(group: Path) -> list[int]:
    with contextlib.suppress(OSError):
        return [int(pid) for pid in (group / "cgroup.procs").read_text().split()]
    return []


def _remove_network(bridge: str) -> None:
    for command, table in _TABLES:
        _remove_chains(command, table)
    # The pods' ends go with the namespaces, which the kernel takes its time for.
    for line in _said_by("ip", "-o", "link", "show", "master", bridge):
        quietly("ip", "link", "delete", line.split()[1].partition("@")[0].rstrip(":"))
    quietly("ip", "link", "delete", bridge)


def rules(command: str, table: str) -> list[str]:
    """As `command` writes them; it waits for whoever else changes some."""
    return _said_by(command, "-w", "-t", table, "-S")


def _remove_chains(command: str, table: str) -> None:
    found = [line.split() for line in rules(command, table)]
    ours = [rule[1] for rule in found if rule[0] == "-N" and rule[1].startswith(_CHAINS)]
    for rule in found:
        if rule[0] == "-A" and rule[1] not in ours and any(word in ours for word in rule[2:]):
            # As it was listed, comments in quotation marks too.
            line = " ".join(rule[1:])
            quietly("sh", "-c", f"{command} -w -t {table} -D {line}")
    for chain in ours:
        quietly(command, "-w", "-t", table, "-F", chain)
    for chain in ours:
        quietly(command, "-w", "-t", table, "-X", chain)


def _unmount_below(*folders: Path) -> None:
    for place in sorted(_mounted(), reverse=True):
        if any(place.is_relative_to(folder) for folder in folders):
            quietly("umount", "--lazy", str(place))


def _mounted() -> list[Path]:
    lines = Path("/proc/mounts").read_text().splitlines()
    return [Path(line.split()[1].encode().decode("unicode_escape")) for line in lines]


def _remove_cgroups(but: frozenset[Path]) -> None:
    deadline = time.monotonic() + _END_SECONDS
    while (groups := [one for one in _groups_of_pods() if one not in but]) and time.monotonic() < deadline:
        for group in reversed(groups):
            for pid in _processes_in(group):
                with contextlib.suppress(OSError):
                    os.kill(pid, signal.SIGKILL)
            # What was killed is there for a moment more.
            with contextlib.suppress(OSError):
                group.rmdir()
        time.sleep(0.02)
