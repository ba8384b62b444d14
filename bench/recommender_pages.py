"""Thousands of plugins' pages on loopback: `python -m bench.recommender_pages PORT FOLDER`.

One process listens on a port of all of 127.0.0.0/8, where each address is another pod. `FOLDER/templates` says which
pages there are, `FOLDER/<template>-<look>` is what a pod of that template answers to the first look, the second, ...
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

from bench.recommender_fleet import PAGES_PER_TEMPLATE, fleet_pod, number_of
from vllm_plugin.names import COMPACT_TYPE


class _Pods:
    """What each pod answers next."""

    def __init__(self, folder: Path) -> None:
        self._templates = int((folder / "templates").read_text())
        self._pages = [
            [_answer((folder / f"{template}-{look}").read_bytes()) for look in range(PAGES_PER_TEMPLATE)]
            for template in range(self._templates)
        ]
        self._looks: dict[int, int] = {}

    def answer(self, address: str) -> bytes:
        number = number_of(address)
        look = self._looks.get(number, 0)
        self._looks[number] = look + 1
        return self._pages[fleet_pod(number, self._templates).template][min(look, PAGES_PER_TEMPLATE - 1)]


class _Connection(asyncio.Protocol):
    def __init__(self, pods: _Pods) -> None:
        self._pods = pods
        self._received = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._received += data
        if b"\r\n\r\n" in self._received:
            self._received = b""
            self._transport.write(self._pods.answer(self._transport.get_extra_info("sockname")[0]))


def _answer(page: bytes) -> bytes:
    return b"HTTP/1.1 200 OK\r\nContent-Type: %s\r\nContent-Length: %d\r\n\r\n%s" % (
        COMPACT_TYPE.encode(),
        len(page),
        page,
    )


async def _serve(port: int, folder: Path) -> None:
    pods = _Pods(folder)
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: _Connection(pods), "0.0.0.0", port, reuse_port=True, backlog=1024)
    print("serving", flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(_serve(int(sys.argv[1]), Path(sys.argv[2])))
