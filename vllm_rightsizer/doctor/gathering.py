"""What the doctor looks at: lists of objects, one pod that is only tried, rights that are only asked for, pages of
plugins. Nothing is written."""

from __future__ import annotations

import asyncio
import base64
from dataclasses import replace
from datetime import UTC, datetime, timedelta

from cryptography import x509

from recommender.api.apiserver.connection import JSON, METADATA_LIST, ApiServer
from recommender.api.apiserver.lists import pages
from recommender.api.apiserver.resources import Resource
from recommender.api.owners import BUILT_IN_OWNERS, CUSTOM_OWNERS
from recommender.cluster_objects import AUTOMATION, CONFIG_MAPS, NAMESPACES, NODES, PODS, POLICIES, RECOMMENDATIONS
from recommender.leading import LEASE, LEASES
from vllm_rightsizer.doctor.facts import (
    ALL_DEPLOYMENTS,
    WEBHOOK,
    Facts,
    Name,
    Raw,
    Right,
    moment,
    option,
    service_of,
)
from vllm_rightsizer.doctor.gitops import APPLICATIONS
from vllm_rightsizer.doctor.looking import Seen, looked
from vllm_rightsizer.doctor.monitoring import MONITORING
from vllm_rightsizer.doctor.plugins import silent_pods
from vllm_rightsizer.doctor.probing import probed
from vllm_rightsizer.doctor.proxied import pages_of, unready
from vllm_rightsizer.doctor.rights import account_of, needed
from vllm_rightsizer.doctor.silence import PLUGINS
from webhook.publishing import CONFIGURATIONS
from webhook.secret_certificates import SECRETS

DEFINITIONS = Resource("apiextensions.k8s.io", "v1", "customresourcedefinitions", "CustomResourceDefinition")
DEPLOYMENTS = Resource("apps", "v1", "deployments", "Deployment")
SERVICES = Resource("", "v1", "services", "Service")
ENDPOINTS = Resource("discovery.k8s.io", "v1", "endpointslices", "EndpointSlice")
NETWORK_POLICIES = Resource("networking.k8s.io", "v1", "networkpolicies", "NetworkPolicy")
DEVICE_CLASSES = Resource("resource.k8s.io", "v1", "deviceclasses", "DeviceClass")
_WHOLE = (
    *(DEFINITIONS, CONFIGURATIONS, NAMESPACES, NODES, PODS, RECOMMENDATIONS, POLICIES, *AUTOMATION),
    *(NETWORK_POLICIES, DEVICE_CLASSES),
)
_OF_OTHERS = (APPLICATIONS, *MONITORING)
"""Looked at where their definitions are there."""
_OF_OURS = (DEPLOYMENTS, SERVICES, ENDPOINTS)
"""Of the namespace of our servers alone."""
_REVIEWS = Resource("authorization.k8s.io", "v1", "subjectaccessreviews", "SubjectAccessReview")
_PLUGIN_MAPS = {"labelSelector": "app.kubernetes.io/managed-by=vllm-rightsizer"}

_PAGE = 500
_AT_ONCE = 8
_MOST_MAPS = 200
_HOME = "vllm-rightsizer"
"""Where we are installed by default."""
_FRESH_SECONDS = 30.0
_CLOCKS_DIFFER = timedelta(minutes=2)
_RENEWAL_SECONDS = 4.0
"""A leader renews every 1.5 s."""


