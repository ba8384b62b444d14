"""Which of a pod's containers are vLLM engines."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from vllm_plugin.names import ANNOTATION_CONTAINER
from webhook.argv import Arguments
from webhook.effort import Effort, Reading, TooLongError
from webhook.hints import looks_like_engine_options, speaks_for_vllm, starts_vllm_by_itself
from webhook.images import hides_arguments, runs_vllm
from webhook.launches import HIDDEN, OTHER, Form, Launch, launch_of
from webhook.patches import Path, Raw

_KUBERNETES_REFERENCE = re.compile(r"(?<!\$)\$\(([A-Za-z_.-][\w.-]*)\)")

_LONGEST = 8 * 1024
_MOST = 16
"""Characters of one value, references of one item, for reading only."""
_COST_OF_ITEM = 32
"""Characters that could be read in the time that an argument, a variable or a container takes in all."""
MOST_ENGINES = 8
"""As many as a node has GPUs."""


@dataclass(frozen=True)
class Engine:
    """A container that runs vLLM: where it stands in the pod, and how its arguments are reached."""

    name: str
    path: Path
    container: Raw
    arguments: Arguments
    launch: Launch


@dataclass(frozen=True)
class Detection:
    """The engines of a pod, in its order; where there is none, `reason` says why."""

    engines: tuple[Engine, ...]
    reason: str = ""
    mistaken: bool = False
    """An annotation of the pod names a container that is not there."""
    unread: bool = False
    """The pod holds more than can be read in time."""


def detect(pod: Raw) -> Detection:
    """Find the vLLM containers of `pod`.

    The annotation `vllm-rightsizer.io/container` settles it. Otherwise command and arguments decide, and the image
    where they leave it open. Init containers count as sidecars (`restartPolicy: Always`) only: others end before
    anything is served.
    """
    try:
        return _detect(pod, Effort())
    except TooLongError as error:
        return Detection((), f"the pod is left as it is: {error}", unread=True)


def _detect(pod: Raw, effort: Effort) -> Detection:
    annotations = (pod.get("metadata") or {}).get("annotations") or {}
    named = annotations.get(ANNOTATION_CONTAINER)
    found: list[Engine] = []
    for path, container in _containers(pod):
        if named and container.get("name") != named:
            continue
        launch = _launch(container, effort)
        if named and launch.form is Form.OTHER:
            launch = HIDDEN
        if launch.form in (Form.ARGUMENTS, Form.HIDDEN):
            if len(found) == MOST_ENGINES:
                raise TooLongError(f"more than {MOST_ENGINES} of its containers start vLLM")
            found.append(Engine(str(container.get("name")), path, container, arguments_of(container), launch))
    if found:
        return Detection(tuple(found))
    if named:
        return Detection((), f"the pod has no container {named!r}: correct the annotation {ANNOTATION_CONTAINER}", True)
    return Detection((), "no container of the pod starts vLLM")


def arguments_of(container: Raw) -> Arguments:
    """The container's command and args; an empty list is the same as none."""
    return Arguments(_strings(container.get("command")), _strings(container.get("args")))


def variable(container: Raw, name: str) -> Raw | None:
    """The container's environment variable `name` as written; of several the last one, which wins."""
    found: Raw | None = None
    for entry in container.get("env") or ():
        if entry.get("name") == name:
            found = entry
    return found


def _containers(pod: Raw) -> Iterator[tuple[Path, Raw]]:
    spec = pod.get("spec") or {}
    for at, container in enumerate(spec.get("initContainers") or ()):
        if container.get("restartPolicy") == "Always":
            yield ("spec", "initContainers", at), container
    for at, container in enumerate(spec.get("containers") or ()):
        yield ("spec", "containers", at), container


