"""What a node leaves behind in the kernel and in folders that its programs share with others, and how it goes again."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
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
_CHAINS = ("KUBE-", "CNI-")


class Leftovers:
    """Looks at the machine before a node is started. `folders` are the node's own."""

    def __init__(self, *folders: Path) -> None:
        self._folders = folders
        self._sysctls = {name: Path("/proc/sys", name).read_text() for name in _SYSCTLS}
        self._found = set(_entries(*map(Path, _ELSEWHERE)))

    def remove(self, bridge: str) -> None:
        """Take away what was not there before: once all programs and containers have ended."""
        _remove_network(bridge)
        made = [entry for entry in _entries(*map(Path, _ELSEWHERE)) if entry not in self._found]
        _unmount_below(*self._folders, *made)
        _remove_cgroups()
        for name, value in self._sysctls.items():
            with contextlib.suppress(OSError):
                Path("/proc/sys", name).write_text(value)
        for leftover in (*self._folders, *made):
            if leftover.is_dir() and not leftover.is_symlink():
                shutil.rmtree(leftover, ignore_errors=True)
            else:
                leftover.unlink(missing_ok=True)


def quietly(*command: str) -> None:
    """Run a command that may have nothing to do."""
    subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def _entries(*folders: Path) -> list[Path]:
    """The folders that are there, and all that lies in them."""
    return [entry for folder in folders if folder.exists() for entry in (folder, *folder.rglob("*"))]


def _remove_network(bridge: str) -> None:
    for command in ("iptables", "ip6tables"):
        for table in ("nat", "filter", "mangle"):
            _remove_chains(command, table)
    quietly("ip", "link", "delete", bridge)


def _remove_chains(command: str, table: str) -> None:
    listed = subprocess.run([command, "-t", table, "-S"], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    rules = [line.split() for line in listed.stdout.splitlines()]
    ours = [rule[1] for rule in rules if rule[0] == "-N" and rule[1].startswith(_CHAINS)]
    for rule in rules:
        if rule[0] == "-A" and rule[1] not in ours and any(word in ours for word in rule[2:]):
            # As it was listed, comments in quotation marks too.
            line = " ".join(rule[1:])
            quietly("sh", "-c", f"{command} -t {table} -D {line}")
    for chain in ours:
        quietly(command, "-t", table, "-F", chain)
    for chain in ours:
        quietly(command, "-t", table, "-X", chain)


def _unmount_below(*folders: Path) -> None:
    lines = Path("/proc/mounts").read_text().splitlines()
    mounted = [line.split()[1].encode().decode("unicode_escape") for line in lines]
    for place in sorted(mounted, reverse=True):
        if any(Path(place).is_relative_to(folder) for folder in folders):
            quietly("umount", "--lazy", place)


def _remove_cgroups() -> None:
    for root in Path("/sys/fs/cgroup").glob("**/kubepods"):
        for group in sorted((path for path in root.glob("**/") if path.is_dir()), reverse=True):
            for pid in (group / "cgroup.procs").read_text().split() if (group / "cgroup.procs").exists() else ():
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.kill(int(pid), 9)
            with contextlib.suppress(OSError):
                group.rmdir()
