"""Ports for the plugin's pages. Standard library only, as all of these tests."""

from __future__ import annotations

import random
import socket

PORTS = range(20000, 30000)
"""Higher ones are given to connections that go out, at any moment."""
_claims: list[socket.socket] = []


def free_port() -> int:
    """A TCP port that nobody uses now, and that nobody else is given here while this process lives."""
    for port in random.SystemRandom().sample(PORTS, len(PORTS)):
        claim = socket.socket(socket.AF_UNIX)
        try:
            # The name by which the project's own tests claim theirs; it is gone with the process.
            claim.bind(f"\0vllm-rightsizer-port-{port}")
            with socket.socket() as probe:
                probe.bind(("127.0.0.1", port))
        except OSError:
            claim.close()
        else:
            _claims.append(claim)
            return port
    raise OSError(f"no free port from {PORTS.start} to {PORTS.stop - 1}")
