"""What the doctor looks at: lists of objects, one pod that is only tried, rights that are only asked for, pages of
plugins. Nothing is written."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime

from cryptography import x509

from recommender.api.apiserver.connection import CONNECTION_ERRORS, JSON, METADATA_LIST, ApiError, ApiServer
from recommender.api.apiserver.lists import pages
from recommender.api.apiserver.resources import Resource
from recommender.api.owners import BUILT_IN_OWNERS, CUSTOM_OWNERS
from recommender.cluster_objects import AUTOMATION, CONFIG_MAPS, NAMESPACES, NODES, PODS, POLICIES, RECOMMENDATIONS
from recommender.discovery import Pod
from recommender.leading import LEASE, LEASES
from vllm_plugin.names import COMPACT_TYPE, LABEL_INJECTED
from vllm_rightsizer.doctor.facts import WEBHOOK, Facts, Page, Probe, Raw, Right, moment, option, service_of
from vllm_rightsizer.doctor.rights import account_of, needed
from vllm_rightsizer.errors import UserError
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
_OF_OURS = (DEPLOYMENTS, SERVICES, ENDPOINTS)
"""Of the namespace of our servers alone."""
_REVIEWS = Resource("authorization.k8s.io", "v1", "subjectaccessreviews", "SubjectAccessReview")
_PLUGIN_MAPS = {"labelSelector": "app.kubernetes.io/managed-by=vllm-rightsizer"}

_PAGE = 500
_AT_ONCE = 8
_MOST_PAGES = 200
_PAGE_SECONDS = 10.0
_PROBED_NAMESPACES = 3
_FRESH_SECONDS = 30.0
_RENEWAL_SECONDS = 4.0
"""A leader renews every 1.5 s."""


@dataclass
class _Seen:
    objects: dict[str, list[Raw]] = field(default_factory=dict)
    unseen: dict[str, str] = field(default_factory=dict)
    absent: set[str] = field(default_factory=set)


async def gather(server: ApiServer, namespace: str | None = None) -> Facts:
    """Look at everything once. `namespace`: of our servers; without it the webhook's configuration tells. Raises
    `UserError` where there is no API server, or where it does not know us."""
    seen = _Seen()
    await asyncio.gather(*(_listed(server, seen, resource) for resource in _WHOLE))
    owners = (_listed(server, seen, one, accept=METADATA_LIST) for one in (*BUILT_IN_OWNERS, *CUSTOM_OWNERS))
    plugin_maps = _listed(server, seen, CONFIG_MAPS, query=_PLUGIN_MAPS, accept=METADATA_LIST)
    await asyncio.gather(*owners, plugin_maps)
    known = Facts(datetime.now(UTC), namespace or "", seen.objects)
    where = namespace or next(
        (found[0] for raw in known.configurations if (found := service_of(raw))), "vllm-rightsizer"
    )
    elsewhere = [raw for raw in seen.objects.get("Deployment", ()) if raw["metadata"].get("namespace") != where]
    await asyncio.gather(*(_listed(server, seen, resource, namespace=where) for resource in _OF_OURS))
    # Of the others the metadata alone is known.
    own = (raw for raw in seen.objects.get("Deployment", ()) if "spec" in raw)
    seen.objects["Deployment"] = [*elsewhere, *own]
    facts = Facts(datetime.now(UTC), where, seen.objects, seen.unseen, frozenset(seen.absent))
    leaf, moves, probe, lacking, answers = await asyncio.gather(
        _leaf(server, facts, seen),
        _lease_moves(server, where, seen),
        _probed(server, facts),
        _lacking(server, facts, seen),
        _pages(server, facts, seen),
    )
    return replace(
        facts, leaf=leaf, lease_moves=moves, probe=probe, lacking=lacking, pages=answers, unseen=dict(seen.unseen)
    )


async def _listed(
    server: ApiServer,
    seen: _Seen,
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

    await _looked(server, seen, resource.kind, f"list {resource}", read)


async def _looked(server: ApiServer, seen: _Seen, what: str, verb: str, look: Callable[[], Awaitable[None]]) -> None:
    """Note what cannot be looked at, and go on."""
    try:
        await look()
    except ApiError as error:
        if error.status == 401:
            raise UserError(f"the API server {server.url} does not take the credentials: log in again") from error
        if error.status == 404:
            seen.absent.add(what)
        elif error.status == 403:
            seen.unseen[what] = f"you are not allowed to {verb}"
        else:
            seen.unseen[what] = f"the API server refuses to {verb}: {error}"
    except CONNECTION_ERRORS as error:
        raise _unreachable(server, error) from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(
            f"what answers at {server.url} is no API server: name one with --kubeconfig and --context"
        ) from error


def _unreachable(server: ApiServer, error: Exception) -> UserError:
    said = str(error) or type(error).__name__
    return UserError(
        f"the API server {server.url} cannot be reached ({said}): see whether it runs, or name another one with "
        "--kubeconfig and --context"
    )


async def _leaf(server: ApiServer, facts: Facts, seen: _Seen) -> x509.Certificate | None:
    """The certificate that is served; of the Secret nothing else is kept."""
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
            found.append(x509.load_pem_x509_certificate(base64.b64decode(secret["data"]["tls.crt"])))
        except (KeyError, TypeError, ValueError):
            seen.unseen[f"Secret {name}"] = "there is no certificate in it that can be read"

    await _looked(server, seen, f"Secret {name}", f"get the secret {name}, whose certificate is served", read)
    return found[0] if found else None


async def _lease_moves(server: ApiServer, namespace: str, seen: _Seen) -> bool | None:
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

    await _looked(server, seen, "Lease", f"get leases in {namespace}", look)
    return moves[0] if moves else None


async def _probed(server: ApiServer, facts: Facts) -> Probe | None:
    """The first opted-in namespace that takes the probe decides; None where nobody has opted in."""
    found: Probe | None = None
    for namespace in facts.opted_in[:_PROBED_NAMESPACES]:
        try:
            pod = await server.request("POST", PODS.path(namespace), query={"dryRun": "All"}, body=probe_pod())
        except ApiError as error:
            found = found or Probe(namespace, refused=f"a vLLM pod could not be tried there: {error.message}")
        except CONNECTION_ERRORS as error:
            raise _unreachable(server, error) from error
        else:
            return Probe(namespace, marked=(pod["metadata"].get("labels") or {}).get(LABEL_INJECTED) == "true")
    return found


def probe_pod() -> Raw:
    """A vLLM pod that the strictest Pod Security Standard and a quota on limits let through; it is never made."""
    amounts = {"cpu": "1m", "memory": "1Mi"}
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"generateName": "vllm-rightsizer-doctor-"},
        "spec": {
            "automountServiceAccountToken": False,
            "securityContext": {"runAsNonRoot": True, "runAsUser": 65532, "seccompProfile": {"type": "RuntimeDefault"}},
            "containers": [
                {
                    "name": "vllm",
                    "image": "vllm/vllm-openai:latest",
                    "args": ["--model=probe"],
                    "resources": {"requests": amounts, "limits": amounts},
                    "securityContext": {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}},
                }
            ],
        },
    }


async def _lacking(server: ApiServer, facts: Facts, seen: _Seen) -> tuple[Right, ...]:
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

            await _looked(server, seen, _REVIEWS.kind, "create subjectaccessreviews", look)

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


async def _pages(server: ApiServer, facts: Facts, seen: _Seen) -> dict[tuple[str, str, str], Page]:
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


async def _page(server: ApiServer, pod: Pod, seen: _Seen) -> Page | None:
    assert pod.address is not None, "only those that run are asked"
    port = pod.address[1]
    path = f"{PODS.path(pod.key.namespace, pod.name)}:{port}/proxy/metrics"
    try:
        async with asyncio.timeout(_PAGE_SECONDS):
            answer: object = await server.request("GET", path, accept=COMPACT_TYPE)
    except ApiError as error:
        if error.status == 403:
            seen.unseen["Pod proxies"] = (
                "you are not allowed to get pods/proxy, by which pages of plugins are looked at"
            )
            return None
        return Page(error.message or str(error), answered=error.status < 500)
    except CONNECTION_ERRORS as error:
        return Page(str(error) or f"no answer within {_PAGE_SECONDS:.0f} s", answered=False)
    except ValueError:
        return Page("no page of the plugin's")
    return Page() if isinstance(answer, list) else Page("no page of the plugin's")
