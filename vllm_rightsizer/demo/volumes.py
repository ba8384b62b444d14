"""A pod's volumes as folders of this machine, and its mount paths translated to them."""

from __future__ import annotations

import base64
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from vllm_rightsizer.errors import UserError

Raw = dict[str, Any]


def make_volumes(pod: Raw, folder: Path, config_map: Callable[[str], Raw | None]) -> dict[str, Path]:
    """The folder of each volume of `pod`, by the volume's name; new ones are made below `folder`."""
    made: dict[str, Path] = {}
    for volume in pod["spec"].get("volumes") or ():
        name, path = volume["name"], folder / volume["name"]
        if "emptyDir" in volume:
            path.mkdir(parents=True)
        elif "configMap" in volume:
            _write_config_map(volume["configMap"], name, path, config_map)
        elif "hostPath" in volume:
            path = Path(volume["hostPath"]["path"])
            if volume["hostPath"].get("type") == "DirectoryOrCreate":
                path.mkdir(parents=True, exist_ok=True)
            if not path.exists():
                raise UserError(f"volume {name}: {path} is not there")
        else:
            kind = ", ".join(key for key in volume if key != "name")
            raise UserError(f"volume {name}: the demo's kubelet knows emptyDir, configMap and hostPath, not {kind}")
        made[name] = path
    return made


def _write_config_map(source: Raw, volume: str, path: Path, config_map: Callable[[str], Raw | None]) -> None:
    path.mkdir(parents=True)
    found = config_map(source["name"])
    if found is None:
        if source.get("optional"):
            return
        raise UserError(f"volume {volume}: there is no ConfigMap {source['name']}")
    files = {key: text.encode() for key, text in (found.get("data") or {}).items()}
    files |= {key: base64.b64decode(text) for key, text in (found.get("binaryData") or {}).items()}
    if "items" in source:
        missing = [item["key"] for item in source["items"] if item["key"] not in files]
        if missing and not source.get("optional"):
            raise UserError(f"volume {volume}: ConfigMap {source['name']} has no key {', '.join(missing)}")
        files = {item["path"]: files[item["key"]] for item in source["items"] if item["key"] in files}
    for name, content in files.items():
        file = path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content)


def mounts_of(container: Raw, volumes: Mapping[str, Path]) -> dict[str, Path]:
    """The folder of this machine behind each mount path of `container`."""
    mounts: dict[str, Path] = {}
    for mount in container.get("volumeMounts") or ():
        if mount["name"] not in volumes:
            raise UserError(f"container {container['name']}: mounts {mount['name']}, which is no volume of the pod")
        mounts[mount["mountPath"].rstrip("/")] = volumes[mount["name"]] / mount.get("subPath", "")
    return mounts


def translate(text: str, mounts: Mapping[str, Path]) -> str:
    """`text` with the container's paths replaced by this machine's, as there is no mount namespace.

    A path counts only as a whole: `/model` is not found in `/models` or in `/srv/model`.
    """
    if not mounts:
        return text
    # Longest first, so that a mount inside another one wins.
    paths = "|".join(re.escape(path) for path in sorted(mounts, key=len, reverse=True))
    return re.sub(rf"(?<![\w./-])(?:{paths})(?![\w.-])", lambda match: str(mounts[match[0]]), text)
