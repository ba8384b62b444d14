"""Both servers listen the same way, and say the same where they cannot."""

from __future__ import annotations

import errno
import os
import socket

import pytest

from recommender.api.listening import ListenError, bound_socket


def test_it_listens() -> None:
    with bound_socket("127.0.0.1", 0) as listening, socket.create_connection(listening.getsockname()):
        pass


def test_every_address_is_reached_by_both_families() -> None:
    """So the chart's pods answer whichever of them a cluster has. A machine of tests may have no address of IPv6."""
    with bound_socket("::", 0) as listening, socket.socket(socket.AF_INET) as client:
        client.connect(("127.0.0.1", listening.getsockname()[1]))
        assert listening.family == socket.AF_INET6
        assert not listening.getsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY)


def test_a_kernel_without_ipv6(monkeypatch: pytest.MonkeyPatch) -> None:
    def without(family: int, *rest: int) -> socket.socket:
        if family == socket.AF_INET6:
            raise OSError(errno.EAFNOSUPPORT, os.strerror(errno.EAFNOSUPPORT))
        return made(family, *rest)

    made = socket.socket
    monkeypatch.setattr(socket, "socket", without)
    with pytest.raises(ListenError, match=r"cannot listen on ::1, port 0: .*--host"):
        bound_socket("::1", 0)
    with bound_socket("::", 0) as listening:
        assert listening.family == socket.AF_INET


def test_a_port_has_one_owner() -> None:
    with bound_socket("127.0.0.1", 0) as listening, pytest.raises(ListenError, match=r"in use .* --port"):
        bound_socket(*listening.getsockname())


def test_answers_do_not_wait_for_the_clients_acknowledgement() -> None:
    """An answer in two parts would wait 40 ms between them."""
    with bound_socket("127.0.0.1", 0) as listening, socket.create_connection(listening.getsockname()):
        accepted, _ = listening.accept()
        with accepted:
            assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
