"""From what vLLM claims to what a scheduler is asked for: always rounded up, never below what the process needs."""

from __future__ import annotations

from decimal import ROUND_CEILING, Decimal

MEBIBYTE = 1 << 20
GIBIBYTE = 1 << 30

OUTSIDE_BYTES = GIBIBYTE
"""Memory of a GPU that a rank holds beside what it claims: the CUDA context, the libraries' kernels, NCCL's buffers.
vLLM counts from what is free once these are there, and refuses to start where less than its claim is left."""

_SMALLEST_FRACTION = Decimal("0.0001")


def request_bytes(allocation_bytes: int, unit: int) -> int:
    """What to ask of a GPU for a rank that claims `allocation_bytes`, in whole `unit`s."""
    return -(-(allocation_bytes + OUTSIDE_BYTES) // unit) * unit


def fraction(allocation_bytes: int, total_bytes: int) -> str:
    """`--gpu-memory-utilization` of a process that sees `total_bytes`, rounded up at the fourth decimal."""
    exact = Decimal(allocation_bytes) / Decimal(total_bytes)
    return str(exact.quantize(_SMALLEST_FRACTION, ROUND_CEILING))
