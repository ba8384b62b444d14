"""Do vLLM pods have the plugin, and does it speak? Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Set
from dataclasses import replace

from recommender.api.recommendations import PLUGIN_REPORTING, VLLMRecommendation
from recommender.api.workloads import recommendation_name
from recommender.conditions import ESTIMATED
from recommender.discovery import NOT_ADMITTED, Pod
from vllm_rightsizer.doctor.facts import RECOMMENDER, Facts, Raw, condition
from vllm_rightsizer.doctor.findings import Finding, Severity
from vllm_rightsizer.doctor.fixes import excluded, logs, started_anew
from vllm_rightsizer.doctor.silence import silence
from webhook.detection import detect

_COUNTED = re.compile(r"(\d+) of (\d+) pods report")
_NAMED = re.compile(r"\bpod (\S+):")
_UNMEASURED = "it is not measured, and what is not measured is not sized"


def plugin_map_missing(facts: Facts) -> Iterator[Finding]:
    """The ConfigMap that carries the plugin, in each opted-in namespace: the one that the webhook has pods mount now,
    where a pod that was tried tells which."""
    if facts.way not in (None, "config-map") or {"ConfigMap", "Deployment"} & facts.unseen.keys():
        return
    mounted = facts.probe.plugin_map if facts.probe is not None else None
    there = {(raw["metadata"]["namespace"], raw["metadata"]["name"]) for raw in facts.of("ConfigMap")}
    with_any = {namespace for namespace, _ in there}
    lacking = [
        namespace
        for namespace in facts.opted_in
        if namespace not in with_any or (mounted is not None and (namespace, mounted) not in there)
    ]
    if lacking:
        former = f", {mounted}, is not there; that of another version is" if lacking[0] in with_any else " is not there"
        yield Finding(
            "PluginMapMissing",
            Severity.WARNING,
            f"Namespace {lacking[0]}" + (f" and {len(lacking) - 1} more" if lacking[1:] else ""),
            f"the ConfigMap with the plugin{former}",
            "pods that start there start without the plugin; the recommender makes it within seconds",
            logs(facts, RECOMMENDER),
        )


def pods_without_plugin(facts: Facts) -> Iterator[Finding]:
    if facts.injects:
        yield from _grouped(_without_plugin(facts))


def _without_plugin(facts: Facts) -> Iterator[tuple[Pod, Finding]]:
    for pod in facts.pods.bare:
        assert pod.missing is not None, "they are bare"
        if not detect(facts.pod(pod.key.namespace, pod.name)).engines:
            # Here a guess is not enough: the webhook would leave it alone.
            continue
        about = f"Pod {pod.key.namespace}/{pod.name}"
        if pod.missing.reason == NOT_ADMITTED:
            seen, fix = _older_than_opt_in(facts, pod), started_anew(pod)
            yield pod, Finding("PodNotAdmitted", Severity.WARNING, about, seen, _UNMEASURED, fix)
        else:
            seen = f"the webhook left the plugin out: {pod.missing.message}"
            why = f"{_UNMEASURED}: change what is named here, or leave the workload out for good, as the command does"
            yield pod, Finding("PluginRefused", Severity.WARNING, about, seen, why, excluded(pod))


def _grouped(found: Iterable[tuple[Pod, Finding]]) -> Iterator[Finding]:
    """One finding for all pods of a workload of which the same is to be said."""
    by_workload: dict[tuple[object, ...], list[Finding]] = {}
    for pod, finding in found:
        by_workload.setdefault((pod.key, finding.name, finding.seen), []).append(finding)
    for first, *others in by_workload.values():
        yield replace(first, about=f"{first.about} and {len(others)} more of its workload") if others else first


def _older_than_opt_in(facts: Facts, pod: Pod) -> str:
    """Kubernetes does not say when a label was set, but for whoever sets it by server-side apply or kubectl label."""
    namespace = facts.one("Namespace", pod.key.namespace)
    for manager in (namespace or {"metadata": {}})["metadata"].get("managedFields") or ():
        fields = ((manager.get("fieldsV1") or {}).get("f:metadata") or {}).get("f:labels") or {}
        if "f:vllm-rightsizer.io/inject" in fields:
            created = facts.pod(pod.key.namespace, pod.name)["metadata"].get("creationTimestamp", "")
            if created < manager.get("time", ""):
                return "it is without the plugin, and older than the opt-in of its namespace"
    return "it is without the plugin: the webhook did not answer when it started, or the namespace opted in later"


def plugin_silent(facts: Facts) -> Iterator[Finding]:
    """Ready pods with the plugin whose page nobody reaches."""
    yield from _grouped(_silent(facts))


def _silent(facts: Facts) -> Iterator[tuple[Pod, Finding]]:
    for pod, said in _not_heard(facts):
        page = facts.pages.get((pod.key.namespace, pod.name, pod.key.container))
        name, seen, fix = silence(facts, pod, page, said)
        about = f"Pod {pod.key.namespace}/{pod.name}"
        yield pod, Finding(name, Severity.WARNING, about, f"container {pod.key.container}: {seen}", _UNMEASURED, fix)


def silent_pods(facts: Facts) -> list[Pod]:
    """Those that `plugin_silent` is about."""
    return [pod for pod, _ in _not_heard(facts)]


def _not_heard(facts: Facts) -> Iterator[tuple[Pod, str]]:
    """Each with the recommender's words about its workload."""
    there = {pod.name for pod in facts.pods.injected}
    reached = {namespace for (namespace, _, _), page in facts.pages.items() if page.answered}
    for pod in facts.pods.injected:
        page, said = facts.pages.get((pod.key.namespace, pod.name, pod.key.container)), _said(facts, pod)
        heard, message = None if _is_of_former_pods(there, said) else _reported(said), str((said or {}).get("message"))
        # Of a page that does not come, where no other comes either, the network may be the reason: it keeps the API
        # server from pods. The recommender's own word decides.
        blind = VLLMRecommendation.KIND in facts.unseen or pod.key.namespace not in reached
        unknown = page is None or (not page.answered and blind and pod.name not in _NAMED.findall(message))
        speaks = unknown or (page is not None and page.trouble is None and not page.hooks_off)
        if pod.ready and pod.address is not None and not (pod.excluded or heard or (speaks and heard is None)):
            yield pod, message


def _said(facts: Facts, pod: Pod) -> Raw | None:
    """The recommender's condition about the pods of its workload."""
    found = facts.one(
        VLLMRecommendation.KIND, recommendation_name(pod.key.workload, pod.key.container), pod.key.namespace
    )
    return condition(found, PLUGIN_REPORTING) if found is not None else None


def _is_of_former_pods(there: Set[str], said: Raw | None) -> bool:
    """Until the recommender's next round the condition speaks of pods that are gone."""
    named = set(_NAMED.findall(str((said or {}).get("message"))))
    return bool(named) and named.isdisjoint(there)


def _reported(said: Raw | None) -> bool | None:
    """Whether the recommender hears of all pods of a workload, or of none; None where it does not say."""
    if said is None:
        return None
    if said["status"] == "True":
        counted = _COUNTED.match(str(said.get("message")))
        return True if counted is None or counted[1] == counted[2] else None
    # Others are those of pods that do not run yet.
    return False if said.get("reason") in ("ScrapeFailed", ESTIMATED) else None