async def gather(server: ApiServer, namespace: str | None = None) -> Facts:
    """Look at everything once. `namespace`: of our servers; without it the webhook's configuration tells. Raises
    `UserError` where there is no API server, or where it does not know us."""
    seen = Seen()
    await asyncio.gather(*(_listed(server, seen, resource) for resource in _WHOLE))
    owners = (_listed(server, seen, one, accept=METADATA_LIST) for one in (*BUILT_IN_OWNERS, *CUSTOM_OWNERS))
    plugin_maps = _listed(server, seen, CONFIG_MAPS, query=_PLUGIN_MAPS, accept=METADATA_LIST)
    known = Facts(datetime.now(UTC), namespace or "", seen.objects)
    others = (_listed(server, seen, one) for one in _OF_OTHERS if known.one(DEFINITIONS.kind, str(one)) is not None)
    await asyncio.gather(*owners, plugin_maps, *others)
    where = await _home(server, seen, known, namespace)
    facts = Facts(datetime.now(UTC), where, seen.objects, seen.unseen, frozenset(seen.absent))
    chain, moves, probe, lacking, answers, troubles = await asyncio.gather(
        _chain(server, facts, seen),
        _lease_moves(server, where, seen),
        probed(server, facts),
        _lacking(server, facts, seen),
        pages_of(server, facts, seen),
        unready(server, facts),
    )
    leaf, between = (chain[0], tuple(chain[1:])) if chain else (None, ())
    facts = replace(
        facts,
        leaf=leaf,
        between=between,
        lease_moves=moves,
        probe=probe,
        lacking=lacking,
        pages=answers,
        unready=troubles,
    )
    if probe is not None and probe.at is not None and abs(probe.at - facts.now) > _CLOCKS_DIFFER:
        # Certificates are judged by the clock of who calls, which need not be this machine's.
        facts = replace(facts, now=probe.at)
    return replace(facts, environments=await _environments(server, facts, seen), unseen=dict(seen.unseen))


async def _home(server: ApiServer, seen: Seen, known: Facts, namespace: str | None) -> str:
    """The namespace of our servers, and what is there: of those that configurations name the one with the webhook. A
    former installation may have left its configuration behind."""
    named = [found[0] for raw in known.configurations if (found := service_of(raw))]
    candidates = [namespace] if namespace else list(dict.fromkeys((*named, _HOME)))
    # What was not to be seen in the whole cluster may well be seen there.
    if everywhere := seen.unseen.pop(DEPLOYMENTS.kind, None):
        seen.unseen[ALL_DEPLOYMENTS] = everywhere
    hidden: str | None = None
    # Of all others the metadata alone is known.
    metadata = seen.objects.pop(DEPLOYMENTS.kind, [])
    for where in (*candidates, candidates[0]):
        for resource in _OF_OURS:
            seen.objects.pop(resource.kind, None)
            seen.unseen.pop(resource.kind, None)
        await asyncio.gather(*(_listed(server, seen, resource, namespace=where) for resource in _OF_OURS))
        if Facts(known.now, where, seen.objects).deployment(WEBHOOK) is not None or len(candidates) == 1:
            break
        if where in named:
            hidden = hidden or seen.unseen.get(DEPLOYMENTS.kind)
    else:
        if hidden is not None:
            # Our servers may be there.
            seen.unseen[DEPLOYMENTS.kind] = hidden
    own = seen.objects.get(DEPLOYMENTS.kind, [])
    seen.objects[DEPLOYMENTS.kind] = [*(raw for raw in metadata if raw["metadata"].get("namespace") != where), *own]
    return where


async def _listed(
    server: ApiServer,
    seen: Seen,
    resource: Resource,
    *,
    namespace: str | None = None,
    query: dict[str, str] | None = None,
    accept: str = JSON,
) -> None:
    async def read() -> None:
        found: list[Raw] = []
        async for page in pages(server, resource.path(namespace), query or {}, _PAGE, accept):
            found += [{**raw, "apiVersion": resource.api_version, "kind": resource.kind} for raw in page["items"] or ()]
        seen.objects[resource.kind] = found

    await looked(server, seen, resource.kind, f"list {resource}", read)


async def _chain(server: ApiServer, facts: Facts, seen: Seen) -> list[x509.Certificate]:
    """What is served, the leaf first; of the Secret nothing else is kept."""
    deployment = facts.deployment(WEBHOOK)
    name = (
        option(deployment, "tls-secret", "vllm-rightsizer-webhook-tls") if deployment else "vllm-rightsizer-webhook-tls"
    )
    if deployment is not None and option(deployment, "tls-dir", ""):
        volumes = deployment["spec"]["template"]["spec"].get("volumes") or ()
        name = next((one["secret"]["secretName"] for one in volumes if "secret" in one), name)
    found: list[x509.Certificate] = []

    async def read() -> None:
        secret = await server.request("GET", SECRETS.path(facts.namespace, name))
        try:
            found.extend(x509.load_pem_x509_certificates(base64.b64decode(secret["data"]["tls.crt"])))
        except (KeyError, TypeError, ValueError):
            seen.unseen[f"Secret {name}"] = "there is no certificate in it that can be read"

    await looked(server, seen, f"Secret {name}", f"get the secret {name}, whose certificate is served", read)
    return found


