"""`vllm-rightsizer crds`: the custom resource definitions as YAML, printed or as the files of a folder."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from recommender.api.crds import definitions
from vllm_rightsizer.errors import UsageError

_HEADING = "# Made from the types in recommender/api by `make crds`.\n"


def as_yaml() -> str:
    """All definitions, one document each."""
    return _yaml(definitions())


def write_files(folder: Path) -> None:
    """One file a definition, `<plural>.yaml`. Raises `UsageError` where `folder` cannot be written."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, text in files().items():
            (folder / name).write_text(text)
    except OSError as error:
        raise UsageError(f"{folder} cannot be written: {error.strerror}") from error


def files() -> dict[str, str]:
    """The same by the name of each file."""
    return {
        f"{definition['spec']['names']['plural']}.yaml": _HEADING + _yaml([definition]) for definition in definitions()
    }


def _yaml(documents: Sequence[dict[str, Any]]) -> str:
    yaml = YAML()
    yaml.width = 120
    yaml.indent(mapping=2, sequence=4, offset=2)
    # Lists that happen to be equal are written twice, not referred to.
    yaml.representer.ignore_aliases = lambda _data: True
    text = io.StringIO()
    yaml.dump_all(documents, text)
    return text.getvalue()
