"""All that is changed in one pod, as one patch: the plugin, the sizes, and the record of both."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from webhook.detection import Engine
from webhook.injection import add_init_container, inject
from webhook.patches import Patch, Raw
from webhook.records import applied, record
from webhook.settings import InjectionSettings
from webhook.size_edits import write_sizes
from webhook.sizes import Sizes, Skipped


@dataclass(frozen=True)
class Change:
    """The patch, and what it applies to which container."""

    operations: tuple[Raw, ...]
    applied: Mapping[str, Sequence[str]]


def change_pod(
    pod: Raw,
    engines: Sequence[Engine],
    choices: Mapping[str, Sizes | Skipped],
    settings: InjectionSettings,
) -> Change:
    """Bring the plugin into `engines`, write what was chosen for each, and record it on the pod."""
    patch = Patch(pod)
    inject(pod, engines, patch, settings)
    earlier = applied(pod)
    done: dict[str, list[str]] = {}
    originals: dict[str, list[str]] = {}
    skipped: list[str] = []
    for engine in engines:
        choice = choices[engine.name]
        if isinstance(choice, Skipped):
            skipped.append(choice.reason)
            if engine.name in earlier:
                # What an earlier pass applied does not hold any more, or the pod is a copy of one that was admitted.
                write_sizes(engine, patch, Sizes(), earlier[engine.name])
            continue
        if write_sizes(engine, patch, choice, earlier.get(engine.name, ())):
            originals[engine.name] = list(engine.arguments.vector)
        done[engine.name] = choice.shown
    record(pod, patch, done, originals, skipped)
    add_init_container(pod, patch, settings)
    return Change(tuple(patch.operations), done)
