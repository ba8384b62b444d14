"""Both servers listen the same way, and say the same where they cannot."""

from __future__ import annotations

import socket

import pytest

from recommender.api.listening import ListenError, bound_socket


def test_it_listens() -> None:
    with bound_socket("127.0.0.1", 0) as listening, socket.create_connection(listening.getsockname()):
        pass


def test_a_port_has_one_owner() -> None:
    with bound_socket("127.0.0.1", 0) as listening, pytest.raises(ListenError, match=r"in use .* --port"):
        bound_socket(*listening.getsockname())


def test_answers_do_not_wait_for_the_clients_acknowledgement() -> None:
    """An answer in two parts would wait 40 ms between them."""
    with bound_socket("127.0.0.1", 0) as listening, socket.create_connection(listening.getsockname()):
        accepted, _ = listening.accept()
        with accepted:
            assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
