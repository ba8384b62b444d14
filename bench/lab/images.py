"""Images without a builder: a few files of this machine as one layer, in the form that `docker save` writes."""

from __future__ import annotations

import hashlib
import io
import json
import platform
import tarfile
from collections.abc import Mapping, Sequence
from pathlib import Path

FOLDERS = ("dev", "etc", "proc", "run", "sys", "tmp", "var")
"""That containers expect to be there."""
_ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}
"""What images call the machines that the kernel names so."""


def image(
    file: Path,
    name: str,
    files: Mapping[str, Path],
    command: Sequence[str],
    links: Mapping[str, str] | None = None,
    texts: Mapping[str, str] | None = None,
) -> Path:
    """Write image `name` to `file`: `files` by their paths in the image, symbolic `links`, and small files of `texts`;
    it runs `command`."""
    layer = _layer(files, links or {}, texts or {})
    identity = f"sha256:{hashlib.sha256(layer).hexdigest()}"
    config = json.dumps(
        {
            "architecture": _ARCHITECTURES.get(platform.machine(), platform.machine()),
            "os": "linux",
            "config": {"Cmd": list(command), "Env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/bin"]},
            "rootfs": {"type": "layers", "diff_ids": [identity]},
        }
    ).encode()
    config_name = f"{hashlib.sha256(config).hexdigest()}.json"
    manifest = [{"Config": config_name, "RepoTags": [name], "Layers": ["layer.tar"]}]
    with tarfile.open(file, "w") as archive:
        for member, content in (
            ("layer.tar", layer),
            (config_name, config),
            ("manifest.json", json.dumps(manifest).encode()),
        ):
            _add(archive, member, content)
    return file


def _layer(files: Mapping[str, Path], links: Mapping[str, str], texts: Mapping[str, str]) -> bytes:
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w") as archive:
        for folder in FOLDERS:
            entry = tarfile.TarInfo(folder)
            entry.type = tarfile.DIRTYPE
            entry.mode = 0o1777 if folder == "tmp" else 0o755
            archive.addfile(entry)
        for path, source in files.items():
            archive.add(source, path.lstrip("/"), filter=_owned_by_root)
        for path, target in links.items():
            entry = tarfile.TarInfo(path.lstrip("/"))
            entry.type, entry.linkname = tarfile.SYMTYPE, target
            archive.addfile(entry)
        for path, text in texts.items():
            _add(archive, path.lstrip("/"), text.encode())
    return made.getvalue()


def _owned_by_root(entry: tarfile.TarInfo) -> tarfile.TarInfo:
    entry.uid = entry.gid = 0
    entry.uname = entry.gname = "root"
    return entry


def _add(archive: tarfile.TarFile, name: str, content: bytes) -> None:
    entry = tarfile.TarInfo(name)
    entry.size = len(content)
    archive.addfile(entry, io.BytesIO(content))
