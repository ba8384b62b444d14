"""How the process holds its memory."""

from __future__ import annotations

import gc

_NEW_OBJECTS = 50_000
_LARGEST_KEPT_BYTES = 31 << 20


def keep_freed_memory() -> None:
    """Have glibc keep what is freed, up to 62 MiB: an evaluation takes a few hundred kilobytes several times over.

    At first it gives pieces of 128 KiB and more back to the kernel at once, which hands them out again page by page,
    zeroed: a quarter of a round's time. Once a larger piece was freed, it keeps all up to that size, and twice as much
    at the end of its heap (mallopt(3), M_MMAP_THRESHOLD; 32 MiB is the most). Nothing is written into this one, so that
    it takes no memory. Other C libraries are not impressed.
    """
    bytearray(_LARGEST_KEPT_BYTES)


def collect_seldom() -> None:
    """Have Python look for cycles of garbage once in 50,000 new objects, not in 700.

    A fleet's objects are alive all the time and hardly ever form cycles; looking through them again and again takes a
    twentieth of a round.
    """
    gc.set_threshold(_NEW_OBJECTS)
