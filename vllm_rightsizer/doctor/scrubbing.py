"""Objects of the API server without what nobody else is to see. Pure."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from typing import Any

from vllm_plugin.names import ANNOTATION_ORIGINAL_ARGS, GROUP
from vllm_rightsizer.doctor.confidential_names import (
    HIDDEN,
    is_confidential,
    is_login,
    is_plain,
    is_set,
    program_of,
    set_of,
    tells_nothing,
    words_of,
)
from vllm_rightsizer.doctor.confidential_texts import without_secrets, without_tokens

LEFT_OUT = """\
What is not in this bundle:
- Secrets: none was kept; of the webhook's, only the public certificate was looked at, and it is not here either.
- Values of environment variables of all containers, literal ones and references: their names are here.
- Values in commands, arguments, JSON, XML, messages and logs behind a name that has a word such as key, token, secret,
  password, auth or header in it, where a sign such as "=" or ":" stands between them, the name is an option's, or the
  words "set" or "ENV" stand before it; and what follows "the password is". The names themselves are here. Numbers of
  tokens, names of files, labels, and names of Secrets in Kubernetes' own fields are kept.
- What the short options for users, passwords, headers and cookies of curl, docker login, sshpass, mysql, mariadb and
  redis-cli are given.
- Users and passwords in addresses, and what stands behind the "?" of an address, but for numbers and what the
  Kubernetes API, Prometheus and registries take there.
