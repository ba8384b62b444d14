"""What an argument vector starts: a vLLM engine with visible arguments, one with hidden arguments, or neither."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from types import MappingProxyType

from recommender.api.sizing_flags import sizing_flag
from webhook.effort import Reading
from webhook.programs import (
    API_SERVER_SCRIPTS,
    CLI_MODULES,
    ENGINE_SUBCOMMANDS,
    MAYBE,
    MODEL_SERVERS,
    PYTHON,
    RUST_FRONT_END,
    SHELLS,
    WRAPPERS,
    base_name,
    looks_like_script,
    runs_no_engine,
    sets_environment_only,
    speaks_of_vllm,
    takes_engine_options,
)
from webhook.shells import Script, read_script


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
    behind_separator: bool = False
    """Only what follows a `--` reaches the engine; before it stand the options of its front end."""


OTHER = Launch(Form.OTHER)
HIDDEN = Launch(Form.HIDDEN)
_UNKNOWN = Launch(Form.UNKNOWN)

Environment = Mapping[str, str]
_NOTHING_SET: Environment = MappingProxyType({})

_SHELL_OPTIONS_WITH_VALUE = frozenset(("--rcfile", "--init-file"))
_PYTHON_OPTIONS_WITH_VALUE = ("-W", "-X", "--check-hash-based-pycs")
_ALL_POSITIONAL = frozenset(("$@", "${@}"))
_SHELL_SYNTAX = re.compile(r"[\s;&|<>()#`$\\\"']")
_REFERENCE = re.compile(r"^\$\{?([A-Za-z_]\w*)\}?$")
_LOOKED_UP = re.compile(r"^\$\((?:which|command -v|type -p)\s+(\S+)\)$")
_VLLM_REQUIREMENT = re.compile(r"^vllm(-cpu|-tpu|-ascend|-omni)?($|[=<>~!\[@ ])")
_DEEPEST = 6
_FARTHEST = 64
"""Arguments of a wrapper among which the program is looked for."""
_COST_OF_ITEM = 4
"""Characters that could be read in the time that one item takes."""


def launch_of(vector: Sequence[str], environment: Environment = _NOTHING_SET, reading: Reading | None = None) -> Launch:
    """What `vector` (command and args, as exec would get them) starts.

    `environment`: the variables whose values the pod tells; a shell may take its command from one. Raises
    `TooLongError` where `reading` allows no more.
    """
    reading = reading or Reading()
    if not vector or reading.depth > _DEEPEST:
        return OTHER
    reading.effort.spend(_COST_OF_ITEM * len(vector) + sum(map(len, vector)))
    if " " in vector[0].strip():
        # A whole line in one item: KubeRay hands it to a shell.
        return _out_of_sight(_of_script(vector[0], (), environment, reading))
    program = base_name(vector[0])
    if program == "vllm":
        return _vllm(vector, 1)
    if program == RUST_FRONT_END and list(vector[1:2]) == ["serve"]:
        return Launch(Form.ARGUMENTS, 2, behind_separator=True)
    if PYTHON.match(program):
        return _python(vector)
    if program in SHELLS or list(vector[:2]) == ["busybox", "sh"]:
        return _shell(vector, environment, reading)
    if program in WRAPPERS:
        return _wrapped(vector, environment, reading)
    if program in MODEL_SERVERS or (program == "trl" and "vllm-serve" in vector):
        return HIDDEN
    if program in ("source", "."):
        path = "".join(vector[1:2])
        return OTHER if sets_environment_only(path) else _script(path)
    if program in MAYBE or program.startswith("$"):
        return _UNKNOWN
    return _script(vector[0]) if looks_like_script(program) else OTHER


def _vllm(vector: Sequence[str], at: int) -> Launch:
    if len(vector) > at and vector[at] in ENGINE_SUBCOMMANDS:
        return Launch(Form.ARGUMENTS, at + 1)
    return OTHER


def _script(path: str) -> Launch:
    """A script whose content is not visible: its path says vLLM, or the image has to tell."""
    # The folder counts too: `benchmarks/run.py`.
    if runs_no_engine("/".join(path.split("/")[-2:])):
        return OTHER
    return HIDDEN if "vllm" in path.lower() else _UNKNOWN


def _python(vector: Sequence[str]) -> Launch:
    at, ignores = 1, False
    while at < len(vector) and vector[at].startswith("-") and vector[at] != "-":
        option = vector[at]
        if option.startswith("-m"):
            at += option == "-m"
            module = option[2:] or "".join(vector[at : at + 1])
            return replace(_module(vector, module, at + 1), ignores_pythonpath=ignores)
        if option.startswith("-c"):
            code = option[2:] or "".join(vector[at + 1 : at + 2])
            return replace(HIDDEN if "vllm" in code else OTHER, ignores_pythonpath=ignores)
        if not option.startswith("--") and ("I" in option or "E" in option):
            ignores = True
        at += 2 if option in _PYTHON_OPTIONS_WITH_VALUE else 1
    if at >= len(vector):
        return OTHER
    path = vector[at]
    name = base_name(path)
    if name == "vllm":
        return replace(_vllm(vector, at + 1), ignores_pythonpath=ignores)
    if name in API_SERVER_SCRIPTS:
        form = Form.ARGUMENTS if "vllm" in path else Form.UNKNOWN
        return Launch(form, at + 1, ignores)
    return replace(_script(path), ignores_pythonpath=ignores)


def _module(vector: Sequence[str], module: str, at: int) -> Launch:
    if takes_engine_options(module):
        return Launch(Form.ARGUMENTS, at)
    if module in CLI_MODULES:
        return _vllm(vector, at)
    return HIDDEN if speaks_of_vllm(module) else OTHER


def _wrapped(vector: Sequence[str], environment: Environment, reading: Reading) -> Launch:
    """The first of the wrapper's arguments that starts something we know decides."""
    for at in range(1, min(len(vector), _FARTHEST)):
        name = base_name(vector[at])
        if name in ("vllm", RUST_FRONT_END) or PYTHON.match(name) or name in SHELLS or name in MAYBE:
            launch = launch_of(vector[at:], environment, reading.deeper())
            # `conda run -n vllm vllm serve`: a wrapper's own values may have the names of programs.
            if launch.form is not Form.OTHER:
                return _shifted(launch, at)
    split = next((at for at, item in enumerate(vector) if item.startswith("-S") and vector[0].endswith("env")), None)
    if split is not None and "vllm" in " ".join(vector[split:]):
        return HIDDEN
    # `flock FILE script.sh`, `torchrun --nproc-per-node=8 serve.py --port 1`
    scripts = [item for item in vector[1:] if looks_like_script(base_name(item)) and not item.startswith("-")]
    return _script(scripts[0]) if scripts else OTHER


