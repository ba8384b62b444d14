"""What the doctor knows of a cluster: gathered once, then only read. Pure."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cached_property
from typing import Any

from cryptography import x509

from recommender.api.automation import Automation, resolve_automation
from recommender.api.objects import InvalidObjectError
from recommender.api.owner_groups import CustomOwnerGroup
from recommender.api.owners import WORKLOAD_KINDS
from recommender.api.policies import CLUSTER_AUTOMATION_NAME, ClusterAutomation
from recommender.api.scopes import Scope, scope_of
from recommender.discovery import Census, Discovery, Pod, census_of, discover
from recommender.listed_objects import ListedObjects
from vllm_plugin.names import GROUP

Raw = dict[str, Any]
Name = tuple[str, str]
"""Namespace and name."""

CONFIGURATION = "MutatingWebhookConfiguration"
ALL_DEPLOYMENTS = "Deployments of all namespaces"
"""In `Facts.unseen`. The kind alone stands there for those of our own namespace."""
WEBHOOK, RECOMMENDER = "webhook", "recommender"
"""The two servers, as their command line calls them."""


@dataclass(frozen=True)
class Probe:
    """What became of a vLLM pod that was only tried: `marked` by the webhook, or `refused`, with a sentence.

    `left_out`: the webhook's own words where it has left the plugin out. `at`: by the clock of the API server.
    `taken_without_us`: of a refused one, whether the webhook's own changes are why. `plugin_map`: the ConfigMap that it
    was to mount; `lost`: it is marked, and what the plugin was to come from is gone again.
    """

    namespace: str
    marked: bool = False
    refused: str | None = None
    left_out: str | None = None
    at: datetime | None = None
    taken_without_us: bool = False
    plugin_map: str | None = None
    lost: bool = False


@dataclass(frozen=True)
class Page:
    """What answered for a plugin's page through the API server; `trouble` where that was no such page."""

    trouble: str | None = None
    answered: bool = True
    """Something did, a page of ours or not."""
    hooks_off: Mapping[str, int] = field(default_factory=dict)
    """Hooks without which its figures stand still, and that are off: each with its number of errors."""
    vllm_version: str = ""


@dataclass(frozen=True, order=True)
class Right:
    """One verb that a service account of ours needs. `namespace` is empty where it is needed in all."""

    component: str
    group: str
    resource: str
    verb: str
    namespace: str = ""
    name: str = ""


