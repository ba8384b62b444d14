"""Ports of this machine for servers that are started later."""

from __future__ import annotations

import random
import socket
import sys

from vllm_rightsizer.errors import UserError

_PORTS = range(20000, 30000)
"""Connections that go out are given higher ones by the kernel, at any moment; and NodePorts are higher."""
_claims: list[socket.socket] = []


def free_ports(count: int, host: str = "127.0.0.1") -> list[int]:
    """Ports that nobody listens on, and that nobody else is given here while this process lives. Raises `UserError`
    where there are not so many.

    A server may take its time: vLLM listens ten seconds after its start.
    """
    found: list[int] = []
    for port in random.SystemRandom().sample(_PORTS, len(_PORTS)):
        if len(found) == count:
            break
        claim = socket.socket(socket.AF_UNIX)
        try:
            if sys.platform == "linux":
                # A name and no file: it is gone with the process.
                claim.bind(f"\0vllm-rightsizer-port-{port}")
            with socket.socket() as probe:
                probe.bind((host, port))
        except OSError:
            claim.close()
        else:
            _claims.append(claim)
            found.append(port)
    if len(found) < count:
        raise UserError(
            f"{host} has not {count} free ports from {_PORTS.start} to {_PORTS.stop - 1}; end what has them"
        )
    return found
