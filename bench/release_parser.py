"""One vLLM release's own parser as a filter: an argument list a line in, what it makes of it a line out, both JSON.

Run by a Python that finds that release first on its path; nothing of it but the parser is used, so that the libraries
of another release do. It stands alone: nothing of this project is imported.
"""

from __future__ import annotations

import importlib
import json
import sys
from typing import Any

_PARSERS = ("vllm.entrypoints.launchers.cli_args", "vllm.entrypoints.openai.cli_args")
_FLEXIBLE = ("vllm.utils.argparse_utils", "vllm.utils")
_SIZES = ("gpu_memory_utilization", "kv_cache_memory_bytes")


class _RefusedError(Exception):
    """The parser cannot read the list."""


def _first(modules: tuple[str, ...], name: str) -> Any:
    for module in modules:
        try:
            return getattr(importlib.import_module(module), name)
        except (ImportError, AttributeError):
            continue
    raise ImportError(f"none of {', '.join(modules)} has {name}")


def _refuse(message: str) -> None:
    raise _RefusedError(message)


def _parser() -> Any:
    import vllm.platforms
    from vllm.platforms.cpu import CpuPlatform

    # Without its metadata a release does not know that it is built for the CPU, and the parser asks.
    vllm.platforms._current_platform = CpuPlatform()
    parser = _first(_PARSERS, "make_arg_parser")(_first(_FLEXIBLE, "FlexibleArgumentParser")())
    if not any(not action.option_strings for action in parser._actions):
        # `vllm serve` of such a release puts the model in front of the server's own options.
        parser.add_argument("model_tag", nargs="?")
    parser.error = _refuse
    return parser


def main() -> None:
    out = sys.stdout
    # What vLLM prints while it is imported is none of the answers.
    sys.stdout = sys.stderr
    parser = _parser()
    for line in sys.stdin:
        try:
            values = vars(parser.parse_args(json.loads(line)))
        except (_RefusedError, SystemExit, ValueError) as error:
            answer: dict[str, Any] = {"refused": str(error)}
        else:
            answer = {name: value if name in _SIZES else repr(value) for name, value in values.items()}
        print(json.dumps(answer), file=out, flush=True)


if __name__ == "__main__":
    main()
