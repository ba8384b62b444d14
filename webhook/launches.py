"""What an argument vector starts: a vLLM engine with visible arguments, one with hidden arguments, or neither."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import StrEnum

from webhook.shells import simple_commands


class Form(StrEnum):
    """How the engine's arguments can be reached."""

    ARGUMENTS = "arguments"
    """In the vector itself, from `Launch.start` on: what is appended there reaches vLLM's parser."""
    HIDDEN = "hidden"
    """vLLM runs, but its arguments are made elsewhere (a shell string, a script): only the environment reaches it."""
    UNKNOWN = "unknown"
    """A program that may or may not start vLLM; the image has to tell."""
    OTHER = "other"
    """Something that is no vLLM engine."""


@dataclass(frozen=True)
class Launch:
    form: Form
    start: int | None = None
    """Index in the vector where vLLM's own arguments begin, where they are visible."""
    ignores_pythonpath: bool = False
    """The interpreter was told to leave its environment aside (`python -I`): no plugin can be brought in by it."""


_OTHER = Launch(Form.OTHER)
_HIDDEN = Launch(Form.HIDDEN)
_UNKNOWN = Launch(Form.UNKNOWN)

_ENGINE_SUBCOMMANDS = frozenset(("serve", "run-batch"))
_ENGINE_MODULES = frozenset(
    (
        "dynamo.vllm",
        "huggingfaceserver",
        "vllm.entrypoints.api_server",
        "vllm.entrypoints.grpc_server",
        "vllm.entrypoints.launchers.api_server.entry",
        "vllm.entrypoints.launchers.grpc_server",
        "vllm.entrypoints.launchers.run_batch",
        "vllm.entrypoints.openai.api_server",
        "vllm.entrypoints.openai.run_batch",
    )
)
_CLI_MODULES = frozenset(("vllm", "vllm.entrypoints.cli.main"))
_API_SERVER_SCRIPTS = frozenset(("api_server.py", "grpc_server.py"))
_SHELLS = frozenset(("sh", "bash", "dash", "ash", "zsh", "ksh"))
_SHELL_OPTIONS_WITH_VALUE = frozenset(("--rcfile", "--init-file"))
_PYTHON = re.compile(r"^python\d*(\.\d+)?$")
_PYTHON_OPTIONS_WITH_VALUE = ("-W", "-X", "--check-hash-based-pycs")
_WRAPPERS = frozenset(
    (
        "catatonit",
        "chrt",
        "conda",
        "ddtrace-run",
        "dumb-init",
        "env",
        "gosu",
        "ionice",
        "micromamba",
        "mpirun",
        "nice",
        "nohup",
        "nsys",
        "numactl",
        "opentelemetry-instrument",
        "pdm",
        "pixi",
        "poetry",
        "rye",
        "setsid",
        "stdbuf",
        "su-exec",
        "sudo",
        "taskset",
        "time",
        "timeout",
        "tini",
        "torchrun",
        "uv",
        "xvfb-run",
    )
)
"""Programs that start the program named further on in their arguments."""
_MAYBE = frozenset(("eval", "ray", "serve", "source", ".", "supervisord", "tritonserver"))
"""Programs behind which a vLLM may run, out of sight."""
_SCRIPT = re.compile(r"(\.(sh|bash|py)$|entrypoint|^(start|run|launch|serve)[\w-]*$)")
_NO_ENGINE = re.compile(r"bench|client|proxy|router|download|test", re.IGNORECASE)
_DEEPEST = 5


def launch_of(vector: Sequence[str], depth: int = 0) -> Launch:
    """What `vector` (command and args, as exec would get them) starts."""
    if not vector or depth > _DEEPEST:
        return _OTHER
    program = vector[0].rstrip("/").rpartition("/")[2]
    if " " in vector[0].strip():
        # A whole line in one item: KubeRay hands it to a shell.
        return _out_of_sight(_of_script(vector[0], (), depth))
    if program == "vllm":
        return _vllm(vector, 1)
    if program == "vllm-rs" and list(vector[1:2]) == ["serve"]:
        # vLLM's front end in Rust; which options it hands on to the engine is its own affair.
        return _HIDDEN
    if _PYTHON.match(program):
        return _python(vector)
    if program in _SHELLS or list(vector[:2]) == ["busybox", "sh"]:
        return _shell(vector, depth)
    if program in _WRAPPERS:
        return _wrapped(vector, depth)
    if program in _MAYBE or program.startswith("$"):
        return _UNKNOWN
    if _SCRIPT.search(program):
        return _script(vector[0])
    return _OTHER


def _vllm(vector: Sequence[str], at: int) -> Launch:
    if len(vector) > at and vector[at] in _ENGINE_SUBCOMMANDS:
        return Launch(Form.ARGUMENTS, at + 1)
    return _OTHER


