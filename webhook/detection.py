"""Which of a pod's containers are vLLM engines."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from recommender.api.sizing_flags import GPU_MEMORY_UTILIZATION, sizing_flag
from vllm_plugin.names import ANNOTATION_CONTAINER
from webhook.argv import Arguments
from webhook.images import hides_arguments, runs_vllm, serves_with_vllm
from webhook.launches import Form, Launch, launch_of
from webhook.patches import Path, Raw

_HIDDEN = Launch(Form.HIDDEN)
_ACCELERATORS = ("/gpu", "/tpu", "/gpumem", "/gpu-mem", "/vgpu-number", "/i915", "/xe", "/mig-")


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


def detect(pod: Raw) -> Detection:
    """Find the vLLM containers of `pod`.

    The annotation `vllm-rightsizer.io/container` settles it. Otherwise command and arguments decide, and the image
    where they leave it open. Init containers count as sidecars (`restartPolicy: Always`) only: others end before
    anything is served.
    """
    annotations = (pod.get("metadata") or {}).get("annotations") or {}
    named = annotations.get(ANNOTATION_CONTAINER)
    found: list[Engine] = []
    for path, container in _containers(pod):
        if named and container.get("name") != named:
            continue
        launch = _launch(container)
        if named and launch.form is Form.OTHER:
            launch = _HIDDEN
        if launch.form in (Form.ARGUMENTS, Form.HIDDEN):
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


def _launch(container: Raw) -> Launch:
    """How `container` starts vLLM; `OTHER` where it does not, or where nobody can tell."""
    arguments = arguments_of(container)
    image = str(container.get("image") or "")
    if not arguments.command:
        return _from_image(container, image, arguments.args)
    launch = launch_of(arguments.command + arguments.args)
    if launch.form is not Form.UNKNOWN:
        return launch
    if launch.start is not None and runs_vllm(image):
        return Launch(Form.ARGUMENTS, launch.start, launch.ignores_pythonpath)
    return _guess(container, image, arguments, launch)


def _from_image(container: Raw, image: str, args: tuple[str, ...]) -> Launch:
    """No command: the image's entrypoint runs, with `args` or with the image's own."""
    if not args:
        # The image's CMD may hold all of vLLM's options, and an args list would displace it.
        likely = runs_vllm(image) or serves_with_vllm(image)
        return _HIDDEN if likely and _asks_for_accelerator(container) else Launch(Form.OTHER)
    launch = launch_of(args)
    if launch.form in (Form.ARGUMENTS, Form.HIDDEN):
        # An entrypoint that runs what it is given, as tini does and NVIDIA's images do.
        return launch
    if not runs_vllm(image) or hides_arguments(image):
        return _guess(container, image, Arguments((), args), launch)
    if args[0] == "serve":
        return Launch(Form.ARGUMENTS, 1)
    if args[0].startswith("-") or _is_model(args[0]):
        return Launch(Form.ARGUMENTS, 0)
    return launch


def _is_model(word: str) -> bool:
    """`word` names a model (`org/name`, a path, a reference) rather than a program that an entrypoint would run."""
    return ("/" in word or word.startswith("$(")) and not word.endswith((".sh", ".bash", ".py"))


def _guess(container: Raw, image: str, arguments: Arguments, launch: Launch) -> Launch:
    """A program that may start vLLM out of sight: does the image, an option or the environment say so?"""
    sized = any(sizing_flag(token) == GPU_MEMORY_UTILIZATION for token in arguments.vector)
    told = any(str(entry.get("name", "")).startswith("VLLM_") for entry in container.get("env") or ())
    likely = serves_with_vllm(image) and (_asks_for_accelerator(container) or told)
    if sized or likely or (told and runs_vllm(image)):
        return Launch(Form.HIDDEN, ignores_pythonpath=launch.ignores_pythonpath)
    return Launch(Form.OTHER)


def _asks_for_accelerator(container: Raw) -> bool:
    resources = container.get("resources") or {}
    names = {*(resources.get("requests") or {}), *(resources.get("limits") or {})}
    return any(mark in name for name in names for mark in _ACCELERATORS)


def _strings(value: Any) -> tuple[str, ...]:
    return tuple(str(item) for item in value or ())
