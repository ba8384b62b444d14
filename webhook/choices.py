"""What the engines of one pod are to start with, taken together: their sizes, and their share of a GPU."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from recommender.api.automation import Automation
from recommender.api.sharing import as_written
from recommender.api.workloads import WorkloadRef, is_of_group
from vllm_plugin.names import ANNOTATION_AUTO
from webhook.detection import Engine
from webhook.emitters import emission_for
from webhook.emitters.requests import Asked, Declined, Emission
from webhook.knowledge import Knowledge, Recommended
from webhook.patches import Raw
from webhook.sizes import Sizes, Skipped, sizes_for, unfit_reason, why_not


@dataclass(frozen=True)
class Choices:
    """For each engine by name its sizes, or why there are none; and what is asked of the GPU scheduler."""

    engines: Mapping[str, Sizes | Skipped]
    emitter: str = "none"
    emission: Emission | None = None
    declined: Declined | None = None
    """Why the emitter that somebody chose writes nothing."""

    @property
    def skipped(self) -> list[Skipped]:
        """What is not done, and why."""
        found = [choice for choice in self.engines.values() if isinstance(choice, Skipped)]
        if self.declined is not None:
            found.append(Skipped(f"no emitter: {self.declined.reason}", self.declined.mistaken))
        return found


def choose(
    pod: Raw,
    engines: Sequence[Engine],
    namespace: str,
    workload: WorkloadRef,
    knowledge: Knowledge,
    automation: Automation,
    earlier: Mapping[str, Sequence[str]],
) -> Choices:
    """What `engines` are to start with. `earlier`: what a pass before this one applied to each."""
    if not automation.enabled:
        why = f'automation is off ({automation.enabled_source}); {ANNOTATION_AUTO}: "true" turns it on'
        return Choices({engine.name: Skipped(why) for engine in engines})
    held_back = _held_back(pod, namespace, workload, knowledge)
    if held_back is not None:
        return Choices({engine.name: Skipped(held_back) for engine in engines})
    fit: dict[str, Recommended] = {}
    skipped: dict[str, Skipped] = {}
    for engine in engines:
        recommended = knowledge.recommended(namespace, workload, engine.name)
        if recommended is None:
            skipped[engine.name] = Skipped("there is no recommendation for this workload and container yet")
            continue
        reason = why_not(pod, engine, recommended, automation, earlier.get(engine.name, ()))
        if reason is not None:
            skipped[engine.name] = reason
        else:
            fit[engine.name] = recommended
    emission = _emission(pod, engines, fit, automation.emitter) if fit else None
    written = emission if isinstance(emission, Emission) else None
    return Choices(
        {
            engine.name: skipped.get(engine.name)
            or sizes_for(pod, engine, fit[engine.name], earlier.get(engine.name, ()), written)
            for engine in engines
        },
        automation.emitter,
        written,
        emission if isinstance(emission, Declined) else None,
    )


def only_shown(choices: Choices, engines: Sequence[Engine], earlier: Mapping[str, Sequence[str]]) -> Choices:
    """In a dry run the sizes become sentences."""
    shares = choices.emission.shown if choices.emission is not None else ()
    shown: dict[str, Sizes | Skipped] = {}
    for engine in engines:
        choice = choices.engines[engine.name]
        if isinstance(choice, Sizes):
            lines = choice.diff(engine, earlier.get(engine.name, ()), shares)
            choice = Skipped(f"DryRun: {engine.name} would change: {' '.join(lines)}", warns=True)
        shown[engine.name] = choice
    return Choices(shown, declined=choices.declined)


def _held_back(pod: Raw, namespace: str, workload: WorkloadRef, knowledge: Knowledge) -> str | None:
    """Why no pod of a group is sized: leader and workers form one engine, all of them are rewritten or none."""
    if not is_of_group(pod):
        return None
    for (there, whose, container), recommended in knowledge.recommendations.items():
        # The name first: there are thousands, and whole references take long to compare.
        if whose.name == workload.name and there == namespace and whose == workload:
            reason = unfit_reason(recommended)
            if reason is not None:
                return f"the pods of {workload} start alike: {reason} ({container})"
    return None


def _emission(
    pod: Raw, engines: Sequence[Engine], fit: Mapping[str, Recommended], emitter: str
) -> Emission | Declined | None:
    if emitter == "none":
        return None
    if len(fit) < len(engines):
        return Declined("not all of the pod's engines are sized, and their GPUs are shared out together")
    if is_of_group(pod):
        return Declined("the pods of a group hold whole GPUs: one of them cannot tell whether the others get a share")
    written = as_written(pod)
    asked = [
        Asked(
            replace(engine, container=_container(written, engine)),
            fit[engine.name].allocation_bytes,
            fit[engine.name].largest_gpu_bytes,
            fit[engine.name].name,
            engine.path[1:] == ("containers", 0),
            fit[engine.name].claim_template,
        )
        for engine in engines
    ]
    return emission_for(written, asked, emitter)


def _container(pod: Raw, engine: Engine) -> Raw:
    _, kind, at = engine.path
    found: Raw = pod["spec"][kind][at]
    return found
