"""The socket that a server of ours answers on, and what to do where it cannot be had."""

from __future__ import annotations

import errno
import socket


class ListenError(OSError):
    """A server cannot listen where it was told to; the message says what to do."""


def bound_socket(host: str, port: int) -> socket.socket:
    """A socket that listens on `host` and `port`; `::` is every address, those of IPv4 too. Raises `ListenError`."""
    try:
        listening = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_STREAM)
    except OSError as error:
        if host != "::":
            raise ListenError(_why_not(host, port, error)) from error
        # A kernel may be without IPv6.
        return bound_socket("0.0.0.0", port)
    if host == "::":
        listening.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
    # A port whose last owner has just ended is free.
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    # Its connections inherit this: an answer in two parts would else wait for the client's delayed ACK, 40 ms.
    listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    try:
        listening.bind((host, port))
        # At once: of two sockets that are only bound, neither would learn of the other.
        listening.listen(1024)
    except (OSError, OverflowError) as error:
        listening.close()
        raise ListenError(_why_not(host, port, error)) from error
    return listening


def _why_not(host: str, port: int, error: Exception) -> str:
    number = error.errno if isinstance(error, OSError) else None
    if number == errno.EADDRINUSE:
        return f"port {port} of {host} is in use by another program: stop that one, or choose another with --port"
    if number == errno.EACCES:
        return f"port {port} is not allowed for this user: choose one above 1023 with --port"
    return f"cannot listen on {host}, port {port}: {error}; choose others with --host and --port"