def _script(path: str) -> Launch:
    """A script whose content is not visible: its path says vLLM, or the image has to tell."""
    if _NO_ENGINE.search(path):
        return _OTHER
    return _HIDDEN if "vllm" in path.lower() else _UNKNOWN


def _python(vector: Sequence[str]) -> Launch:
    at, ignores = 1, False
    while at < len(vector) and vector[at].startswith("-"):
        option = vector[at]
        if option.startswith("-m"):
            at += option == "-m"
            module = option[2:] or "".join(vector[at : at + 1])
            return replace(_module(vector, module, at + 1), ignores_pythonpath=ignores)
        if option.startswith("-c"):
            code = option[2:] or "".join(vector[at + 1 : at + 2])
            return replace(_HIDDEN if "vllm" in code else _OTHER, ignores_pythonpath=ignores)
        if not option.startswith("--") and ("I" in option or "E" in option):
            ignores = True
        at += 2 if option in _PYTHON_OPTIONS_WITH_VALUE else 1
    if at >= len(vector):
        return _OTHER
    path = vector[at]
    name = path.rpartition("/")[2]
    if name == "vllm":
        return replace(_vllm(vector, at + 1), ignores_pythonpath=ignores)
    if name in _API_SERVER_SCRIPTS:
        form = Form.ARGUMENTS if "vllm" in path else Form.UNKNOWN
        return Launch(form, at + 1, ignores)
    return replace(_script(path), ignores_pythonpath=ignores)


def _module(vector: Sequence[str], module: str, at: int) -> Launch:
    if module in _ENGINE_MODULES:
        return Launch(Form.ARGUMENTS, at)
    if module in _CLI_MODULES:
        return _vllm(vector, at)
    return _OTHER


def _wrapped(vector: Sequence[str], depth: int) -> Launch:
    """The first of the wrapper's arguments that is a program we know decides."""
    for at in range(1, len(vector)):
        name = vector[at].rpartition("/")[2]
        if name == "vllm" or _PYTHON.match(name) or name in _SHELLS or name in _MAYBE:
            return _shifted(launch_of(vector[at:], depth + 1), at)
    split = next((at for at, item in enumerate(vector) if item.startswith("-S") and vector[0].endswith("env")), None)
    if split is not None and "vllm" in " ".join(vector[split:]):
        return _HIDDEN
    last = vector[-1]
    return _script(last) if len(vector) > 1 and _SCRIPT.search(last.rpartition("/")[2]) else _OTHER


def _shell(vector: Sequence[str], depth: int) -> Launch:
    at = 2 if vector[0] == "busybox" else 1
    runs_string = False
    while at < len(vector) and vector[at][:1] in ("-", "+"):
        option = vector[at]
        at += 1
        if option in ("--", "-"):
            break
        if option.startswith("--"):
            at += option in _SHELL_OPTIONS_WITH_VALUE
            continue
        runs_string = runs_string or "c" in option[1:]
        # `-o pipefail`, also at the end of a bundle.
        at += option[-1] in "oO"
    if at >= len(vector):
        return _OTHER
    if not runs_string:
        return _script(vector[at])
    return _shifted(_of_script(vector[at], vector[at + 1 :], depth), at + 1)


def _of_script(script: str, positional: Sequence[str], depth: int) -> Launch:
    """What a shell string starts. `positional` is $0, $1, …: where the script hands `"$@"` on to vLLM as its last
    argument, those are vLLM's visible arguments.
    """
    found: list[Launch] = []
    for words in simple_commands(script):
        if words[0] == "shift" or (words[0] == "set" and "--" in words):
            # The positional parameters are no longer those of the vector.
            positional = ()
        if words == ["$@"] and len(positional) > 1:
            return _shifted(launch_of(positional[1:], depth + 1), 1)
        evaluated = simple_commands(" ".join(words[1:])) if words[0] == "eval" else []
        launch = launch_of(evaluated[0] if evaluated else words, depth + 1)
        if launch.form is Form.ARGUMENTS and not evaluated and words[-1] == "$@" and len(positional) > 0:
            found.append(replace(launch, start=1))
        else:
            found.append(_out_of_sight(launch))
    started = [launch for launch in found if launch.start is not None]
    if len(started) == 1:
        return started[0]
    # Of several engines in one script, only the environment reaches all.
    for form in (Form.ARGUMENTS, Form.HIDDEN, Form.UNKNOWN):
        for launch in found:
            if launch.form is form:
                return _out_of_sight(launch)
    return _OTHER


def _out_of_sight(launch: Launch) -> Launch:
    """The same launch, from inside a shell string: its arguments are not the vector's."""
    form = Form.HIDDEN if launch.form is Form.ARGUMENTS else launch.form
    return replace(launch, form=form, start=None)


def _shifted(launch: Launch, by: int) -> Launch:
    return launch if launch.start is None else replace(launch, start=launch.start + by)
