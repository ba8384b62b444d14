"""The two sizes with which the installed vLLM's own parser ends."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

_REFERENCE = re.compile(r"\$\(([^)]*)\)")
_NUMBER = "1"
"""Stands for what Kubernetes will put in from elsewhere; it is read as a number and as a name."""


@dataclass(frozen=True)
class Parsed:
    gpu_memory_utilization: float | None = None
    kv_cache_memory_bytes: int | None = None
    complaint: str | None = None
    """What the parser refuses: the author's options of another release, as a rule."""


class _RefusedError(Exception):
    """The parser cannot read the list at all."""


class SizesParser:
    """vLLM's parser for its API server. Options that this release does not know are passed over, and told."""

    def __init__(self) -> None:
        """Raises ImportError where no vLLM is installed."""
        from vllm.entrypoints.launchers.cli_args import make_arg_parser
        from vllm.utils.argparse_utils import FlexibleArgumentParser

        self._complaints: list[str] = []
        self._parser: Any = make_arg_parser(FlexibleArgumentParser())
        self._parser.error = self._refuse

    def parse(self, tokens: Sequence[str], environment: Mapping[str, str | None]) -> Parsed:
        self._complaints.clear()
        filled = [_filled(_filled(token, environment), environment) for token in tokens]
        try:
            values = self._parser.parse_args(filled)
        except (_RefusedError, ValueError) as error:
            return Parsed(complaint=str(error))
        return Parsed(values.gpu_memory_utilization, values.kv_cache_memory_bytes, "; ".join(self._complaints) or None)

    def _refuse(self, message: str) -> None:
        if not message.startswith("unrecognized arguments"):
            raise _RefusedError(message)
        self._complaints.append(message)


def _filled(text: str, environment: Mapping[str, str | None]) -> str:
    """`text` with the values that the pod tells in the place of its references; these may hold references again."""
    return _REFERENCE.sub(lambda found: environment.get(found[1]) or _NUMBER, text)
