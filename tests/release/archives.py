"""What is in an image, by its archive in the form of `docker save`."""

from __future__ import annotations

import gzip
import io
import json
import tarfile
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

Raw = dict[str, Any]

MACHINES = {"amd64": 62, "arm64": 183}
"""Of ELF, by the architecture's name."""
_PT_INTERP = 3


class Entry(NamedTuple):
    mode: int
    owner: tuple[int, int]
    content: bytes
    """Of a wheel all of it, of other files what they begin with: an image has half a gigabyte."""


class Archive:
    def __init__(self, path: Path) -> None:
        self.path = path
        with tarfile.open(path) as archive:
            [self._manifest] = json.load(self._member(archive, "manifest.json"))
            self.image: Raw = json.load(self._member(archive, self._manifest["Config"]))
        self.config: Raw = self.image["config"]
        [self.name] = self._manifest["RepoTags"]

    @property
    def compressed_bytes(self) -> int:
        """As a release has it."""
        return len(gzip.compress(self.path.read_bytes(), 6))

    @cached_property
    def files(self) -> dict[str, Entry]:
        """Regular files by their path without a leading slash; our layers delete nothing of those below."""
        found = {}
        with tarfile.open(self.path) as archive:
            for layer in self._manifest["Layers"]:
                with tarfile.open(fileobj=self._member(archive, layer)) as entries:
                    for entry in entries:
                        assert not Path(entry.name).name.startswith(".wh."), entry.name
                        content = entries.extractfile(entry) if entry.isreg() else None
                        if content is not None:
                            path = entry.name.removeprefix("./")
                            length = -1 if path.endswith(".whl") else 4096
                            found[path] = Entry(entry.mode, (entry.uid, entry.gid), content.read(length))
        return found

    @staticmethod
    def _member(archive: tarfile.TarFile, name: str) -> io.BytesIO:
        file = archive.extractfile(name)
        assert file is not None
        return io.BytesIO(file.read())


def machine(content: bytes) -> int | None:
    """For which machine a program or library was made; None of what is neither."""
    return int.from_bytes(content[18:20], "little") if content.startswith(b"\x7fELF") else None


def is_static(program: bytes) -> bool:
    """Whether a program of 64 bits asks for no loader, by its program headers."""
    start, size, count = (int.from_bytes(program[at : at + n], "little") for at, n in ((32, 8), (54, 2), (56, 2)))
    kinds = [int.from_bytes(program[start + size * i :][:4], "little") for i in range(count)]
    return _PT_INTERP not in kinds
