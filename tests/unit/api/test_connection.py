"""One request to the API server: how it is reached, and how its refusals are read."""

from __future__ import annotations

from pathlib import Path

import pytest
from fake_apiserver import FakeApi, kubeconfig, served

from recommender.api.apiserver.connection import ApiError, ApiServer, CredentialsError
from recommender.api.apiserver.resources import Resource

THINGS = Resource("example.org", "v1", "things", "Thing")


async def test_without_credentials(tmp_path: Path) -> None:
    with pytest.raises(CredentialsError, match="give a --kubeconfig"):
        await ApiServer.connect()
    with pytest.raises(CredentialsError, match="gone cannot be used"):
        await ApiServer.connect(tmp_path / "gone")


async def test_refusals_are_read(tmp_path: Path) -> None:
    api = FakeApi(refusals=[(409, "AlreadyExists")])
    async with served(api):
        server = await ApiServer.connect(kubeconfig(tmp_path, api.url))
        with pytest.raises(ApiError) as caught:
            await server.request("GET", THINGS.path())
        assert (caught.value.status, caught.value.reason) == (409, "AlreadyExists")
        with pytest.raises(ApiError, match="404"):
            await server.request("GET", "/nowhere")
        await server.close()


@pytest.mark.parametrize(
    ("text", "seconds"), [("0.3", 0.3), ("86400", 60), ("inf", 60), ("nan", None), ("-1", None), ("Wed, 21 Oct", None)]
)
async def test_how_long_a_server_wants_us_to_wait(tmp_path: Path, text: str, seconds: float | None) -> None:
    """Nothing of it may hold us up for long, or not at all."""
    api = FakeApi(refusals=[(429, "TooManyRequests")], retry_after=text)
    async with served(api):
        server = await ApiServer.connect(kubeconfig(tmp_path, api.url))
        with pytest.raises(ApiError) as caught:
            await server.request("GET", THINGS.path())
        await server.close()
    assert caught.value.retry_after_seconds == seconds


async def test_new_credentials_are_taken_after_a_refusal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("recommender.api.apiserver.connection._RELOAD_SECONDS", 0.0)
    api = FakeApi(refusals=[(401, "Unauthorized")])
    async with served(api):
        server = await ApiServer.connect(kubeconfig(tmp_path, api.url))
        kubeconfig(tmp_path, api.url, token="renewed")
        with pytest.raises(ApiError, match="401"):
            await server.request("GET", THINGS.path())
        await server.request("GET", THINGS.path())
        await server.close()
    assert api.requests[1].headers["Authorization"] == "Bearer renewed"