async def _lease_moves(server: ApiServer, namespace: str, seen: Seen) -> bool | None:
    moves: list[bool] = []

    async def look() -> None:
        lease = await server.request("GET", LEASES.path(namespace, LEASE))
        seen.objects["Lease"] = [lease]
        renewed = lease["spec"].get("renewTime")
        moves.append(
            renewed is not None and abs((datetime.now(UTC) - moment(renewed)).total_seconds()) < _FRESH_SECONDS
        )
        if not moves[0]:
            # Clocks may differ: does it change?
            await asyncio.sleep(_RENEWAL_SECONDS)
            again = await server.request("GET", LEASES.path(namespace, LEASE))
            moves[0] = again["spec"].get("renewTime") != renewed

    await looked(server, seen, "Lease", f"get leases in {namespace}", look)
    return moves[0] if moves else None


async def _lacking(server: ApiServer, facts: Facts, seen: Seen) -> tuple[Right, ...]:
    """Rights that the API server denies to our service accounts."""
    lacking: list[Right] = []
    turn = asyncio.Semaphore(_AT_ONCE)

    async def ask(right: Right) -> None:
        async with turn:
            if _REVIEWS.kind in seen.unseen:
                return

            async def look() -> None:
                answer = await server.request("POST", _REVIEWS.path(), body=_review(facts, right))
                if not answer["status"].get("allowed"):
                    lacking.append(right)

            await looked(server, seen, _REVIEWS.kind, "create subjectaccessreviews", look)

    await asyncio.gather(*map(ask, needed(facts)))
    return tuple(sorted(lacking))


def _review(facts: Facts, right: Right) -> Raw:
    plural, _, subresource = right.resource.partition("/")
    attributes = {"group": right.group, "resource": plural, "subresource": subresource, "verb": right.verb}
    attributes |= {"namespace": right.namespace, "name": right.name}
    return {
        "apiVersion": _REVIEWS.api_version,
        "kind": _REVIEWS.kind,
        "spec": {
            "user": f"system:serviceaccount:{facts.namespace}:{account_of(facts, right.component)}",
            "groups": ["system:serviceaccounts", f"system:serviceaccounts:{facts.namespace}", "system:authenticated"],
            "resourceAttributes": {name: value for name, value in attributes.items() if value},
        },
    }


async def _environments(server: ApiServer, facts: Facts, seen: Seen) -> dict[Name, dict[str, str]]:
    """What ConfigMaps, from which silent pods take all their variables, say of vLLM's plugins; nothing else of them."""
    wanted: set[Name] = set()
    for pod in silent_pods(facts):
        spec, namespace = facts.pod(pod.key.namespace, pod.name)["spec"], pod.key.namespace
        own = [one for kind in ("containers", "initContainers") for one in spec.get(kind) or ()]
        sources = [source for one in own if one["name"] == pod.key.container for source in one.get("envFrom") or ()]
        wanted |= {(namespace, str(one["configMapRef"]["name"])) for one in sources if "configMapRef" in one}
    found: dict[Name, dict[str, str]] = {}

    async def read(namespace: str, name: str) -> None:
        async def look() -> None:
            held = (await server.request("GET", CONFIG_MAPS.path(namespace, name))).get("data") or {}
            found[namespace, name] = {key: value for key, value in held.items() if PLUGINS.endswith(key)}

        await looked(server, seen, f"ConfigMap {namespace}/{name}", f"get configmaps in {namespace}", look)

    await asyncio.gather(*(read(*one) for one in sorted(wanted)[:_MOST_MAPS]))
    return found
