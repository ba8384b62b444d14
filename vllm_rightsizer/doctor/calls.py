"""Does the API server call the webhook, and does it come to nobody's harm? Pure."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta

from recommender.api.scopes import DISABLED
from vllm_plugin.names import LABEL_INJECT
from vllm_rightsizer.doctor.facts import (
    CONFIGURATION,
    WEBHOOK,
    Facts,
    Raw,
    annotations_of,
    bundle_of,
    fails_open,
    option,
    titled,
    webhooks_of,
)
from vllm_rightsizer.doctor.findings import Finding, Severity
from vllm_rightsizer.doctor.fixes import WAYS_BY_IMAGE, brought_by_map, logs, restarted, restored
from vllm_rightsizer.doctor.servers import runs
from webhook.pairs import valid, verifies

_CERTIFICATE = "cert-manager.io/inject-ca-from"
_UNMODIFIED = "the API server cannot call the webhook: pods start unmodified, without a word"
NEAR_EXPIRY = timedelta(days=14)
"""A leaf is renewed when a third of its ninety days is left; cert-manager's often later."""
_NEAR_SHARE = 5
"""Of a short life this part: an issuer may give leaves for a day, which are renewed in time."""


def configuration_missing(facts: Facts) -> Iterator[Finding]:
    if not facts.configurations and CONFIGURATION not in facts.unseen:
        why = "the API server calls no webhook of ours: pods start unmodified"
        fix = restored(facts, WEBHOOK, "configuration")
        yield Finding("ConfigurationMissing", Severity.CRITICAL, CONFIGURATION, "there is none of ours", why, fix)


def configurations_several(facts: Facts) -> Iterator[Finding]:
    named = [(raw["metadata"]["name"], webhook) for raw in facts.configurations for webhook in webhooks_of(raw)]
    if len(named) < 2:
        return
    # The one whose Service lies with our servers stays.
    other = next(
        (name for name, one in named if _namespace(one) != facts.namespace),
        named[-1][0],
    )
    seen = f"{len(named)} webhooks of ours: {', '.join(sorted({name for name, _ in named}))}"
    why = "two installations change the same pods, each as it sees them"
    fix = f"kubectl delete mutatingwebhookconfiguration {other}"
    yield Finding("SeveralWebhooks", Severity.WARNING, f"{CONFIGURATION} {other}", seen, why, fix)


def _namespace(webhook: dict[str, object]) -> object:
    config = webhook.get("clientConfig")
    service = config.get("service") if isinstance(config, dict) else None
    return service.get("namespace") if isinstance(service, dict) else None


def failure_policy(facts: Facts) -> Iterator[Finding]:
    for raw in facts.configurations:
        for number, webhook in enumerate(raw["webhooks"]):
            if webhook in webhooks_of(raw) and not fails_open(webhook):
                patch = f'[{{"op":"replace","path":"/webhooks/{number}/failurePolicy","value":"Ignore"}}]'
                yield Finding(
                    "FailurePolicyChanged",
                    Severity.CRITICAL,
                    titled(raw, CONFIGURATION),
                    f"failurePolicy is {webhook.get('failurePolicy')}",
                    "while the webhook does not answer, no pod can be created in any opted-in namespace",
                    f"kubectl patch mutatingwebhookconfiguration {raw['metadata']['name']} --type=json -p '{patch}'",
                )


def authority_missing(facts: Facts) -> Iterator[Finding]:
    # Who does not run has not published anything yet.
    if not runs(facts, WEBHOOK):
        return
    for raw in facts.own_configurations:
        for webhook in webhooks_of(raw):
            if not bundle_of(webhook):
                said = (webhook.get("clientConfig") or {}).get("caBundle")
                seen = "caBundle cannot be read" if said else "caBundle is empty"
                fix = _published_anew(facts, raw)
                yield Finding("AuthorityMissing", Severity.CRITICAL, titled(raw, CONFIGURATION), seen, _UNMODIFIED, fix)


def authority_wrong(facts: Facts) -> Iterator[Finding]:
    """The caBundle does not verify the leaf, though both are valid by the clock."""
    leaf = facts.leaf
    if leaf is None or not valid(leaf, facts.now):
        return
    for raw in facts.own_configurations:
        for webhook in webhooks_of(raw):
            bundle = bundle_of(webhook)
            if bundle and not verifies(leaf, bundle, facts.now, facts.between):
                issuer = leaf.issuer.rfc4514_string()
                seen = f"caBundle does not verify the webhook's certificate, which {issuer} has issued"
                fix = _published_anew(facts, raw)
                yield Finding("AuthorityWrong", Severity.CRITICAL, titled(raw, CONFIGURATION), seen, _UNMODIFIED, fix)


