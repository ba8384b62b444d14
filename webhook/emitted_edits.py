"""The edits that put a pod's share of a GPU in its scheduler's words, and the record of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from recommender.api.sharing import Emitted, Place, as_written, emitted_of, value_at
from vllm_plugin.names import ANNOTATION_EMITTED
from webhook.detection import Engine
from webhook.emitters.requests import Emission
from webhook.patches import Patch, Raw

_RECORD = ("metadata", "annotations", ANNOTATION_EMITTED)


def write_emission(pod: Raw, engines: Sequence[Engine], patch: Patch, emitter: str, emission: Emission | None) -> None:
    """Add to `patch` what `emission` asks for; what an earlier pass wrote in other words goes back to what it was."""
    earlier = emitted_of(pod)
    if earlier is None and emission is None:
        return
    written = as_written(pod)
    targets: dict[tuple[str | None, Place], Any] = {}
    for edit in earlier.edits if earlier is not None else ():
        targets[edit.container, edit.place] = value_at(written, edit.container, edit.place)
    for edit in emission.edits if emission is not None else ():
        targets[edit.container, edit.place] = edit.now
    paths = {engine.name: engine.path for engine in engines}
    for (container, place), value in targets.items():
        if container is not None and container not in paths:
            continue
        path = (*paths[container], *place) if container is not None else place
        if value is not None:
            patch.put(path, value)
        elif value_at(pod, container, place) is not None:
            patch.remove(path)
    if emission is not None:
        patch.put(_RECORD, Emitted(emitter, emission.largest_bytes, emission.edits).to_text())
    else:
        patch.remove(_RECORD)
