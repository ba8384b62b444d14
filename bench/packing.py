"""How long `plan` packs, and how close it comes to what no packing can undercut: `python -m bench.packing [GPUS...]`.

Nodes of eight GPUs with 79.65 GiB each, full of engines of one to eight ranks that hold their GPUs whole today. After
right-sizing they need 3 to 75 GiB of each; one in seven keeps its GPUs. One JSON object a line.
"""

from __future__ import annotations

import json
import random
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace

from bench.figures import Figure
from recommender.packing import Host, Tenant, fits, least_cards, pack, stay
from recommender.packing_plans import PLACES

_GIB = 1 << 30
_ROOM = (int(79.65 * _GIB), PLACES)
_CARDS = 8
_RANKS = (1, 1, 1, 1, 2, 2, 4, 8)
_STAY_SHARE = 1 / 7
_TARGET_SECONDS = 10.0
_LARGE = 10_000


def cluster(gpus: int, seed: int = 1) -> tuple[list[Host], list[Tenant]]:
    """Nodes, and the engines on them."""
    draw = random.Random(seed)
    hosts = [Host(f"node-{number:05}", _CARDS, _ROOM) for number in range(gpus // _CARDS)]
    tenants: list[Tenant] = []
    for host in hosts:
        left = host.cards
        while left:
            ranks = min(left, draw.choice(_RANKS))
            left -= ranks
            stays = draw.random() < _STAY_SHARE
            need = _ROOM if stays else (int(draw.uniform(3, 75) * _GIB), 1)
            tenants.append(Tenant(f"engine-{len(tenants):05}", ranks, need, host.name, stays))
    return hosts, tenants


def measured(gpus: int) -> Iterator[Figure]:
    """Of one cluster with so many GPUs."""
    hosts, tenants = cluster(gpus)
    began = time.perf_counter()
    now, homeless = stay([replace(one, need=_ROOM) for one in tenants], hosts)
    found = pack(tenants, hosts, now)
    seconds = time.perf_counter() - began
    if homeless or found is None or not fits(found, tenants, hosts):
        raise RuntimeError(f"the packing of {gpus} GPUs holds more than they have, or not all of them")
    target = _TARGET_SECONDS if gpus == _LARGE else None
    yield Figure(f"packing_seconds_{gpus}", seconds, "s", len(tenants), target)
    over = len(found.used) / least_cards(tenants, hosts)
    yield Figure(f"packing_gpus_over_least_{gpus}", over, "ratio", len(tenants))


def main(arguments: Sequence[str]) -> None:
    for gpus in [int(one) for one in arguments] or (1_000, _LARGE):
        for figure in measured(gpus):
            print(json.dumps(figure.as_json()), flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
