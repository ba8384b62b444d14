"""All that is changed in one pod, as one patch: the plugin, the sizes, and the record of both."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from webhook.argv import without
from webhook.choices import Choices
from webhook.detection import Engine
from webhook.emitted_edits import write_emission
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
    choices: Choices,
    settings: InjectionSettings,
) -> Change:
    """Bring the plugin into `engines`, write what was chosen for each, and record it on the pod."""
    patch = Patch(pod)
    inject(pod, engines, patch, settings)
    earlier = applied(pod)
    done: dict[str, list[str]] = {}
    originals: dict[str, list[str]] = {}
    for engine in engines:
        choice = choices.engines[engine.name]
        if isinstance(choice, Skipped):
            if engine.name in earlier:
                # What an earlier pass applied does not hold any more, or the pod is a copy of one that was admitted.
                write_sizes(engine, patch, Sizes(), earlier[engine.name])
            continue
        previous = earlier.get(engine.name, ())
        write_sizes(engine, patch, choice, previous)
        if choice.flags:
            originals[engine.name] = without(engine.arguments.vector, previous)
        done[engine.name] = choice.shown
    write_emission(pod, engines, patch, choices.emitter, choices.emission)
    record(pod, patch, done, originals, [choice.reason for choice in choices.skipped])
    add_init_container(pod, patch, settings)
    return Change(tuple(patch.operations), done)
