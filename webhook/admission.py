"""What is done to a pod at its creation: a pure function of the request and of what the webhook knows."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from recommender.api.scopes import is_mirror
from recommender.api.workloads import workload_of
from webhook.changes import change_pod
from webhook.choices import choose, only_shown
from webhook.detection import Engine, detect
from webhook.injection import refusal
from webhook.knowledge import Knowledge
from webhook.misspellings import misspelt
from webhook.patches import Patch, Raw
from webhook.records import applied, record
from webhook.reviews import Outcome, Reason, answer, uid_of
from webhook.settings import InjectionSettings

logger = logging.getLogger(__name__)


def admit(review: object, knowledge: Knowledge | None, settings: InjectionSettings) -> Raw:
    """The AdmissionReview that answers `review`. Never raises, and always lets the pod through."""
    return answer(review, decide(review, knowledge, settings))


def decide(review: object, knowledge: Knowledge | None, settings: InjectionSettings) -> Outcome:
    """What is done about `review`. An error of ours is an outcome too: the pod then starts as its author wrote it."""
    try:
        return _decide(review, knowledge, settings)
    except Exception as error:
        logger.exception("the pod is left as it is", extra={"uid": uid_of(review)})
        message = f"the pod is left as it is: {type(error).__name__}: {error}"
        return Outcome(Reason.ERROR, message, warnings=(f"{message}; see the webhook's log",))


def _decide(review: object, knowledge: Knowledge | None, settings: InjectionSettings) -> Outcome:
    request = review.get("request") if isinstance(review, dict) else None
    if not isinstance(request, dict):
        message = "the AdmissionReview has no request: send one with request.uid and request.object"
        return Outcome(Reason.NO_REQUEST, message, warnings=(message,))
    if request.get("operation", "CREATE") != "CREATE" or request.get("subResource"):
        return Outcome(Reason.NOT_CREATE, "only pods that are being created are changed")
    pod = request.get("object")
    if not isinstance(pod, dict) or not _is_pod(request, pod):
        return Outcome(Reason.NOT_A_POD, "only pods are changed; workloads stay as they are")
    if is_mirror(pod.get("metadata") or {}):
        return Outcome(Reason.NOT_A_POD, "a mirror pod cannot be changed")
    if knowledge is None:
        message = "the webhook has just started and knows nothing yet; the pod is left as it is"
        return Outcome(Reason.NOT_READY, message, warnings=(message,))
    namespace = request.get("namespace") or (pod.get("metadata") or {}).get("namespace") or ""
    return decide_pod(pod, namespace, knowledge, settings)


def decide_pod(pod: Raw, namespace: str, knowledge: Knowledge, settings: InjectionSettings) -> Outcome:
    """What is done to one pod that is being created."""
    if settings.way == "none":
        return Outcome(Reason.OFF, "the plugin is brought in nowhere, and what is not measured is not sized")
    workload = knowledge.workload(namespace, pod)
    # A group of the user's own need not be an object: what is said about a pod is said by the owners that it has.
    automation = knowledge.automation(namespace, workload_of(pod), _annotations(pod))
    if automation.excluded or knowledge.excluded(namespace, pod):
        return Outcome(Reason.EXCLUDED, f"{workload} is excluded by annotation")
    detection = detect(pod)
    if detection.unread:
        return Outcome(Reason.UNREAD, detection.reason, warnings=(detection.reason,))
    if not detection.engines:
        # Only an annotation that names a container wrongly is somebody's mistake.
        warnings = (detection.reason,) if detection.mistaken else ()
        return Outcome(Reason.NOT_VLLM, detection.reason, warnings=warnings)
    refused = refusal(pod, detection.engines, settings)
    if refused is not None:
        # What cannot be measured is not sized either.
        patch = Patch(pod)
        record(pod, patch, {}, {}, [f"no plugin: {refused}"])
        message = f"the plugin is not brought in and nothing is sized: {refused}"
        return Outcome(Reason.REFUSED, message, tuple(patch.operations), (message,))
    earlier = applied(pod)
    wanted = choose(pod, detection.engines, namespace, workload, knowledge, automation, earlier)
    choices = only_shown(wanted, detection.engines, earlier) if knowledge.only_shown(automation) else wanted
    change = change_pod(pod, detection.engines, choices, settings)
    skipped = choices.skipped
    done = [f"{name}: {' '.join(items)}" for name, items in change.applied.items()]
    if choices.emission is not None:
        done.append(f"{choices.emitter}: {', '.join(choices.emission.shown)}")
    if done:
        reason = Reason.APPLIED
    elif choices.engines != wanted.engines:
        reason = Reason.DRY_RUN
    else:
        reason = Reason.INJECTED
    return Outcome(
        reason,
        "; ".join([*done, *(choice.reason for choice in skipped)]),
        change.operations,
        (*(choice.reason for choice in skipped if choice.warns), *refused_options(detection.engines)),
    )


def refused_options(engines: Sequence[Engine]) -> list[str]:
    """What the authors of `engines` misspelt; they have to mend it, since vLLM will not start with it."""
    return [f"{engine.name}: {sentence}" for engine in engines for sentence in misspelt(engine.arguments.vector)]


def _is_pod(request: Raw, pod: Raw) -> bool:
    kind = request.get("kind")
    if isinstance(kind, dict) and (kind.get("kind") != "Pod" or kind.get("group")):
        return False
    return pod.get("kind", "Pod") == "Pod" and isinstance(pod.get("spec"), dict)


def _annotations(pod: Raw) -> dict[str, str]:
    return (pod.get("metadata") or {}).get("annotations") or {}
