"""Which of a GPU's MIG profiles would hold an engine. Slices are fixed, so that it is advice: nothing is written. Pure.

Profiles as NVIDIA's MIG User Guide lists them (Supported MIG Profiles): slices of compute, and eighths of the memory
(quarters of an A30 and of an RTX PRO 6000).
"""

from __future__ import annotations

import re
from dataclasses import dataclass

_KEPT = 0.94
"""Of its part of the memory, what a slice has left: 4.75 GiB of an A100's eighth of 4.95, 9.75 of an H100's 9.96."""


@dataclass(frozen=True)
class MigProfile:
    """`memory_bytes` is what the slice has at least; `compute` of `most_compute` slices of compute are its own."""

    name: str
    memory_bytes: int
    compute: int
    most_compute: int


_SEVENTHS = ((1, 1), (2, 2), (3, 4), (7, 8))
"""Slices of compute, and eighths of the memory. Of profiles with the same memory the one of which as many fit on a GPU
as the memory allows, and with the most compute."""
_QUARTERS = ((1, 2), (2, 4), (4, 8))

_NAMES: tuple[tuple[str, tuple[tuple[int, int], ...], tuple[int, ...]], ...] = (
    (r"A30\b", _QUARTERS, (6, 12, 24)),
    (r"A100.*80GB", _SEVENTHS, (10, 20, 40, 80)),
    (r"A100", _SEVENTHS, (5, 10, 20, 40)),
    (r"H100.*94GB|H100-NVL", _SEVENTHS, (12, 24, 47, 94)),
    (r"GH200.*480GB|H100.*96GB", _SEVENTHS, (12, 24, 48, 96)),
    (r"H100", _SEVENTHS, (10, 20, 40, 80)),
    (r"H200", _SEVENTHS, (18, 35, 71, 141)),
    (r"H20\b", _SEVENTHS, (12, 24, 48, 96)),
    (r"B200", _SEVENTHS, (23, 45, 90, 180)),
    (r"B300", _SEVENTHS, (34, 67, 135, 269)),
    (r"RTX-PRO-6000-Blackwell", _QUARTERS, (24, 48, 96)),
)
"""Products by a part of their name, the more particular ones first; and the gigabytes in the names of the profiles."""


def mig_profiles(product: str, memory_bytes: int) -> tuple[MigProfile, ...]:
    """The profiles of a product whose GPU has `memory_bytes`, the smallest first; none where it has no MIG or is not
    known."""
    # A GB200's slices have other names than a B200's, and a GB300's than a B300's.
    if re.search(r"GB[23]00", product):
        return ()
    for pattern, slices, gigabytes in _NAMES:
        if re.search(pattern, product):
            whole = max(compute for compute, _ in slices)
            return tuple(
                MigProfile(f"{compute}g.{size}gb", int(_KEPT * memory_bytes * eighths / 8), compute, whole)
                for (compute, eighths), size in zip(slices, gigabytes, strict=True)
            )
    return ()


def advised_profile(product: str, memory_bytes: int, need_bytes: int, ranks: int) -> MigProfile | None:
    """The smallest slice that holds `need_bytes`; None where only a whole GPU does, or ranks must reach each other:
    slices cannot read one another's memory."""
    if ranks != 1:
        return None
    slices = [one for one in mig_profiles(product, memory_bytes) if one.compute < one.most_compute]
    return next((profile for profile in slices if profile.memory_bytes >= need_bytes), None)