def _launch(container: Raw, effort: Effort) -> Launch:
    """How `container` starts vLLM; `OTHER` where it does not, or where nobody can tell."""
    effort.spend(_COST_OF_ITEM * (1 + sum(len(container.get(key) or ()) for key in ("command", "args", "env"))))
    values = _told_values(container)
    as_written = arguments_of(container)
    effort.spend(sum(map(len, as_written.vector)) + sum(len(name) + len(value) for name, value in values.items()))
    # Kubernetes puts values in before anything starts; an item stays one item, so that positions hold.
    arguments = Arguments(_filled(as_written.command, values, effort), _filled(as_written.args, values, effort))
    if "huggingface" in (_option(arguments.vector, "--backend") or ""):
        # KServe's server then runs transformers alone, and drops vLLM's options in silence.
        return OTHER
    image = str(container.get("image") or "")
    if not arguments.command:
        return _from_image(container, image, arguments, values, effort)
    launch = launch_of(arguments.vector, values, Reading(effort))
    if launch.form is not Form.UNKNOWN:
        return launch
    if launch.start is not None and runs_vllm(image):
        return Launch(Form.ARGUMENTS, launch.start, launch.ignores_pythonpath)
    return _guess(container, arguments, launch)


def _from_image(container: Raw, image: str, arguments: Arguments, values: Mapping[str, str], effort: Effort) -> Launch:
    """No command: the image's entrypoint runs, with the pod's `args` or with the image's own."""
    args = arguments.args
    if not args:
        # The image's CMD may hold all of vLLM's options, and an args list would displace it.
        return HIDDEN if starts_vllm_by_itself(container) else OTHER
    launch = launch_of(args, values, Reading(effort))
    if launch.form in (Form.ARGUMENTS, Form.HIDDEN):
        # An entrypoint that runs what it is given, as tini does and NVIDIA's images do.
        return launch
    if not runs_vllm(image) or hides_arguments(image):
        if launch.form is Form.UNKNOWN or args[0].startswith("-") or _is_model(args[0]):
            return _guess(container, arguments, launch)
        return OTHER
    if args[0] == "serve":
        return Launch(Form.ARGUMENTS, 1)
    if _is_model(args[0]) or (args[0].startswith("-") and looks_like_engine_options(args)):
        return Launch(Form.ARGUMENTS, 0)
    return OTHER if launch.form is Form.OTHER else _guess(container, arguments, launch)


def _is_model(word: str) -> bool:
    """`word` names a model (`org/name`, a path, a reference) rather than a program that an entrypoint would run."""
    return ("/" in word or word.startswith("$(")) and not word.endswith((".sh", ".bash", ".py"))


def _guess(container: Raw, arguments: Arguments, launch: Launch) -> Launch:
    """A program that may start vLLM out of sight."""
    if speaks_for_vllm(container, arguments):
        return Launch(Form.HIDDEN, ignores_pythonpath=launch.ignores_pythonpath)
    return OTHER


def _told_values(container: Raw) -> dict[str, str]:
    """The variables whose values stand in the pod."""
    return {
        str(entry.get("name")): str(entry["value"])
        for entry in container.get("env") or ()
        if entry.get("value") is not None
    }


def _filled(tokens: tuple[str, ...], values: Mapping[str, str], effort: Effort) -> tuple[str, ...]:
    """`tokens` with the values put in, as far as they stay short: nobody may make the webhook write out gigabytes."""
    filled: list[str] = []
    for token in tokens:
        text = token
        if "$(" in token:
            text = _KUBERNETES_REFERENCE.sub(lambda found: values.get(found[1], found[0])[:_LONGEST], token, _MOST)
            effort.spend(len(text))
        filled.append(text)
    return tuple(filled)


def _option(tokens: tuple[str, ...], name: str) -> str | None:
    """The value of the option `name`, in one piece or in two."""
    for at, token in enumerate(tokens):
        if token.startswith(f"{name}="):
            return token.partition("=")[2]
        if token == name:
            return "".join(tokens[at + 1 : at + 2])
    return None


def _strings(value: Any) -> tuple[str, ...]:
    if value is not None and not isinstance(value, list):
        raise TypeError(f"command and args are lists, not {type(value).__name__}")
    return tuple(str(item) for item in value or ())
