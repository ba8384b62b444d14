"""Standard output, where what a command makes goes."""

from __future__ import annotations

import csv
import io
import json
import os
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from vllm_rightsizer.errors import UserError


def write_out(text: str) -> None:
    """Print `text` whole. Raises `UserError` where there is no room for it, and BrokenPipeError as it is."""
    try:
        sys.stdout.write(text)
        sys.stdout.flush()
    except BrokenPipeError:
        raise
    except OSError as error:
        # What is left in the buffer would be tried, and complained about, once more at the end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise UserError(f"the output cannot be written ({error.strerror}): make room, or send it elsewhere") from error


def write_document(document: Any, *, as_yaml: bool) -> None:
    """Print a value of JSON types, as JSON or as YAML. Raises as `write_out`."""
    if not as_yaml:
        write_out(f"{json.dumps(document, indent=2)}\n")
        return
    write_out(yaml_of([document]))


def csv_of(lines: Sequence[Mapping[str, Any]], *, headed: bool = True) -> str:
    """A line for each of `lines`, below the names of the fields unless `headed` is false: amounts as plain numbers.
    Of no lines nothing."""
    text = io.StringIO()
    if lines:
        writer = csv.DictWriter(text, list(lines[0]), lineterminator="\n")
        if headed:
            writer.writeheader()
        writer.writerows(lines)
    return text.getvalue()


def yaml_of(documents: Sequence[Any]) -> str:
    """Values of JSON types as YAML, one document each."""
    # It takes a while to be brought in.
    from ruamel.yaml import YAML

    yaml = YAML()
    yaml.width = 120
    yaml.indent(mapping=2, sequence=4, offset=2)
    # Lists that happen to be equal are written twice, not referred to.
    yaml.representer.ignore_aliases = lambda _data: True
    text = io.StringIO()
    yaml.dump_all(documents, text)
    return text.getvalue()
