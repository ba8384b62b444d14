"""What pods answer through the API server (`pods/proxy`): pages of plugins, and servers of ours that are not ready."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence

from recommender.api.apiserver.connection import CONNECTION_ERRORS, ApiError, ApiServer
from recommender.cluster_objects import PODS
from recommender.discovery import Pod
from recommender.exposition import INDISPENSABLE_HOOKS
from vllm_plugin.names import COMPACT_TYPE, ENGINE_INFO, HOOK_ERRORS, HOOKS_ACTIVE, LABEL_HOOK
from vllm_rightsizer.doctor.facts import RECOMMENDER, WEBHOOK, Facts, Page, condition, option
from vllm_rightsizer.doctor.looking import Seen

_AT_ONCE = 8
_MOST_PAGES = 200
_NOBODY = (502, 503, 504)
"""What the API server itself answers where it reaches nobody."""
_NO_HTTP = "malformed HTTP"
"""What it says of somebody who speaks, and in another protocol."""
_SECONDS = 10.0
_READY_SECONDS = 3.0
_PORTS = {WEBHOOK: ("https:", "8443"), RECOMMENDER: ("", "9416")}
"""The scheme as a proxied address begins with it, and the port where the command line names none."""


async def pages_of(server: ApiServer, facts: Facts, seen: Seen) -> dict[tuple[str, str, str], Page]:
    """What answers for the pages of the plugins that are to be there."""
    found: dict[tuple[str, str, str], Page] = {}
    turn = asyncio.Semaphore(_AT_ONCE)

    async def ask(pod: Pod) -> None:
        async with turn:
            page = await _page(server, pod, seen)
            if page is not None:
                found[pod.key.namespace, pod.name, pod.key.container] = page

    there = [pod for pod in facts.pods.injected if pod.ready and pod.address is not None]
    await asyncio.gather(*map(ask, there[:_MOST_PAGES]))
    return found


async def _page(server: ApiServer, pod: Pod, seen: Seen) -> Page | None:
    assert pod.address is not None, "only those that run are asked"
    path = f"{PODS.path(pod.key.namespace, pod.name)}:{pod.address[1]}/proxy/metrics"
    try:
        async with asyncio.timeout(_SECONDS):
            answer: object = await server.request("GET", path, accept=COMPACT_TYPE)
    except ApiError as error:
        if error.status == 403:
            seen.unseen["Pod proxies"] = (
                "you are not allowed to get pods/proxy, by which pages of plugins are looked at"
            )
            return None
        return Page(error.message or str(error), answered=is_answer(error))
    except CONNECTION_ERRORS as error:
        return Page(str(error) or f"no answer within {_SECONDS:.0f} s", answered=False)
    except ValueError:
        return Page("no page of the plugin's")
    try:
        return page_of(answer)
    except (KeyError, TypeError, ValueError):
        return Page("no page of the plugin's")


def is_answer(error: ApiError) -> bool:
    """Whether somebody in the pod has said it, and not the API server, which has reached nobody."""
    return error.status not in _NOBODY or _NO_HTTP in error.message


def page_of(answer: object) -> Page:
    """What a page in the plugin's compact form says of its hooks. Raises KeyError, TypeError or ValueError where it is
    none."""
    if not isinstance(answer, list):
        raise TypeError("a page is a list of samples")
    samples: Sequence[tuple[str, Mapping[str, str], float]] = [(name, labels, value) for name, labels, value in answer]
    errors = {labels[LABEL_HOOK]: int(value) for name, labels, value in samples if name == HOOK_ERRORS}
    off = {labels[LABEL_HOOK] for name, labels, value in samples if name == HOOKS_ACTIVE and not value}
    release = next((labels.get("vllm_version", "") for name, labels, _ in samples if name == ENGINE_INFO), "")
    return Page(
        hooks_off={hook: errors.get(hook, 0) for hook in sorted(off & set(INDISPENSABLE_HOOKS))}, vllm_version=release
    )


async def unready(server: ApiServer, facts: Facts) -> dict[str, str]:
    """The sentence of each pod of ours that runs and is not ready."""
    asked = []
    for component in _PORTS:
        deployment = facts.deployment(component)
        for pod in facts.pods_of(deployment) if deployment is not None else ():
            said = condition(pod, "Ready")
            if said is not None and said["status"] != "True" and (pod.get("status") or {}).get("podIP"):
                name = pod["metadata"]["name"]
                asked.append(_readiness(server, name, readiness_path(facts, component, name)))
    found: dict[str, str] = {}
    for one in await asyncio.gather(*asked):
        found |= one
    return found


def readiness_path(facts: Facts, component: str, pod: str) -> str:
    """Of a pod of ours. The API server knows ports of pods by number alone: a name is looked up in /etc/services."""
    (scheme, port), deployment = _PORTS[component], facts.deployment(component)
    if deployment is not None:
        port = option(deployment, "port", port)
    return f"{PODS.path(facts.namespace)}/{scheme}{pod}:{port}/proxy/readyz"


async def _readiness(server: ApiServer, name: str, path: str) -> dict[str, str]:
    try:
        async with asyncio.timeout(_READY_SECONDS):
            await server.request("GET", path, accept="*/*")
    except ApiError as error:
        # What the API server itself says of a pod that does not answer is no sentence of the pod's.
        return {name: error.message} if error.status == 503 and "dial tcp" not in error.message else {}
    except (*CONNECTION_ERRORS, ValueError):
        return {}
    return {}