def _shell(vector: Sequence[str], environment: Environment, reading: Reading) -> Launch:
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
        return OTHER
    if not runs_string:
        return _script(vector[at])
    return _shifted(_of_script(vector[at], vector[at + 1 :], environment, reading), at + 1)


def _of_script(text: str, positional: Sequence[str], environment: Environment, reading: Reading) -> Launch:
    """What a shell string starts. `positional` is $0, $1, …: where the script hands `"$@"` on to vLLM, those are
    vLLM's visible arguments.
    """
    if reading.depth > _DEEPEST:
        return OTHER
    reading.effort.spend(len(text) + len(environment))
    script = read_script(text)
    values = {**environment, **script.assignments}
    found: list[Launch] = []
    # What is said twice is looked at once: nobody may cost the webhook its time with `"$@"` in thousands.
    for words in map(list, dict.fromkeys(map(tuple, script.commands))):
        if words[0] == "shift" or (words[0] == "set" and "--" in words):
            # The positional parameters are no longer those of the vector.
            positional = ()
        launch, variable = _of_command(words, positional, values, reading)
        found.append(launch)
        # For the same reason each variable is followed once, and never from within another's value.
        values.pop(variable, None)
    if any(launch.form is Form.UNKNOWN for launch in found) and _brings_vllm(script):
        found.append(HIDDEN)
    started = [launch for launch in found if launch.start is not None]
    if len(started) == 1:
        return started[0]
    # Of several engines in one script, only the environment reaches all.
    for form in (Form.ARGUMENTS, Form.HIDDEN, Form.UNKNOWN):
        for launch in found:
            if launch.form is form:
                return _out_of_sight(launch)
    return OTHER


def _of_command(
    words: list[str], positional: Sequence[str], values: Environment, reading: Reading
) -> tuple[Launch, str]:
    """What one command of a script starts, `start` counting from $0; and the variable that it took the program from."""
    if words[0] == "eval" and len(words) > 1:
        # The shell reads what it put together once more, so that only words without syntax pass as they are.
        line = " ".join(words[1:])
        reading.effort.spend(len(line) + _COST_OF_ITEM * len(positional) + sum(map(len, positional)))
        words = next(iter(read_script(line).commands), [""])
        if _ALL_POSITIONAL.intersection(words) and any(map(_SHELL_SYNTAX.search, positional[1:])):
            positional = ()
    if len(words) == 1 and words[0] in _ALL_POSITIONAL and len(positional) > 1:
        return _shifted(launch_of(positional[1:], _NOTHING_SET, reading.deeper()), 1), ""
    looked_up = _LOOKED_UP.match(words[0])
    if looked_up is not None:
        words = [looked_up.group(1), *words[1:]]
    reference = _REFERENCE.match(words[0])
    if reference is not None and values.get(reference.group(1), "").strip():
        line = " ".join([values[reference.group(1)], *words[1:]])
        return _out_of_sight(_of_script(line, (), _NOTHING_SET, reading.deeper())), reference.group(1)
    launch = launch_of(words, _NOTHING_SET, reading.deeper())
    if launch.form is Form.ARGUMENTS and launch.start is not None and positional and not launch.behind_separator:
        at = next((at for at, word in enumerate(words) if word in _ALL_POSITIONAL), None)
        if at is not None and at >= launch.start and _leaves_sizes_alone(words[at + 1 :]):
            return replace(launch, start=1), ""
    return _out_of_sight(launch), ""


def _leaves_sizes_alone(words: Sequence[str]) -> bool:
    """None of the words behind `"$@"`, which beat what stands in it, sets a size or may turn out to."""
    return not any(word.startswith("$") or word == "--" or sizing_flag(word) for word in words)


def _brings_vllm(script: Script) -> bool:
    """The script installs vLLM, or imports it in a program that stands in the script itself."""
    for words in script.commands:
        if words[:2] in (["from", "vllm"], ["import", "vllm"]):
            return True
        if "install" in words and any(_VLLM_REQUIREMENT.match(word) for word in words):
            return True
    return False


def _out_of_sight(launch: Launch) -> Launch:
    """The same launch, from inside a shell string: its arguments are not the vector's."""
    form = Form.HIDDEN if launch.form is Form.ARGUMENTS else launch.form
    return replace(launch, form=form, start=None, behind_separator=False)


def _shifted(launch: Launch, by: int) -> Launch:
    return launch if launch.start is None else replace(launch, start=launch.start + by)