def certificate_ends(facts: Facts) -> Iterator[Finding]:
    if facts.leaf is None:
        return
    end = facts.leaf.not_valid_after_utc
    about = f"certificate of the webhook in {facts.namespace}"
    if not valid(facts.leaf, facts.now):
        begins = facts.leaf.not_valid_before_utc
        seen = f"it ended at {end:%Y-%m-%d %H:%M}" if end <= facts.now else f"it begins at {begins:%Y-%m-%d %H:%M}"
        fix = _renewed(facts) or restarted(facts, WEBHOOK)
        yield Finding("CertificateExpired", Severity.CRITICAL, about, seen, _UNMODIFIED, fix)
    elif end - facts.now < min(NEAR_EXPIRY, (end - facts.leaf.not_valid_before_utc) / _NEAR_SHARE):
        seen = f"it ends at {end:%Y-%m-%d %H:%M}, and was not renewed"
        why = "when it has ended, pods start unmodified"
        fix = _renewed(facts) or logs(facts, WEBHOOK)
        yield Finding("CertificateEnds", Severity.WARNING, about, seen, why, fix)


def _published_anew(facts: Facts, configuration: Raw) -> str:
    """Whoever publishes the authority does so again: the webhook itself, or cert-manager's injector."""
    if not _by_cert_manager(facts):
        return restarted(facts, WEBHOOK)
    return _described(configuration) or restored(facts, WEBHOOK, "configuration")


def _renewed(facts: Facts) -> str | None:
    """Where cert-manager issues the certificate, what it says of that; None where the webhook issues it itself."""
    if not _by_cert_manager(facts):
        return None
    return next(filter(None, map(_described, facts.configurations)), None)


def _by_cert_manager(facts: Facts) -> bool:
    deployment = facts.deployment(WEBHOOK)
    return deployment is not None and bool(option(deployment, "tls-dir", ""))


def _described(configuration: Raw) -> str | None:
    namespace, _, name = annotations_of(configuration).get(_CERTIFICATE, "").partition("/")
    return f"kubectl -n {namespace} describe certificates.cert-manager.io {name}" if name else None


def webhook_unreachable(facts: Facts) -> Iterator[Finding]:
    if facts.probe is None or not facts.probe_came_back_bare:
        return
    if facts.configurations or CONFIGURATION in facts.unseen:
        yield Finding(
            "WebhookUnreachable",
            Severity.CRITICAL,
            f"Namespace {facts.probe.namespace}",
            "a vLLM pod that was tried there (--dry-run=server) came back without the plugin",
            "the API server does not reach the webhook within its two seconds (a firewall between control plane and "
            "pods?), or the webhook does not know enough yet",
            logs(facts, WEBHOOK),
        )


def probe_left_out(facts: Facts) -> Iterator[Finding]:
    """The webhook was called, and has answered."""
    probe = facts.probe
    if probe is not None and not probe.marked and probe.left_out is not None:
        seen = f"of a vLLM pod that was tried there (--dry-run=server) the webhook says: {probe.left_out}"
        why = "something there changes pods before the webhook sees them, so that it leaves the plugin out"
        fix = "kubectl get mutatingwebhookconfigurations"
        yield Finding("ProbeLeftOut", Severity.WARNING, f"Namespace {probe.namespace}", seen, why, fix)


def probe_refused(facts: Facts) -> Iterator[Finding]:
    probe = facts.probe
    if probe is None or probe.refused is None:
        return
    about = f"Namespace {probe.namespace}"
    if not probe.taken_without_us:
        why = "whether the webhook is called could not be tried"
        fix = f"kubectl auth can-i create pods --namespace={probe.namespace}"
        yield Finding("ProbeRefused", Severity.NOTE, about, probe.refused, why, fix)
        return
    why = "without what the webhook adds it is taken: no vLLM pod can be created there; "
    if facts.way in WAYS_BY_IMAGE:
        why += "bring the plugin in by ConfigMap, or have whoever refuses it let it pass"
        fix = brought_by_map(facts)
    else:
        why += "have whoever refuses it let it pass, or leave the namespace out, as the command does"
        fix = f"kubectl label --overwrite namespace {probe.namespace} {LABEL_INJECT}={DISABLED}"
    yield Finding("ProbeRefused", Severity.CRITICAL, about, probe.refused, why, fix)


def plugin_lost(facts: Facts) -> Iterator[Finding]:
    """The webhook's volume is not in the pod that was tried, or nothing is in the volume."""
    probe = facts.probe
    if probe is None or not probe.lost:
        return
    seen = "a vLLM pod that was tried there (--dry-run=server) came back marked, and without the volume of the plugin"
    why = "pods start without the plugin, and nothing is measured: "
    if facts.way == "image-volume":
        why += "the API server takes no images as volumes, as before Kubernetes 1.35"
        fix = brought_by_map(facts)
    else:
        why += "something takes the volume out again after the webhook"
        fix = "kubectl get mutatingwebhookconfigurations"
    yield Finding("PluginLost", Severity.CRITICAL, f"Namespace {probe.namespace}", seen, why, fix)