- Private keys as PEM, and what looks like a token or a registry's login by itself.
- Annotations of others, arguments as they were before the webhook changed them, headers of probes, managed fields.
- ConfigMaps' contents; Pods of namespaces that have not opted in; objects of kinds that are not ours.
What nobody can tell from a word is not found: a password alone in a script, what short options of other programs are
given, the rest of a password with blanks where no quotes are around it, a token that is a word of sentences. Look
through it before you hand it on.
"""
_KEPT_ANNOTATIONS = (
    f"{GROUP}/",
    "scaleops.sh/",
    "argocd.argoproj.io/",
    "cert-manager.io/inject-ca-from",
    "meta.helm.sh/",
)
_DROPPED = ("managedFields", "httpHeaders", "envFrom")
_NAMES_OF_KUBERNETES = set_of(
    "credentialBundlePath imagePullSecrets key keys matchLabelKeys mismatchLabelKeys "
    "secretName secrets tokenRequests topologyKey x-kubernetes-list-map-keys"
)
"""Fields that hold names of Secrets and labels, or are made of such fields."""
_LABELS = ("labels", "matchLabels", "nodeSelector", "selector")
_OF_DRIVERS = ("volumeAttributes", "options")
"""Below these drivers of volumes say what is where."""
_OPTION = re.compile(r"-{1,2}[\w.-]+\+?")
_OPTION_WITH_VALUE = re.compile(r"(-{1,2}[\w.-]+\+?=)(.*)", re.DOTALL)
_LETTER_WITH_VALUE = re.compile(r"(-[A-Za-z]*?[abpuHU])(.+)", re.DOTALL)
_RECORD = re.compile(r"((?:\d{4}-\d\d-\d\dT\S{1,40} )?)(\{.*\})\s*", re.DOTALL)


def scrubbed(value: Any) -> Any:
    """A copy of an object, or a part of one, without what nobody else is to see; see `LEFT_OUT`."""
    return _scrubbed(value, _NAMES_OF_KUBERNETES)


def scrubbed_each(values: Iterable[Any]) -> list[Any]:
    """One that cannot be read as it should is left out whole, and the others stay."""
    found: list[Any] = []
    for value in values:
        try:
            found.append(scrubbed(value))
        except Exception as error:  # whatever it is, it stands in a stranger's cluster
            found.append({"leftOut": f"it cannot be read: {type(error).__name__}"})
    return found


def scrubbed_log(lines: Iterable[str]) -> str:
    """Lines of JSON one by one, what stands between them as one text: a key in PEM has many lines."""
    found: list[str] = []
    between: list[str] = []

    def finish() -> None:
        if between:
            found.append(without_secrets("\n".join(between)))
            between.clear()

    for line in lines:
        record = _RECORD.fullmatch(line)
        left = _json_scrubbed(record[2]) if record is not None else None
        if record is None or left is None:
            between.append(line)
        else:
            finish()
            found.append(f"{record[1]}{left}")
    finish()
    return "".join(f"{text}\n" for text in found)


def _scrubbed(value: Any, kept: frozenset[str]) -> Any:
    """`kept`: confidential names that are fields here."""
    if isinstance(value, list):
        texts = bool(value) and all(isinstance(one, str) for one in value)
        return _arguments(value) if texts else [_scrubbed(one, kept) for one in value]
    if isinstance(value, str):
        return _text(value)
    if not isinstance(value, dict):
        return value
    found: dict[str, Any] = {}
    named = next((value[name] for name in ("name", "key") if isinstance(value.get(name), str)), "")
    for key, inner in value.items():
        if key in _DROPPED:
            continue
        if key == "env":
            left: Any = _environment(inner)
        elif key == "annotations":
            left = _annotations(inner)
        elif key in ("command", "args") and isinstance(inner, list):
            command = value.get("command") if key == "args" else None
            left = _arguments(_texts(inner), _texts(command) if isinstance(command, list) else ())
        elif kept and key in _LABELS and _is_of_texts(inner):
            left = {without_tokens(name): without_tokens(one) for name, one in inner.items()}
        elif _is_hidden(key, inner, kept) or (key == "value" and is_confidential(named)):
            left = HIDDEN
        else:
            left = _scrubbed(inner, frozenset() if key in _OF_DRIVERS else kept)
        found[without_tokens(key)] = left
    return found


def _is_of_texts(value: Any) -> bool:
    return isinstance(value, dict) and all(isinstance(one, str) for one in value.values())


def _texts(values: Iterable[Any]) -> list[str]:
    return [str(one) for one in values]


def _environment(value: Any) -> Any:
    """Names without values, also where a Python `dict` or a vLLM option holds them."""
    if isinstance(value, list):
        return [{"name": one.get("name") if isinstance(one, dict) else None, "value": HIDDEN} for one in value]
    if isinstance(value, dict):
        return dict.fromkeys(value, HIDDEN)
    return value and HIDDEN


def _annotations(value: Any) -> Any:
    if not isinstance(value, dict):
        return value and HIDDEN
    kept = {name: text for name, text in value.items() if name.startswith(_KEPT_ANNOTATIONS)}
    return {name: _text(str(text)) for name, text in kept.items() if name != ANNOTATION_ORIGINAL_ARGS}


def _is_hidden(name: str, value: Any, kept: frozenset[str]) -> bool:
    if kept and (isinstance(value, dict) or name in kept):
        # Fields of Kubernetes have fields of their own, which are looked at one by one.
        return False
    if value is None or isinstance(value, bool) or not is_confidential(name):
        return False
    return not tells_nothing(name, value if isinstance(value, str) else json.dumps(value, default=str))


def _arguments(arguments: Sequence[str], command: Sequence[str] = ()) -> list[str]:
    """`--api-key value` in two items, too; vLLM takes several values there.

    `command` stands before `arguments`: its program says what their options are.
    """
    given = [*command, *arguments]
    found: list[str] = []
    behind, several, program = "", False, ""
    for at, one in enumerate(given):
        option = _OPTION_WITH_VALUE.fullmatch(one)
        # No value of an option begins as a long option does.
        if behind and not one.startswith("-" if found[-1] == HIDDEN else "--"):
            found.append(one if tells_nothing(behind, one) else HIDDEN)
            behind = behind if several else ""
            continue
        if at > 0 and is_login(program, given[at - 1], one):
            found.append(HIDDEN)
            continue
        letter = _LETTER_WITH_VALUE.fullmatch(one) if program else None
        if letter is not None and is_login(program, letter[1], letter[2]):
            found.append(f"{letter[1]}{HIDDEN}")
            continue
        program = program_of(one) or program
        behind = one if is_confidential(one) and _has_value(given, at) else ""
        several = words_of(behind)[:1] == ["api"]
        if option is None:
            found.append(_text(one))
        elif is_confidential(option[1][:-1]):
            found.append(one if tells_nothing(option[1][:-1], option[2]) else f"{option[1]}{HIDDEN}")
        else:
            left = _json_scrubbed(option[2])
            found.append(_text(one) if left is None else f"{option[1]}{left}")
    return found[len(command) :]


def _has_value(given: Sequence[str], at: int) -> bool:
    """Whether what stands behind a confidential name is its value."""
    if _OPTION.fullmatch(given[at]):
        return True
    value = given[at + 1] if at + 1 < len(given) else ""
    return is_set(given[at], " ".join([*given[max(0, at - 3) : at], ""]), value) and not is_plain(given[at], value)


def _text(text: str) -> str:
    left = _json_scrubbed(text)
    return without_secrets(text) if left is None else left


def _json_scrubbed(text: str) -> str | None:
    """JSON by its structure, as it was where nothing is left out; None where it is none that can be trusted."""
    if not text.lstrip().startswith(("{", "[")):
        return None
    try:
        value = json.loads(text, object_pairs_hook=_without_repetition)
        left = _scrubbed(value, frozenset())
    except (ValueError, RecursionError):
        return None
    return text if left == value else json.dumps(left, ensure_ascii=False)


def _without_repetition(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Of a name that stands there twice the first value would never be looked at."""
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a name stands there twice")
    return found
