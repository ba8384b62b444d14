"""`vllm-rightsizer crds`: the custom resource definitions as YAML, printed or as the files of a folder."""

from __future__ import annotations

from pathlib import Path

from recommender.api.crds import definitions
from vllm_rightsizer.errors import UsageError
from vllm_rightsizer.output import yaml_of

_HEADING = "# Made from the types in recommender/api by `make crds`.\n"


def as_yaml() -> str:
    """All definitions, one document each."""
    return yaml_of(definitions())


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
        f"{definition['spec']['names']['plural']}.yaml": _HEADING + yaml_of([definition])
        for definition in definitions()
    }
