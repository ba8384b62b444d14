"""Ports of the demo and of the lab: what one process was given, no other one is, even before anybody listens there."""

from __future__ import annotations

import os
import socket
import subprocess
import sys

import pytest

from vllm_rightsizer.demo import ports
from vllm_rightsizer.errors import UserError

_FIRST = 18000 + 12 * (os.getpid() % 160)
FEW = range(_FIRST, _FIRST + 12)
"""Below those of everybody else, and others than those of whoever runs this test at the same time."""


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ports, "_PORTS", FEW)
    monkeypatch.setattr(ports, "_claims", [])


@pytest.mark.usefixtures("few")
def test_two_processes_are_given_different_ones() -> None:
    ours = set(ports.free_ports(4))
    code = f"from vllm_rightsizer.demo import ports; ports._PORTS = {FEW!r}; print(*ports.free_ports(4))"
    theirs = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert len(ours | {int(port) for port in theirs.split()}) == 8
    # They are free again with that process.
    assert len(ours | set(ports.free_ports(4))) == 8


@pytest.mark.usefixtures("few")
def test_where_somebody_listens_none_is_given() -> None:
    with socket.create_server(("127.0.0.1", FEW[0])):
        assert FEW[0] not in ports.free_ports(len(FEW) - 1)
        with pytest.raises(UserError, match=rf"127\.0\.0\.1 has not 1 free ports from {FEW[0]} to {FEW[-1]}"):
            ports.free_ports(1)
