"""Which containers of a pod serve with vLLM, and on which port, as far as its own fields tell. Pure.

The webhook has to be sure before it changes an argument; here a wrong guess costs one look at a port, since only what
answers with vLLM's metrics counts.
"""

from __future__ import annotations

import re

from recommender.api.object_store import Raw
from vllm_plugin.names import ANNOTATION_CONTAINER

DEFAULT_PORT = 8000
_LARGEST_PORT = 65535
_SERVES = re.compile(r"\bvllm\s+serve\b|\bvllm\.entrypoints\.")
_PORT = re.compile(r"(?:^|\s)--port[=\s]\s*(\S+)")


def vllm_containers(pod: Raw) -> list[Raw]:
    """The container that the annotation names, else all that look like vLLM servers."""
    containers: list[Raw] = (pod.get("spec") or {}).get("containers") or []
    named = ((pod.get("metadata") or {}).get("annotations") or {}).get(ANNOTATION_CONTAINER)
    if named is not None:
        return [one for one in containers if one["name"] == named]
    return [one for one in containers if _serves(one)]


def vllm_port(container: Raw) -> int | None:
    """The port of vLLM's own page: that of its arguments, the last one counts; None where it cannot be known."""
    given = _PORT.findall(_command_line(container))
    if not given:
        return DEFAULT_PORT
    text = given[-1].strip("\"'")
    return int(text) if text.isdecimal() and 0 < int(text) <= _LARGEST_PORT else None


def _serves(container: Raw) -> bool:
    image = str(container.get("image") or "").rpartition("/")[2].partition("@")[0].partition(":")[0]
    # Our own control plane serves nothing.
    named = "vllm" in image and not image.startswith("vllm-rightsizer")
    return named or bool(_SERVES.search(_command_line(container)))


def _command_line(container: Raw) -> str:
    return " ".join(map(str, [*(container.get("command") or ()), *(container.get("args") or ())]))
