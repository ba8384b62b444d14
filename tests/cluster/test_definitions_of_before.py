"""A recommender that is newer than the definitions in the cluster writes what these have room for."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path

import pytest

from bench.lab.client import StatusError
from bench.lab.control_plane import ControlPlane
from recommender.api.crds import definitions

from .recommenders import path_of
from .test_recommender_writes import KIND, LLAMA, counted, sized, working
from .waiting import until

_NEWER = ("replicas", "gpus")


@pytest.fixture
def old_definition(crds: ControlPlane) -> Iterator[ControlPlane]:
    """Without two fields of the status; as it was at the end."""
    [ours] = [one for one in definitions() if one["spec"]["names"]["kind"] == KIND]
    path = f"/apis/apiextensions.k8s.io/v1/customresourcedefinitions/{ours['metadata']['name']}"
    where = "/spec/versions/0/schema/openAPIV3Schema/properties/status/properties"
    [version] = crds.client.get(path)["spec"]["versions"]
    status = version["schema"]["openAPIV3Schema"]["properties"]["status"]["properties"]
    crds.client.patch(path, [{"op": "remove", "path": f"{where}/{name}"} for name in _NEWER], "json")
    crds.wait_for(lambda: not _takes_newer_fields(crds), "old definition")
    try:
        yield crds
    finally:
        back = [{"op": "add", "path": f"{where}/{name}", "value": status[name]} for name in _NEWER]
        crds.client.patch(path, back, "json")
        crds.wait_for(lambda: _takes_newer_fields(crds), "new definition")


def _takes_newer_fields(plane: ControlPlane) -> bool:
    raw = sized("default")
    raw["status"] |= dict.fromkeys(_NEWER, 1)
    try:
        plane.client.patch(path_of("default", LLAMA), raw, "apply", fieldManager="lab", dryRun="All")
    except StatusError as error:
        if "field not declared in schema" not in error.message:
            raise
        return False
    return True


async def test_what_an_old_definition_lacks_is_left_out_and_the_rest_is_written(
    old_definition: ControlPlane, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    plane = old_definition
    caplog.set_level(logging.WARNING)
    namespace = plane.namespace("old-definition")
    raw = sized(namespace)
    raw["status"] |= {"replicas": 2, "gpus": 4}
    async with working(plane, tmp_path) as (objects, telemetry):
        objects.apply(raw)
        await until(lambda: counted(telemetry, "written") == 1)
        await until(lambda: objects.get(KIND, namespace, raw["metadata"]["name"]))
        stored = plane.client.get(path_of(namespace, LLAMA))["status"]
        assert stored["target"]["kvBytes"] == raw["status"]["target"]["kvBytes"]
        assert not stored.keys() & set(_NEWER)
        # Whatever is asked for once more changes nothing there, and holds nothing else up.
        version = plane.client.get(path_of(namespace, LLAMA))["metadata"]["resourceVersion"]
        objects.apply_status(raw)
        await until(lambda: counted(telemetry, "written") == 2)
        assert plane.client.get(path_of(namespace, LLAMA))["metadata"]["resourceVersion"] == version
        await until(lambda: objects.trouble is None)
    assert counted(telemetry, "failed") == 0
    assert all(f"status.{name}" in caplog.text for name in _NEWER)
