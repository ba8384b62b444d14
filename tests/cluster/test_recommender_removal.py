"""A recommendation that nothing owns is removed by the recommender itself, on a real API server."""

from __future__ import annotations

from pathlib import Path

from bench.lab.control_plane import ControlPlane

from .recommenders import path_of
from .test_recommender_writes import KIND, LLAMA, sized, working
from .waiting import until


async def test_what_is_removed_stays_away(crds: ControlPlane, tmp_path: Path) -> None:
    """Also while its last write has not come back, and with the rights that are shipped."""
    namespace = crds.namespace("removed")
    made = sized(namespace)
    name = made["metadata"]["name"]
    async with working(crds, tmp_path) as (objects, _):
        assert objects.apply(made)
        await until(lambda: crds.exists(path_of(namespace, LLAMA)))
        assert objects.delete(KIND, namespace, name)
        await until(lambda: not crds.exists(path_of(namespace, LLAMA)))
        await until(lambda: objects.get(KIND, namespace, name) is None)
        assert objects.list(KIND, namespace) == []
        assert not objects.delete(KIND, namespace, name)
