"""Both servers listen the same way, and say the same where they cannot."""

from __future__ import annotations

import socket

import pytest

import recommender.probes
import webhook.server
from recommender.api.listening import ListenError, bound_socket


def test_it_listens() -> None:
    with bound_socket("127.0.0.1", 0) as listening, socket.create_connection(listening.getsockname()):
        pass


def test_a_port_has_one_owner() -> None:
    with bound_socket("127.0.0.1", 0) as listening, pytest.raises(ListenError, match=r"in use .* --port"):
        bound_socket(*listening.getsockname())


def test_there_is_one_way() -> None:
    assert recommender.probes.bound_socket is bound_socket
    assert recommender.probes.PortInUseError is ListenError
    assert webhook.server.ListenError is ListenError