@dataclass(frozen=True)
class Facts:
    """`namespace`: that of our servers. `objects` by kind; `unseen`: what could not be looked at, and why; `absent`:
    kinds that the API server does not serve. `pages` by namespace, pod and container. `leaf`: the served certificate,
    `between` those served with it. `lease_moves`: whether somebody renews the Lease; None where there is none to be
    looked at. `unready`: what servers of ours that are not ready say of themselves, by pod. `environments`: ConfigMaps
    that silent pods take variables from, as far as these variables are known here.
    """

    now: datetime
    namespace: str
    objects: Mapping[str, Sequence[Raw]] = field(default_factory=dict)
    unseen: Mapping[str, str] = field(default_factory=dict)
    absent: frozenset[str] = frozenset()
    probe: Probe | None = None
    lacking: tuple[Right, ...] = ()
    pages: Mapping[tuple[str, str, str], Page] = field(default_factory=dict)
    leaf: x509.Certificate | None = None
    between: tuple[x509.Certificate, ...] = ()
    lease_moves: bool | None = None
    unready: Mapping[str, str] = field(default_factory=dict)
    environments: Mapping[Name, Mapping[str, str]] = field(default_factory=dict)

    def of(self, kind: str, namespace: str | None = None) -> list[Raw]:
        return [raw for raw in self.objects.get(kind, ()) if namespace in (None, raw["metadata"].get("namespace"))]

    def one(self, kind: str, name: str, namespace: str | None = None) -> Raw | None:
        """The first of that name, in `namespace` or in any."""
        if kind not in self._by_name:
            by_name = self._by_name[kind] = dict[str, list[Raw]]()
            for raw in self.of(kind):
                by_name.setdefault(raw["metadata"]["name"], []).append(raw)
        found = self._by_name[kind].get(name, ())
        return next((raw for raw in found if namespace in (None, raw["metadata"].get("namespace"))), None)

    @cached_property
    def _by_name(self) -> dict[str, dict[str, list[Raw]]]:
        """By kind, those that were asked for: of ten thousand pods each is looked up."""
        return {}

    @cached_property
    def configurations(self) -> list[Raw]:
        """Those with a webhook of ours in them."""
        return [raw for raw in self.of(CONFIGURATION) if webhooks_of(raw)]

    @cached_property
    def own_configurations(self) -> list[Raw]:
        """Those of them that call our servers: one of a former installation calls others."""
        called = [(raw, service_of(raw)) for raw in self.configurations]
        return [raw for raw, service in called if service is None or service[0] == self.namespace]

    @cached_property
    def scope(self) -> Scope:
        """Which namespaces the webhook is called for, by its own selector; the recommender is told the same, for whom
        may not see that, or where it is not there."""
        recommender = self.deployment(RECOMMENDER)
        if recommender is not None and option(recommender, "scope", Scope.OPT_IN) == Scope.OPT_OUT:
            return Scope.OPT_OUT
        webhooks = (webhook for raw in self.own_configurations for webhook in webhooks_of(raw))
        return Scope.OPT_OUT if Scope.OPT_OUT in map(scope_of, webhooks) else Scope.OPT_IN

    @cached_property
    def census(self) -> Census:
        kinds = (*WORKLOAD_KINDS, "Pod", "Namespace")
        listed = ListedObjects({kind: self.objects.get(kind, ()) for kind in kinds})
        return census_of(listed, self.scope, self.namespace)

    @cached_property
    def pods(self) -> Discovery:
        """vLLM pods of opted-in namespaces, with the plugin and without."""
        return discover(self.census, self._owner_groups)

    def automation_of(self, pod: Pod) -> Automation:
        """What a pod and its owners say by annotations, in any spelling; what they leave open is not filled in."""
        above = self.pods.ownership.annotations(pod.key.namespace, pod.owner or pod.key.workload)
        return resolve_automation(pod.annotations, above, None, None)

    @property
    def _owner_groups(self) -> Sequence[CustomOwnerGroup]:
        """Recommendations are named by the workloads that these make."""
        automation = self.one(ClusterAutomation.KIND, CLUSTER_AUTOMATION_NAME)
        try:
            spec = ClusterAutomation.from_json(automation).spec if automation is not None else None
        except InvalidObjectError:
            # The recommender says so, by the condition `Valid`.
            return ()
        return (spec.custom_owner_groups or ()) if spec is not None else ()

    @cached_property
    def opted_in(self) -> list[str]:
        """Namespaces whose pods the webhook is called for."""
        return sorted(self.census.opted_in)

    def deployment(self, component: str) -> Raw | None:
        """Our server's, found by what it runs: a release may call it as it likes."""
        return next((raw for raw in self.of("Deployment", self.namespace) if component in arguments(raw)[:1]), None)

    @property
    def way(self) -> str | None:
        """How the webhook brings the plugin into pods; None where it is not to be seen."""
        deployment = self.deployment(WEBHOOK)
        return option(deployment, "injection", "config-map") if deployment is not None else None

    @property
    def injects(self) -> bool:
        """Whether the webhook is to bring the plugin into pods at all."""
        return self.way != "none"

    @property
    def probe_came_back_bare(self) -> bool:
        """The vLLM pod that was tried is as if nobody had asked the webhook, which was to bring the plugin."""
        probe = self.probe
        return (
            self.injects
            and probe is not None
            and not (probe.marked or probe.refused is not None or probe.left_out is not None)
        )

    def pods_of(self, deployment: Raw) -> list[Raw]:
        wanted = deployment["spec"]["selector"].get("matchLabels") or {}
        return [pod for pod in self.of("Pod", self.namespace) if wanted.items() <= labels(pod).items()]

    def pod(self, namespace: str, name: str) -> Raw:
        found = self.one("Pod", name, namespace)
        assert found is not None, "pods are known from this list"
        return found


def webhooks_of(configuration: Raw) -> list[Raw]:
    """Those in it that are ours."""
    return [one for one in configuration.get("webhooks") or () if str(one.get("name")).endswith(f".{GROUP}")]


def fails_open(webhook: Raw) -> bool:
    """Whether pods are taken while it does not answer."""
    return bool(webhook.get("failurePolicy") == "Ignore")


def service_of(configuration: Raw) -> Name | None:
    """The Service by which the API server calls us."""
    for webhook in webhooks_of(configuration):
        service = (webhook.get("clientConfig") or {}).get("service")
        if service:
            return str(service["namespace"]), str(service["name"])
    return None


def bundle_of(webhook: Raw) -> tuple[x509.Certificate, ...]:
    """The published authorities; none where nothing can be read."""
    try:
        return tuple(x509.load_pem_x509_certificates(base64.b64decode(webhook["clientConfig"].get("caBundle") or "")))
    except ValueError:
        return ()


def arguments(deployment: Raw) -> list[str]:
    """Of the first container."""
    containers = deployment["spec"]["template"]["spec"].get("containers") or [{}]
    return [str(one) for one in containers[0].get("args") or ()]


def option(deployment: Raw, name: str, default: str) -> str:
    """The value of `--name=value` on its command line."""
    given = [one.partition("=")[2] for one in arguments(deployment) if one.startswith(f"--{name}=")]
    return given[-1] if given else default


def labels(raw: Raw) -> Mapping[str, str]:
    return raw["metadata"].get("labels") or {}


def annotations_of(raw: Raw) -> Mapping[str, str]:
    return raw["metadata"].get("annotations") or {}


def condition(raw: Raw, type_: str) -> Raw | None:
    found = (raw.get("status") or {}).get("conditions") or ()
    return next((one for one in found if one.get("type") == type_), None)


def titled(raw: Raw, kind: str = "") -> str:
    """`Kind namespace/name`."""
    metadata = raw["metadata"]
    where = f"{metadata['namespace']}/" if metadata.get("namespace") else ""
    return f"{kind or raw.get('kind', 'object')} {where}{metadata['name']}"


def moment(text: str) -> datetime:
    """A time as the API server writes it."""
    return datetime.fromisoformat(text).astimezone(UTC)
